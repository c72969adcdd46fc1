"""The split: rules on small cases drawn by hand, a plain reading of them on random graphs, and sets that grow."""

import hashlib

import numpy as np
import pytest

from pikavae.data.side import Side
from pikavae.data.split.duplicates import components, equal_pairs, near_pairs
from pikavae.data.split.sides import (
    BRIDGING,
    CODES,
    LEAKED,
    TRAIN,
    VALIDATION,
    identity_groups,
    keep_first,
    kinds_of,
    separate,
    side_of,
    split,
)

T, V, B, L = Side.TRAIN, Side.VALIDATION, "bridging", "leaked"
NAMES = {TRAIN: T, VALIDATION: V, BRIDGING: B, LEAKED: L}


def identity(share, tail=0):
    """A hash that is held out by fractions above `share`."""
    return int(share * 2**64).to_bytes(8, "big") + bytes([tail]) * 24


def sides_of(identities, pairs, remembered, fraction=0.5, groups=None):
    """`split` in names: identities as bytes, links as pairs."""
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    rows = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, 32)
    groups = components(len(rows), first, second) if groups is None else np.array(groups)
    return [NAMES[code] for code in split(rows, groups, first, second, remembered, fraction).tolist()]


def case(pairs, old, shares):
    """Sides of pictures with these hashes, of which those in `old` are remembered by index."""
    identities = [identity(share, tail) for tail, share in enumerate(shares)]  # the first of a group decides
    return sides_of(identities, pairs, {identities[i]: side for i, side in old.items()})


@pytest.mark.parametrize(
    ("share", "fraction", "side"),
    [(0.0, 0.0, T), (0.0, 0.01, V), (0.25, 0.25, T), (0.24, 0.25, V), (0.999, 1.0, V)],
)
def test_a_hash_decides_a_side(share, fraction, side):
    assert side_of(identity(share), fraction) == side


def test_about_the_fraction_is_held_out():
    sides = [side_of(hashlib.sha256(bytes([i % 256, i // 256])).digest(), 0.1) for i in range(4000)]
    assert 340 < sides.count(V) < 460


@pytest.mark.parametrize("size", [1, 2, 10])
def test_groups_of_any_size_are_held_out_alike(size):
    rows = [hashlib.sha256(f"{size}|{i}".encode()).digest() for i in range(2000 * size)]
    sides = sides_of(rows, [], {}, 0.1, groups=np.arange(2000 * size) // size)
    assert 0.08 < sides.count(V) / len(sides) < 0.12


@pytest.mark.parametrize(
    ("pairs", "old", "shares", "expected"),
    [
        pytest.param([], {}, [0.1, 0.9], [V, T], id="alone, by hash"),
        pytest.param([(1, 2)], {}, [0.9, 0.1, 0.8], [T, V, V], id="a group, by one of its hashes"),
        pytest.param([(0, 1), (1, 2)], {}, [0.2, 0.9, 0.6], [V, V, V], id="a chain that is all there is"),
        pytest.param([(0, 1)], {1: T}, [0.1, 0.2, 0.1], [T, T, V], id="where its remembered picture is"),
        pytest.param([(0, 1), (1, 2)], {0: V}, [0.9, 0.9, 0.8, 0.9], [V, V, V, T], id="through a new picture"),
        pytest.param([(0, 1), (1, 2)], {0: T, 2: V}, [0.1, 0.1, 0.1], [T, B, V], id="between both sides"),
        pytest.param(
            [(0, 1), (1, 2), (2, 3)], {0: T, 3: V}, [0.1] * 4, [T, B, B, V], id="between both sides, two together"
        ),
        pytest.param(
            [(0, 1), (1, 2), (0, 3), (2, 4), (4, 5)],
            {0: T, 2: V},
            [0.1] * 6,
            [T, B, V, T, V, V],
            id="other new pictures of a torn group",
        ),
        pytest.param([(0, 1)], {0: T, 1: V}, [0.1, 0.1, 0.9], [L, V, T], id="linked across"),
        pytest.param([(0, 1), (0, 2)], {0: T, 1: V}, [0.1, 0.1, 0.1, 0.9], [L, V, T, T], id="new, by a leaked one"),
        pytest.param([(0, 1), (1, 2)], {0: T, 1: T, 2: V}, [0.1] * 3 + [0.9], [T, L, V, T], id="leaked, its kin not"),
        pytest.param([], {}, [0.7, 0.6, 0.8], [T, V, T], id="no validation: the smallest"),
        pytest.param([], {}, [0.1, 0.3, 0.2], [V, T, V], id="no training: the largest"),
        pytest.param([(0, 1)], {}, [0.6, 0.9, 0.7], [V, V, T], id="no validation: the whole group"),
        pytest.param([(0, 1)], {}, [0.7, 0.6], [T, T], id="one group fills one side"),
        pytest.param([], {0: T}, [0.1, 0.9], [T, V], id="no validation: never a remembered one"),
        pytest.param([], {0: T, 1: T}, [0.1, 0.9], [T, T], id="all remembered"),
        pytest.param([], {}, [], [], id="nothing"),
    ],
)
def test_sides(pairs, old, shares, expected):
    assert case(pairs, old, shares) == expected


def test_equal_pictures_share_a_side_without_links():
    a, b = identity(0.9, 2), identity(0.1, 1)
    assert sides_of([a, b, a], [], {}) == [T, V, T]
    assert sides_of([b, a, b, a], [], {a: V}) == [T, V, T, V]  # b fills the empty side
    assert sides_of([a, b, a], [(1, 2)], {}, groups=[0, 1, 1]) == [V, V, V]


def test_groups_without_links_hold_together():
    identities = [identity(0.9, i) for i in range(4)]
    assert sides_of(identities, [], {identities[2]: V}, groups=[0, 7, 7, 0]) == [T, V, V, T]
    both = {identities[1]: T, identities[2]: V}
    assert sides_of(identities, [], both, groups=[7, 7, 7, 0]) == [B, T, V, T]


def test_a_side_that_is_none_is_refused():
    with pytest.raises(KeyError):
        sides_of([identity(0.1)], [], {identity(0.1): "test"})


def grown(seed, count):
    """Pictures on a line of brightness, so that neighbours are near duplicates; some are equal."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 250, count)
    rows = [hashlib.sha256(f"{seed}|{i}".encode()).digest() for i in range(count)]
    for i in range(count // 8):
        levels[i] = levels[-1 - i]
        rows[i] = rows[-1 - i] if i % 2 else rows[i]  # some are equal, some only look equal
    return levels, np.frombuffer(b"".join(rows), np.uint8).reshape(count, 32)


def linked(levels):
    """All pairs of near duplicates."""
    return [(i, j) for i in range(len(levels)) for j in range(i) if abs(int(levels[i]) - int(levels[j])) <= 8]


def search(start, neighbours, allowed):
    """All that is connected with `start` by way of what is allowed."""
    found, queue = {start}, [start]
    while queue:
        for other in neighbours[queue.pop()] & allowed - found:
            found.add(other)
            queue.append(other)
    return found


def plain_split(identities, pairs, remembered, fraction):
    """The rules as they are told, one picture after another, without any filling of an empty side."""
    keys = [row.tobytes() for row in identities]
    neighbours = {key: set() for key in keys}
    for i, j in pairs:
        neighbours[keys[i]].add(keys[j])
        neighbours[keys[j]].add(keys[i])
    everything, new = set(keys), set(keys) - set(remembered)
    sides = {}
    for key in everything:
        group = search(key, neighbours, everything)
        known = {remembered[other] for other in group - new}
        if key in new:
            if len(known) == 2:
                part = search(key, neighbours, new)
                known = {remembered[other] for member in part for other in neighbours[member] - new}
            sides[key] = (
                B
                if len(known) == 2
                else known.pop()
                if known
                else side_of(min(group, key=lambda key: key[::-1]), fraction)
            )
        else:
            across = V in {remembered.get(other) for other in neighbours[key]}
            sides[key] = L if remembered[key] == T and across else remembered[key]
    return [sides[key] for key in keys]


def groups_of(identities, pairs):
    """The groups of linked and of equal pictures, one number for each picture."""
    same = [(i, j) for i in range(len(identities)) for j in range(i) if (identities[i] == identities[j]).all()]
    first, second = np.array([*pairs, *same], np.int64).reshape(-1, 2).T
    return components(len(identities), first, second).tolist()


def with_both_sides(identities, pairs, remembered, sides):
    """The same with one group of new pictures moved to a side that would have none: the first by hash, or the last."""
    keys = [row.tobytes() for row in identities]
    groups = groups_of(identities, pairs)
    members = {group: [i for i, other in enumerate(groups) if other == group] for group in groups}
    deciding = {group: min((keys[i] for i in those), key=lambda key: key[::-1]) for group, those in members.items()}
    new = [group for group, those in members.items() if not any(keys[i] in remembered for i in those)]
    held = {remembered.get(key, side) for key, side in zip(keys, sides, strict=True)}
    if not new or len(members) == 1 or {T, V} <= held:
        return sides
    side, first = (T, max) if V in held else (V, min)
    moved = first(new, key=deciding.get)
    return [side if group == moved else before for group, before in zip(groups, sides, strict=True)]


def links_of(levels, identities, remembered):
    """The links that `near_pairs` gives for pictures of these levels."""
    thumbnails = np.broadcast_to(levels[:, None, None, None], (len(levels), 8, 8, 3)).astype(np.uint8)
    kinds = kinds_of(identities, remembered)
    return near_pairs(np.zeros(len(levels), np.uint64), thumbnails, 4, kinds)


def free_share(identities, pairs, remembered, sides):
    """The pictures whose groups have no remembered one, and the share of them that is held out."""
    groups = groups_of(identities, pairs)
    known = {group for group, row in zip(groups, identities, strict=True) if row.tobytes() in remembered}
    free = [i for i, group in enumerate(groups) if group not in known]
    return free, sum(sides[i] == V for i in free) / max(1, len(free))


@pytest.mark.parametrize(
    ("sizes", "least", "most"),
    [
        ([27] + [1] * 33, 6, 6),
        ([40, 20] + [1] * 40, 10, 10),
        ([27, 20, 13], 13, 13),
        ([30, 30], 30, 30),
        ([60] + [5] * 20, 15, 16),
        ([50] * 20, 50, 100),
        ([3] * 100, 15, 45),
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_whole_groups_move_to_come_near_the_share(sizes, least, most, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = [hashlib.sha256(f"{seed}|{i}".encode()).digest() for i in range(len(groups))]
    sides = sides_of(rows, [], {}, 0.1, groups=groups)
    assert all(len({side for side, group in zip(sides, groups, strict=True) if group == one}) == 1 for one in groups)
    plain = [side_of(min(rows[i][::-1] for i in np.flatnonzero(groups == group))[::-1], 0.1) for group in groups]
    target = 0.1 * len(rows)
    if abs(plain.count(V) - target) > 2 * (0.9 * target) ** 0.5:
        assert least <= sides.count(V) <= most
    assert abs(sides.count(V) - target) <= max(abs(plain.count(V) - target), sizes[-1])
    order = np.random.default_rng(seed).permutation(len(rows))
    assert sides_of([rows[i] for i in order], [], {}, 0.1, groups=groups[order]) == [sides[i] for i in order]


def test_a_group_of_duplicates_that_are_dropped_counts_once():
    rows = np.stack([np.frombuffer(hashlib.sha256(bytes([i])).digest(), np.uint8) for i in range(60)])
    groups = np.repeat(np.arange(34), [27] + [1] * 33)
    none = np.array([], np.int64)
    weights = np.where(groups == 0, 1 / 27, 1.0)
    plain = [CODES[side_of(min(r[::-1].tobytes() for r in rows[groups == g])[::-1], 0.1)] for g in groups]
    assert split(rows, groups, none, none, {}, 0.1, weights).tolist() == plain


@pytest.mark.parametrize("fraction", [0.02, 0.4, 0.97])
@pytest.mark.parametrize("seed", range(30))
def test_the_split_follows_the_rules(seed, fraction):
    """Sides are remembered at random, torn groups and all."""
    generator = np.random.default_rng(seed)
    levels, identities = grown(seed, int(generator.integers(20, 50)))
    chosen = generator.random(len(levels)) < generator.choice([0.0, 0.05, 0.2, 0.5])
    remembered = {row.tobytes(): generator.choice([T, V]).item() for row in identities[chosen]}
    pairs = linked(levels)
    expected = plain_split(identities, pairs, remembered, fraction)
    expected = with_both_sides(identities, pairs, remembered, expected)
    found = sides_of(identities, pairs, remembered, fraction)
    if found != expected:  # only to come nearer to the share, and among new groups alone
        (free, before), (_, after) = (free_share(identities, pairs, remembered, sides) for sides in (expected, found))
        assert abs(before - fraction) > 2 * (fraction * (1 - fraction) / len(free)) ** 0.5
        assert abs(after - fraction) < abs(before - fraction)
        assert [found[i] for i in range(len(found)) if i not in free] == [
            expected[i] for i in range(len(found)) if i not in free
        ]
    few = links_of(levels, identities, remembered)
    assert sides_of(identities, np.stack(few[:2], axis=1), remembered, fraction) == found


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_the_pictures_does_not_matter(seed):
    generator = np.random.default_rng(seed)
    levels, identities = grown(seed, 40)
    remembered = {row.tobytes(): generator.choice([T, V]).item() for row in identities[:: seed + 2]}
    order = generator.permutation(40)
    plain = sides_of(identities, linked(levels), remembered)
    assert sides_of(identities[order], linked(levels[order]), remembered) == [plain[i] for i in order]


@pytest.mark.parametrize("fraction", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(12))
def test_no_picture_ever_changes_sides(seed, fraction):
    """Pictures come and go; in each state both sides hold and no near duplicates are on both."""
    generator = np.random.default_rng(seed)
    levels, identities = grown(seed, 60)
    remembered = {}
    present = np.zeros(60, np.bool_)
    seen = set()
    for _ in range(12):
        present |= generator.random(60) < 0.15
        present &= generator.random(60) > 0.05
        rows, shown = identities[present], levels[present]
        if len(rows) == 0:
            continue
        pairs = np.stack(links_of(shown, rows, remembered)[:2], axis=1)
        sides = sides_of(rows, pairs, remembered, fraction)
        seen |= set(sides)
        for row, side in zip(rows, sides, strict=True):
            before = remembered.get(row.tobytes(), side)
            assert side == before or (side, before) == (L, T)
        assert not any({sides[i], sides[j]} == {T, V} for i, j in linked(shown))
        now = {row.tobytes(): side for row, side in zip(rows, sides, strict=True) if side in (T, V)}
        remembered |= {key: side for key, side in now.items() if key not in remembered}
    assert {T, V} <= seen


def test_sequences_of_sets_meet_bridging_and_leaked_pictures():
    """Guards the test above: what it promises is tried."""
    ends, between = [identity(0.9, 1), identity(0.1, 2)], identity(0.5, 3)
    remembered = dict(zip(ends, sides_of(ends, [], {}), strict=True))
    assert sides_of([*ends, between], [(0, 2), (1, 2)], remembered) == [T, V, B]
    assert sides_of([ends[0], between], [(0, 1)], remembered) == [T, T]
    remembered[between] = T
    assert sides_of([*ends, between], [(0, 2), (1, 2)], remembered) == [T, V, L]


def test_kinds_are_those_of_what_is_remembered():
    identities = np.frombuffer(b"".join(identity(0.1, i) for i in range(3)), np.uint8).reshape(3, 32)
    kinds = kinds_of(identities, {identity(0.1, 1): T, identity(0.1, 2): V})
    assert len(set(kinds.tolist())) == 3
    assert kinds.dtype == np.uint8


def test_training_pictures_near_a_validation_source_are_leaked():
    names = [b"near", b"equal", b"far", b"near the near one", b"held out", b"equal", b"held out too"]
    rows = np.stack([np.frombuffer(hashlib.sha256(name).digest(), np.uint8) for name in names])
    held_out = np.array([False] * 4 + [True] * 3)
    first, second = np.array([0, 0, 4]), np.array([4, 3, 6])
    sides = separate(rows, held_out, first, second)
    assert sides.tolist() == [LEAKED, LEAKED, TRAIN, TRAIN, VALIDATION, VALIDATION, VALIDATION]
    swapped = separate(rows[::-1], held_out[::-1], 6 - second, 6 - first)
    assert swapped.tolist() == sides[::-1].tolist()


@pytest.mark.parametrize("seed", range(10))
def test_few_links_separate_sources_as_well_as_all_pairs(seed):
    levels, identities = grown(seed, 50)
    held_out = np.random.default_rng(seed).random(50) < 0.2
    thumbnails = np.broadcast_to(levels[:, None, None, None], (50, 8, 8, 3)).astype(np.uint8)
    few = near_pairs(np.zeros(50, np.uint64), thumbnails, 4, held_out)
    every = np.array(linked(levels))
    expected = separate(identities, held_out, every[:, 0], every[:, 1])
    assert {TRAIN, LEAKED, VALIDATION} == set(expected.tolist())
    assert np.array_equal(separate(identities, held_out, few.first, few.second), expected)


def test_the_first_of_each_group_and_side_is_kept():
    names = np.array(["d", "b", "c", "a", "e", "f"])
    groups = np.array([5, 5, 5, 2, 2, 9])
    sides = np.array([TRAIN, TRAIN, VALIDATION, TRAIN, TRAIN, BRIDGING])
    assert keep_first(groups, np.argsort(names), sides).tolist() == [False, True, True, True, False, True]
    assert keep_first(groups[:0], np.argsort(names[:0]), sides[:0]).tolist() == []


def test_equal_pictures_are_a_group():
    rows = np.frombuffer(b"".join(identity(share) for share in (0.5, 0.1, 0.5, 0.2)), np.uint8).reshape(4, 32)
    groups = identity_groups(rows)
    assert groups[0] == groups[2]
    assert len(set(groups.tolist())) == 3


def test_equal_stored_pictures_do_not_leak():
    """Pictures that differ only above the stored size, linked by what is stored."""
    rows = [identity(0.5, i) for i in range(3)]
    remembered = {rows[0]: T, rows[2]: V}
    kinds = kinds_of(np.frombuffer(b"".join(rows), np.uint8).reshape(3, 32), remembered)
    pairs = np.stack(equal_pairs(np.zeros(3, np.int64), kinds), axis=1)
    assert sides_of(rows, pairs, remembered) == [L, B, V]
