"""Which side of the split a picture is on: near duplicates on one side, and each picture where it was before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pikavae.data.duplicates import components

TRAIN, VALIDATION, BRIDGING, LEAKED, DROPPED = range(5)
"""What becomes of a picture. The last three are used on neither side: a `BRIDGING` one is near pictures of both sides,
a `LEAKED` one is a training picture that is near a validation picture, a `DROPPED` one is near an earlier picture."""
CODES = {"train": TRAIN, "validation": VALIDATION}
UNKNOWN = -1


def side_of(identity: bytes, fraction: float) -> str:
    """The side that a picture's hash alone decides.

    Args:
        identity: the SHA-256 of the picture, 32 bytes that are as good as random.
        fraction: the share of all pictures that is held out for validation, 0 to 1.
    """
    return "validation" if int.from_bytes(identity[:8], "big") / 2**64 < fraction else "train"


def kinds_of(identities: np.ndarray, remembered: Mapping[bytes, str]) -> np.ndarray:
    """0 for new pictures, 1 and 2 for those remembered in train and validation, (N,) uint8: `kinds` for `near_pairs`.

    Args:
        identities: (N, 32) uint8.
        remembered: `train` or `validation` by identity.
    """
    return (_remembered_codes(identities, remembered) - UNKNOWN).astype(np.uint8)


def split(
    identities: np.ndarray,
    groups: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    remembered: Mapping[bytes, str],
    fraction: float,
) -> np.ndarray:
    """Deal pictures to the sides by content, whatever their order; no remembered picture changes sides.

    A group goes where its remembered pictures are, or, if it has none, where one of its identities belongs. In a group
    with remembered pictures on both sides, new pictures that are connected among themselves join the side that they
    touch; if they touch both, they are `BRIDGING`. Of remembered pictures that are linked across the sides, the one in
    train is `LEAKED`. A side that would be empty is given a group without remembered pictures, if there are two groups.

    Args:
        identities: (N, 32) uint8, the SHA-256 of each picture; equal ones always share a side.
        groups: (N,) int64, equal for pictures that belong together, linked ones at least.
        first: (P,) indices of near duplicates; with the `kinds` of `kinds_of`, the links of `near_pairs` are enough.
        second: (P,) what each of them is linked with.
        remembered: `train` or `validation` by identity.
        fraction: the share of the groups that is held out for validation.

    Returns:
        (N,) int8: `TRAIN`, `VALIDATION`, `BRIDGING` or `LEAKED`.
    """
    distinct, number = _distinct(identities)
    count = len(distinct)
    first, second = number[first], number[second]
    _, group = np.unique(groups, return_inverse=True)
    nodes, others = np.concatenate([number, first]), np.concatenate([group + count, second])
    group = components(count + len(identities), nodes, others)[:count]  # named by the one that decides for it
    known = _remembered_codes(distinct, remembered)
    is_new = known == UNKNOWN
    in_train, in_validation = _any(group, known == TRAIN), _any(group, known == VALIDATION)

    sides = known.copy()
    sides[is_new & in_train] = TRAIN
    sides[is_new & in_validation] = VALIDATION
    torn = is_new & in_train & in_validation
    sides[torn] = _sides_of_new(known, first, second)[torn]
    free = ~in_train & ~in_validation
    keys, key_of = np.unique(group[free], return_inverse=True)
    dealt = [CODES[side_of(identity.tobytes(), fraction)] for identity in distinct[keys]]
    sides[free] = np.array(dealt, np.int8)[key_of]
    _fill_empty_side(sides, distinct, group, free)
    sides[_leaked(known == TRAIN, known == VALIDATION, first, second)] = LEAKED
    return np.asarray(sides[number])


def separate(identities: np.ndarray, held_out: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sides where validation pictures have a source of their own: training pictures that are near one are `LEAKED`.

    Args:
        identities: (N, 32) uint8, of both sources.
        held_out: (N,) bool, true for the pictures of the validation source.
        first: (P,) indices of near duplicates; with `held_out` as `kinds`, the links of `near_pairs` are enough.
        second: (P,) what each of them is linked with. Only direct links count.

    Returns:
        (N,) int8: `TRAIN`, `VALIDATION` or `LEAKED`.
    """
    distinct, number = _distinct(identities)
    in_validation = np.zeros(len(distinct), np.bool_)
    in_validation[number[held_out]] = True
    leaked = _leaked(~in_validation, in_validation, number[first], number[second]) | in_validation
    return np.where(held_out, VALIDATION, np.where(leaked[number], LEAKED, TRAIN)).astype(np.int8)


def keep_first(groups: np.ndarray, order: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Which picture of each group is the first on its side; the others repeat it.

    Args:
        groups: (N,) int64, equal for pictures that repeat each other.
        order: (N,) indices of the pictures from the first to the last, for instance by name.
        sides: (N,) what the pictures are used for; each group has a first one for each.

    Returns:
        (N,) bool.
    """
    keys = np.stack([groups, sides])[:, order]
    _, earliest = np.unique(keys, axis=1, return_index=True)
    first = np.zeros(len(groups), np.bool_)
    first[order[earliest]] = True
    return first


def identity_groups(identities: np.ndarray) -> np.ndarray:
    """Groups of equal pictures: (N,) int64, equal where the (N, 32) uint8 identities are."""
    return _distinct(identities)[1]


def _distinct(identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct identities, (n, 32) uint8, and the number of each picture's, (N,) int64.

    They are ordered by their last bytes. The first of a group decides its side, by its first bytes: were those ordered
    by too, a group of ten would be held out with a probability of 65 % where the fraction is 10 %.
    """
    rows = np.ascontiguousarray(identities[:, ::-1]).view("V32").ravel()
    distinct, number = np.unique(rows, return_inverse=True)
    return distinct.view(np.uint8).reshape(-1, 32)[:, ::-1], number


def _remembered_codes(identities: np.ndarray, remembered: Mapping[bytes, str]) -> np.ndarray:
    """`TRAIN`, `VALIDATION` or `UNKNOWN` for each identity, (n,) int8."""
    sides = (remembered.get(identity.tobytes()) for identity in identities)
    return np.array([UNKNOWN if side is None else CODES[side] for side in sides], np.int8)


def _any(group: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """For each item, whether any of its group is chosen: `group` (n,) indices under n, `chosen` (n,) bool."""
    found = np.zeros(len(group), np.bool_)
    found[group[chosen]] = True
    return np.asarray(found[group])


def _sides_of_new(known: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The side of the remembered pictures that each new one touches, itself or through other new ones.

    Returns:
        (n,) int8: `BRIDGING` where it touches both sides, and where its group is on both for other reasons than links.
    """
    is_new = known == UNKNOWN
    among_new = is_new[first] & is_new[second]
    part = components(len(known), first[among_new], second[among_new])
    near, far = np.concatenate([first, second]), np.concatenate([second, first])
    touches = []
    for side in (TRAIN, VALIDATION):
        touching = np.zeros(len(known), np.bool_)
        touching[near[is_new[near] & (known[far] == side)]] = True
        touches.append(_any(part, touching))
    train, validation = touches
    return np.select([train & ~validation, validation & ~train], [TRAIN, VALIDATION], BRIDGING).astype(np.int8)


def _leaked(in_train: np.ndarray, in_validation: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which training pictures are linked with a validation picture, (n,) bool."""
    leaked = np.zeros(len(in_train), np.bool_)
    leaked[first[in_train[first] & in_validation[second]]] = True
    leaked[second[in_train[second] & in_validation[first]]] = True
    return leaked


def _fill_empty_side(sides: np.ndarray, identities: np.ndarray, group: np.ndarray, free: np.ndarray) -> None:
    """Move a group without remembered pictures to a side that has none: the one that the next fraction would move."""
    keys = sorted(np.unique(group[free]).tolist(), key=lambda key: identities[key].tobytes())
    if not keys or len(np.unique(group)) == 1:
        return
    if not np.any(sides == VALIDATION):
        sides[group == keys[0]] = VALIDATION
    elif not np.any(sides == TRAIN):
        sides[group == keys[-1]] = TRAIN
