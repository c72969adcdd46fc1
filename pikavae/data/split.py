"""Which side a picture is used on: duplicates on the same one, and each picture where it was before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pikavae.data.duplicates import components

TRAIN, VALIDATION, BRIDGING, LEAKED, DROPPED = range(5)
"""What becomes of a picture. Those of the last three are on neither side: `BRIDGING` ones would join pictures that are
on both, `LEAKED` ones are training pictures that a validation picture repeats, `DROPPED` ones repeat an earlier one."""

UNKNOWN = -1
SIDES = {"train": TRAIN, "validation": VALIDATION}


def split(
    identities: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    remembered: Mapping[bytes, str],
    fraction: float,
) -> np.ndarray:
    """Deal pictures to the two sides.

    A group of duplicates goes where those of it are that are remembered, or else where the hash of one of them decides.
    Where remembered ones are on both sides, they stay, and new pictures that would join them are set aside. Remembered
    pictures that are found to be duplicates across the sides leave the training side. The order of the pictures does
    not matter, and adding pictures moves none.

    Args:
        identities: (N, 32) uint8, SHA-256 hashes.
        first: (P,) indices of duplicates, enough to connect each group.
        second: (P,) their counterparts.
        remembered: `train` or `validation` by identity.
        fraction: the share of the pictures that is to be held out.

    Returns:
        (N,) int8: `TRAIN`, `VALIDATION`, `BRIDGING` or `LEAKED`.
    """
    count = len(identities)
    sides = np.array([SIDES.get(remembered.get(identity.tobytes(), ""), UNKNOWN) for identity in identities], np.int8)
    new = sides == UNKNOWN
    joined = new[first] & new[second]
    parts = components(count, first[joined], second[joined])
    touches = {side: _touches(parts, sides == side, new, first, second) for side in SIDES.values()}
    free = new & ~touches[TRAIN] & ~touches[VALIDATION]
    across = (sides[first] + sides[second] == TRAIN + VALIDATION) & ~new[first] & ~new[second]
    leaked = np.concatenate([first[across], second[across]])
    sides[new & touches[TRAIN]] = TRAIN
    sides[new & touches[VALIDATION]] = VALIDATION
    sides[new & touches[TRAIN] & touches[VALIDATION]] = BRIDGING
    sides[leaked[sides[leaked] == TRAIN]] = LEAKED
    in_order = _order(identities)
    in_order = in_order[free[in_order]]
    sides[in_order] = _by_hash(identities[in_order], parts[in_order], fraction)
    _leave_neither_empty(sides, parts, in_order)
    return sides


def separate(held_out: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sides where the validation pictures come from a source of their own.

    Args:
        held_out: (N,) bool: from that source.
        first: (P,) indices of duplicates.
        second: (P,) their counterparts.

    Returns:
        (N,) int8: `VALIDATION`, `LEAKED` for the others that are in a group with a validation picture, `TRAIN` else.
    """
    groups = components(len(held_out), first, second)
    repeated = np.isin(groups, groups[held_out])
    return np.where(held_out, VALIDATION, np.where(repeated, LEAKED, TRAIN)).astype(np.int8)


def keep_first(groups: np.ndarray, order: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Which pictures are the first used ones of their group, in this order: (N,) bool."""
    order = order[used[order]]
    kept = np.zeros(len(groups), bool)
    kept[order[np.unique(groups[order], return_index=True)[1]]] = True
    return kept


def _touches(
    parts: np.ndarray, known: np.ndarray, new: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Whether a new picture's part has a link to one of the known ones: (N,) bool."""
    ends = np.concatenate([first[known[second] & new[first]], second[known[first] & new[second]]])
    return np.isin(parts, parts[ends]) & new


def _order(identities: np.ndarray) -> np.ndarray:
    """Indices that sort identities: (N,) int64."""
    return np.asarray(np.lexsort(_words(identities).T[::-1]))


def _words(identities: np.ndarray) -> np.ndarray:
    """Identities as (N, 4) numbers of 64 bits that compare as their bytes do."""
    return np.ascontiguousarray(identities).view(">u8")


def _by_hash(identities: np.ndarray, parts: np.ndarray, fraction: float) -> np.ndarray:
    """The sides of pictures in the order of their identities: in each part, the first one's hash decides."""
    _, leaders, part = np.unique(parts, return_index=True, return_inverse=True)
    held_out = _words(identities)[leaders, 0] / 2.0**64 < fraction
    sides: np.ndarray = np.where(held_out, VALIDATION, TRAIN).astype(np.int8)
    return sides[part]


def _leave_neither_empty(sides: np.ndarray, parts: np.ndarray, in_order: np.ndarray) -> None:
    """Where all pictures fell on one side, move the first or last free part to the other, if that leaves any."""
    for empty, index in ((VALIDATION, 0), (TRAIN, -1)):
        if len(in_order) and not np.any(sides == empty):
            moved = parts == parts[in_order[index]]
            if np.any(sides[~moved] == TRAIN + VALIDATION - empty):
                sides[moved] = empty
