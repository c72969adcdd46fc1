"""The hostile set: each picture gives exactly its pixels and what was done, or exactly its reason."""

import numpy as np
import pytest

from pikavae.data.pictures import UnreadablePictureError, decode
from tests.data.hostile import BACKGROUND, CASES, MAX_PIXELS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_picture(case, capfd):
    content = case.make()
    if case.pixels is None:
        with pytest.raises(UnreadablePictureError) as refused:
            decode(content, BACKGROUND, MAX_PIXELS)
        expected, fixed, _ = case.reason.partition("...")
        assert str(refused.value)[: len(expected) if fixed else None] == expected
    else:
        decoded = decode(content, BACKGROUND, MAX_PIXELS)
        assert decoded.changes == case.changes
        assert decoded.image.mode == "RGB"
        assert decoded.image.info == {}
        assert decoded.size == decoded.image.size == case.pixels.shape[1::-1]
        difference = np.abs(np.asarray(decoded.image).astype(int) - case.pixels)
        assert difference.max() <= case.tolerance
    assert capfd.readouterr() == ("", "")


def test_the_hostile_set_is_large_and_its_names_are_unique():
    assert len(CASES) >= 110
    assert len({case.name for case in CASES}) == len(CASES)
