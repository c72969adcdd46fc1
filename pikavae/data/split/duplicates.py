"""Finds near duplicates: a perceptual hash proposes pairs of pictures, a small thumbnail confirms them.

The hash is the 64-bit DCT hash of the `imagehash` library. It sees structure but no colour, so pairs must also agree
in thumbnails of 8 x 8 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pikavae.data.pictures.looks import HASH_BITS, THUMBNAIL_SIZE

MAX_THUMBNAIL_DIFFERENCE = 8
"""Mean absolute difference of two thumbnails, in levels of 255, up to which they show the same picture.

Three percent of brightness move a white pixel by 7.65. Sprites whose hashes differ in 8 bits or less differ by 21."""
LARGEST_DISTANCE = 16
"""The largest distance allowed. One pair in two thousand of different sprites is this close, and the search then
compares nearly every pair."""
PAIRS_AT_ONCE = 1 << 19
"""Candidates held in memory at a time: about 30 MB."""
THUMBNAILS_AT_ONCE = 1 << 12


class NearPairs(NamedTuple):
    """Holds links between pictures: `first`, `second` (P,) int64 indices, `distance` (P,) int64 bits of the hashes."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Find the connected components of `count` items linked by `first` and `second`, (P,) indices each.

    Returns:
        (count,) int64: for each item, the smallest index in its component.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    num_labels, labels = connected_components(graph, directed=False)
    smallest = np.full(num_labels, count, np.int64)
    np.minimum.at(smallest, labels, np.arange(count))
    return np.asarray(smallest[labels])


def equal_pairs(labels: np.ndarray, kinds: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Link items of equal label, each with the first of every kind: the links that `near_pairs` promises.

    Args:
        labels: (N,) integers.
        kinds: (N,) small integers from 0; by default all are of one kind.

    Returns:
        (P,) int64 indices of the first items, and (P,) indices of the items linked with them.
    """
    kinds = np.zeros(len(labels), np.uint8) if kinds is None else kinds
    _, group = np.unique(labels, return_inverse=True)
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        found, earliest = np.unique(group[members], return_index=True)
        leader = np.full(len(labels), -1)
        leader[found] = members[earliest]
        linked = np.flatnonzero((leader[group] >= 0) & (leader[group] != np.arange(len(labels))))
        first.append(leader[group[linked]])
        second.append(linked)
    return np.concatenate(first), np.concatenate(second)


def near_pairs(
    hashes: np.ndarray, thumbnails: np.ndarray, max_distance: int, kinds: np.ndarray | None = None
) -> NearPairs:
    """Link near duplicates: pictures whose hashes differ in few bits and whose thumbnails differ little.

    A thousand copies make half a million pairs. The number of links returned is proportional to the number of pictures
    instead, and for any kinds:

    - the links have the connected components of all pairs;
    - so do the links among the pictures of one kind;
    - a picture that is near one of another kind has a link to one of that kind.

    The search is exact: hashes that differ in at most d bits agree in one of d + 1 bands of bits.

    Args:
        hashes: (N,) uint64.
        thumbnails: (N, 8, 8, 3) uint8.
        max_distance: the number of bits that may differ, 0 to 16.
        kinds: (N,) small integers from 0, such as the sides of the pictures; by default all are of one kind.

    Raises:
        ValueError: `max_distance` is out of range.
    """
    if not 0 <= max_distance <= LARGEST_DISTANCE:
        raise ValueError(f"max_distance {max_distance}: expected 0 to {LARGEST_DISTANCE}")
    count = len(hashes)
    kinds = np.zeros(count, np.uint8) if kinds is None else kinds.astype(np.uint8)
    flat = thumbnails.reshape(count, 3 * THUMBNAIL_SIZE**2)
    looks = np.column_stack([hashes.astype(np.uint64)[:, None].view(np.uint8), kinds, flat])
    rows = np.ascontiguousarray(looks).view(f"V{looks.shape[1]}").ravel()
    _, distinct, number = np.unique(rows, return_index=True, return_inverse=True)
    links = _LinkCollector(kinds[distinct])
    _search(hashes[distinct].astype(np.uint64), flat[distinct], max_distance, links)
    return _with_copies(links, distinct, number)


class _LinkCollector:
    """Holds the links found so far between distinct pictures, and decides which further links add information."""

    def __init__(self, kinds: np.ndarray) -> None:
        self.kinds = kinds
        self.num_kinds = int(kinds.max(initial=0)) + 1
        self.components = np.arange(len(kinds))
        self.own_components = np.arange(len(kinds))  # by links within a kind only
        self.touches = np.arange(self.num_kinds) == kinds[:, None]  # (n, kinds)
        self.settled = self.own_components  # equal for pictures whose mutual pairs add nothing
        self.found = [NearPairs(*(np.empty(0, np.int64) for _ in NearPairs._fields))]

    def add_information(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return True for pairs that are worth confirming, (P,) bool."""
        news = self.own_components[first] != self.own_components[second]
        if self.num_kinds > 1:
            kind, other = self.kinds[first], self.kinds[second]
            across = self.components[first] != self.components[second]
            across |= ~self.touches[first, other] | ~self.touches[second, kind]
            news &= (kind == other) | across
        return np.asarray(news)

    def add(self, pairs: NearPairs) -> None:
        """Keep the closest of these pairs that together connect as much as all of them."""
        closest = np.argsort(pairs.distance, kind="stable")
        first, second = pairs.first[closest], pairs.second[closest]
        kind, other = self.kinds[first], self.kinds[second]
        within = np.flatnonzero(kind == other)
        kept, self.own_components = _forest(self.own_components, first[within], second[within])
        kept = within[kept]
        if self.num_kinds > 1:
            across, self.components = _forest(self.components, first, second)
            touching = _first_touches(first, second, kind, other, self.touches)
            kept = np.unique(np.concatenate([kept, across, touching]))
        self.settled = self._settle()
        self.found.append(NearPairs(*(part[closest[kept]] for part in pairs)))

    def _settle(self) -> np.ndarray:
        if self.num_kinds == 1:
            return self.own_components
        nodes = np.arange(len(self.kinds))
        present = np.zeros_like(self.touches)
        present[self.components, self.kinds] = True
        leaders = self.components[self.own_components == nodes]
        in_one_part_each = np.bincount(leaders, minlength=len(nodes)) == present.sum(axis=1)
        touches_all = (self.touches | ~present[self.components]).all(axis=1)
        return np.where(in_one_part_each[self.components] & touches_all, self.components, len(nodes) + nodes)

    def all(self) -> NearPairs:
        """Return all links that were kept."""
        return NearPairs(*(np.concatenate(part) for part in zip(*self.found, strict=True)))


def _forest(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the earliest links that connect all that can be connected, and the new labels of components."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    count, a, b = len(labels), labels[first], labels[second]
    low, high = np.minimum(a, b), np.maximum(a, b)
    _, once = np.unique(low * count + high, return_index=True)
    once = once[low[once] != high[once]]
    # A link's weight is its index: the tree prefers early links, and its weights identify them.
    graph = coo_array((once + 1.0, (low[once], high[once])), shape=(count, count))
    tree = minimum_spanning_tree(graph.tocsr())
    return np.rint(tree.data).astype(np.int64) - 1, components(count, low[once], high[once])[labels]


def _first_touches(
    first: np.ndarray, second: np.ndarray, kind: np.ndarray, other: np.ndarray, touches: np.ndarray
) -> np.ndarray:
    """Return the links that are a picture's first link to a kind; mark them in `touches` (n, kinds)."""
    nodes, kinds = np.concatenate([first, second]), np.concatenate([other, kind])
    new = np.flatnonzero(~touches[nodes, kinds])
    _, once = np.unique(nodes[new] * touches.shape[1] + kinds[new], return_index=True)
    touches[nodes[new], kinds[new]] = True
    return np.asarray(new[once] % len(first))


def _search(hashes: np.ndarray, flat: np.ndarray, max_distance: int, links: _LinkCollector) -> None:
    """Find the links between distinct pictures: `hashes` (n,) uint64, `flat` (n, 192) uint8 thumbnails."""
    brightness = flat.sum(axis=1, dtype=np.int64)
    for bits in np.array_split(np.arange(HASH_BITS, dtype=np.uint64), max_distance + 1):
        band = hashes & np.bitwise_or.reduce(np.uint64(1) << bits)
        for first, second in _candidates(band, brightness, links):
            distance = np.bitwise_count(hashes[first] ^ hashes[second]).astype(np.int64)
            near = np.flatnonzero(distance <= max_distance)
            near = near[links.add_information(first[near], second[near])]
            near = near[_look_alike(flat, first[near], second[near])]
            if len(near):
                links.add(NearPairs(first[near], second[near], distance[near]))


def _candidates(
    band: np.ndarray, brightness: np.ndarray, links: _LinkCollector
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of pairs that agree in the band and roughly in the sum of their thumbnails, (n,) each.

    Two thumbnails differ at least as much as their sums. Neighbours whose pairs would add nothing are skipped.
    """
    count = len(band)
    order = np.lexsort((brightness, band))
    bucket = np.cumsum(np.diff(band[order], prepend=band[order[:1]]) != 0)
    place = (bucket << 32) + brightness[order]
    ends = np.searchsorted(place, place + _largest_sum(), side="right")
    start = 0
    while start < count:
        settled = links.settled[order[start:]]
        run_ends = np.append(np.flatnonzero(np.diff(settled)) + 1, count - start)
        begins = start + np.repeat(run_ends, np.diff(run_ends, prepend=0))
        total = np.cumsum(np.maximum(ends[start:] - begins, 0))
        num_rows = max(1, int(np.searchsorted(total, PAIRS_AT_ONCE, side="right")))
        begins, num_partners = begins[:num_rows], np.diff(total[:num_rows], prepend=0)
        row = np.repeat(np.arange(start, start + num_rows), num_partners)
        partner = np.arange(len(row)) + np.repeat(begins - total[:num_rows] + num_partners, num_partners)
        start += num_rows
        yield order[row], order[partner]


def _largest_sum() -> int:
    """Return the sum of absolute differences up to which thumbnails agree."""
    return MAX_THUMBNAIL_DIFFERENCE * 3 * THUMBNAIL_SIZE**2


def _look_alike(flat: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return True for each pair whose thumbnails agree, (P,) bool."""
    alike = np.empty(len(first), np.bool_)
    for start in range(0, len(first), THUMBNAILS_AT_ONCE):
        some = slice(start, start + THUMBNAILS_AT_ONCE)
        difference = np.abs(flat[first[some]].astype(np.int16) - flat[second[some]])
        alike[some] = difference.sum(axis=1, dtype=np.int64) <= _largest_sum()
    return alike


def _with_copies(links: _LinkCollector, distinct: np.ndarray, number: np.ndarray) -> NearPairs:
    """Return the links of all pictures: `distinct` (n,) indices represent those with the same `number` (N,)."""
    pairs = links.all()
    originals, copies = equal_pairs(number)
    found = [(distinct[pairs.first], distinct[pairs.second], pairs.distance)]
    found.append((originals, copies, np.zeros(len(copies), np.int64)))
    for kind in range(links.num_kinds):
        # The representative of the copies has links to another kind; each copy needs its own.
        partner, distance = np.full(len(distinct), -1), np.zeros(len(distinct), np.int64)
        for near, far in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
            across = (links.kinds[far] == kind) & (links.kinds[near] != kind)
            partner[near[across]], distance[near[across]] = far[across], pairs.distance[across]
        touching = copies[partner[number[copies]] >= 0]
        node = number[touching]
        found.append((touching, distinct[partner[node]], distance[node]))
    return NearPairs(*(np.concatenate(part) for part in zip(*found, strict=True)))
