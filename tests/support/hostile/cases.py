"""All cases, kind after kind."""

from tests.support.hostile.appearance import orientation_cases, transparency_cases
from tests.support.hostile.formats import container_cases, depth_cases, mode_cases, plain_cases
from tests.support.hostile.profiles import profile_cases
from tests.support.hostile.refused import bomb_cases, refused_cases

CASES = [
    case
    for cases in (
        plain_cases,
        mode_cases,
        depth_cases,
        transparency_cases,
        orientation_cases,
        profile_cases,
        container_cases,
        refused_cases,
        bomb_cases,
    )
    for case in cases()
]
