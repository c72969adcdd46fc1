"""Deals pictures to the sides: near duplicates stay on one side, and each picture stays where it was before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pikavae.data.side import Side
from pikavae.data.split.duplicates import components

TRAIN, VALIDATION, BRIDGING, LEAKED, DROPPED = range(5)
"""What becomes of a picture. The last three are on neither side: a `BRIDGING` picture is near pictures of both sides,
a `LEAKED` one is a training picture near a validation picture, a `DROPPED` one is near an earlier picture."""
SIDES = {TRAIN: Side.TRAIN, VALIDATION: Side.VALIDATION}
CODES = {side: code for code, side in SIDES.items()}
UNKNOWN = -1


def side_of(identity: bytes, fraction: float) -> Side:
    """Return the side that a picture's hash alone decides.

    Args:
        identity: the SHA-256 of the picture, 32 bytes that are practically random.
        fraction: the share of all pictures that is held out for validation, 0 to 1.
    """
    return Side.VALIDATION if int.from_bytes(identity[:8], "big") / 2**64 < fraction else Side.TRAIN


def kinds_of(identities: np.ndarray, remembered: Mapping[bytes, Side]) -> np.ndarray:
    """Return the `kinds` for `near_pairs`, (N,) uint8: 0 for new pictures, 1 for remembered train, 2 for validation.

    Args:
        identities: (N, 32) uint8.
        remembered: the side by identity.
    """
    return (_remembered_codes(identities, remembered) - UNKNOWN).astype(np.uint8)


def split(
    identities: np.ndarray,
    groups: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    remembered: Mapping[bytes, Side],
    fraction: float,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Deal pictures to the sides by content, in any order; no remembered picture changes sides.

    A group goes where its remembered pictures are, or, if it has none, where one of its identities belongs. In a group
    with remembered pictures on both sides, new pictures that are connected among themselves join the side that they
    touch; if they touch both, they are `BRIDGING`. If remembered pictures are linked across the sides, the one in train
    is `LEAKED`. A side that would be empty gets a group without remembered pictures, if there are two groups. If large
    groups bring the share of the new pictures far from the fraction, whole groups change sides: see `_approach`.

    Args:
        identities: (N, 32) uint8, the SHA-256 of each picture; equal ones always share a side.
        groups: (N,) int64, equal for pictures that belong together, at least for linked ones.
        first: (P,) indices of near duplicates; with the `kinds` of `kinds_of`, the links of `near_pairs` are enough.
        second: (P,) what each of them is linked with.
        remembered: the side by identity.
        fraction: the share of the pictures to hold out for validation, as nearly as whole groups allow.
        weights: (N,) float64, each picture's weight in that share; by default 1.

    Returns:
        (N,) int8: `TRAIN`, `VALIDATION`, `BRIDGING` or `LEAKED`.
    """
    distinct, number = _distinct(identities)
    count = len(distinct)
    first, second = number[first], number[second]
    _, group = np.unique(groups, return_inverse=True)
    nodes, others = np.concatenate([number, first]), np.concatenate([group + count, second])
    group = components(count + len(identities), nodes, others)[:count]  # each group is named by its deciding identity
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
    _approach(sides, distinct, group, free, fraction, np.bincount(number, weights, minlength=count))
    sides[_leaked(known == TRAIN, known == VALIDATION, first, second)] = LEAKED
    return np.asarray(sides[number])


def separate(identities: np.ndarray, held_out: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the sides if validation has its own source: training pictures near a validation picture are `LEAKED`.

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
    """Return True for the first picture of each group on its side; the others repeat it.

    Args:
        groups: (N,) int64, equal for pictures that repeat each other.
        order: (N,) indices of the pictures from the first to the last, for instance by name.
        sides: (N,) what the pictures are used for; each group has a first picture for each use.

    Returns:
        (N,) bool.
    """
    keys = np.stack([groups, sides])[:, order]
    _, earliest = np.unique(keys, axis=1, return_index=True)
    first = np.zeros(len(groups), np.bool_)
    first[order[earliest]] = True
    return first


def identity_groups(identities: np.ndarray) -> np.ndarray:
    """Return the groups of equal pictures, (N,) int64, from their (N, 32) uint8 identities."""
    return _distinct(identities)[1]


def _distinct(identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct identities, (n, 32) uint8, and the index of each picture's identity, (N,) int64.

    They are sorted by their last bytes, because the first of a group decides its side by its first bytes. If they were
    sorted by the first bytes too, a group of ten would be held out with a probability of 65 % at a fraction of 10 %.
    """
    rows = np.ascontiguousarray(identities[:, ::-1]).view("V32").ravel()
    distinct, number = np.unique(rows, return_inverse=True)
    return distinct.view(np.uint8).reshape(-1, 32)[:, ::-1], number


def _remembered_codes(identities: np.ndarray, remembered: Mapping[bytes, Side]) -> np.ndarray:
    """Return `TRAIN`, `VALIDATION` or `UNKNOWN` for each identity, (n,) int8."""
    sides = (remembered.get(identity.tobytes()) for identity in identities)
    return np.array([UNKNOWN if side is None else CODES[side] for side in sides], np.int8)


def _any(group: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return True for each item if any of its group is chosen: `group` (n,) indices under n, `chosen` (n,) bool."""
    found = np.zeros(len(group), np.bool_)
    found[group[chosen]] = True
    return np.asarray(found[group])


def _sides_of_new(known: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the side of the remembered pictures that each new picture touches, directly or through other new ones.

    Returns:
        (n,) int8: `BRIDGING` if it touches both sides, or if its group is on both for other reasons than links.
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
    """Return True for training pictures that are linked with a validation picture, (n,) bool."""
    leaked = np.zeros(len(in_train), np.bool_)
    leaked[first[in_train[first] & in_validation[second]]] = True
    leaked[second[in_train[second] & in_validation[first]]] = True
    return leaked


def _fill_empty_side(sides: np.ndarray, identities: np.ndarray, group: np.ndarray, free: np.ndarray) -> None:
    """Move a group without remembered pictures to an empty side: the one that the next fraction would move."""
    keys = sorted(np.unique(group[free]).tolist(), key=lambda key: identities[key].tobytes())
    if not keys or len(np.unique(group)) == 1:
        return
    if not np.any(sides == VALIDATION):
        sides[group == keys[0]] = VALIDATION
    elif not np.any(sides == TRAIN):
        sides[group == keys[-1]] = TRAIN


def _approach(
    sides: np.ndarray, identities: np.ndarray, group: np.ndarray, free: np.ndarray, fraction: float, weights: np.ndarray
) -> None:
    """Bring the held-out share of free groups nearer to the fraction, if it is further off than chance explains.

    Large groups leave validation first, then small ones join it in the order of their hashes, so the same pictures get
    the same sides. Nothing moves if the share is within two standard deviations of single pictures.
    """
    keys, key_of = np.unique(group[free], return_inverse=True)
    sizes = np.bincount(key_of, weights[free], minlength=len(keys))
    total = float(sizes.sum())
    target, tolerance = fraction * total, 2.0 * np.sqrt(fraction * (1.0 - fraction) * total)
    held_out = sides[keys] == VALIDATION
    by_hash = sorted(range(len(keys)), key=lambda i: identities[keys[i]].tobytes())
    if len(keys) < 2 or abs(sizes[held_out].sum() - target) <= max(tolerance, 1.0):
        return
    excess = float(sizes[held_out].sum()) - target
    for i in sorted(by_hash, key=lambda i: -sizes[i]):  # stable: the largest first, equal ones by hash
        if held_out[i] and 0 < sizes[i] < 2.0 * excess:
            held_out[i], excess = False, excess - sizes[i]
    for i in by_hash:
        if not held_out[i] and sizes[i] <= -excess:
            held_out[i], excess = True, excess + sizes[i]
    if not held_out.any():
        held_out[min(by_hash, key=lambda i: abs(sizes[i] - target))] = True
    if not held_out.all():
        sides[free] = np.where(held_out, VALIDATION, TRAIN)[key_of]
