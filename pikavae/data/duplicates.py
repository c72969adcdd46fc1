"""Pictures that look alike: a perceptual hash finds candidates, a small thumbnail confirms them.

The hash is the DCT hash of 64 bits of the `imagehash` library (N. Krawetz, "Looks Like It", 2011). It sees structure
and no colour, and of a plain picture nothing, so pairs must also agree in a thumbnail of 8 x 8 pixels.

Of 3,000 drawn sprites no two are within 6 bits. A copy saved as JPEG of quality 75, scaled to three quarters and back,
or made 3 % brighter is within 2 bits in 99 of 100 cases, and within 5 levels of the thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

HASH_BITS = 64
THUMBNAIL_SIDE = 8
MAX_DIFFERENCE = 6.0
"""Mean absolute difference of two thumbnails, in 8-bit levels, up to which they show the same."""
BLOCK = 4096
MAX_PAIRS = 1 << 20


class Pairs(NamedTuple):
    """Pictures that look alike: indices, (P,) int64 each, and how many bits of their hashes differ."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def perceptual_hash(pixels: np.ndarray) -> int:
    """The DCT hash of a picture, (H, W, 3) uint8, as 64 bits."""
    import imagehash

    bits = imagehash.phash(Image.fromarray(pixels)).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Area averages of a picture, (H, W, 3) uint8: (8, 8, 3) uint8."""
    small = Image.fromarray(pixels).resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def near_pairs(hashes: np.ndarray, thumbnails: np.ndarray, max_distance: int) -> Pairs:
    """Pairs of pictures that look alike: all of their groups are connected by them, though not every pair is listed.

    Hashes that differ in at most d bits agree in one of d + 1 bands of bits at least (pigeonhole), so only pictures
    that agree in a band are compared; of those, only the ones whose thumbnails are about as bright.

    Args:
        hashes: (N,) uint64.
        thumbnails: (N, 8, 8, 3) uint8.
        max_distance: bits that may differ.
    """
    small = thumbnails.reshape(len(hashes), -1)
    distinct, number = np.unique(np.column_stack([hashes[:, None].view(np.uint8), small]), axis=0, return_inverse=True)
    first, second = chains(number.reshape(-1))
    found = [(first, second, np.zeros(len(first), np.int64))]
    representative = np.empty(len(distinct), np.int64)
    representative[number.reshape(-1)[::-1]] = np.arange(len(hashes))[::-1]
    near = _compare(hashes[representative], small[representative], max_distance)
    found.append((representative[near.first], representative[near.second], near.distance))
    return Pairs(*(np.concatenate(part) for part in zip(*found, strict=True)))


def chains(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of indices that connect all items of equal label: each with the next one."""
    order = np.argsort(labels, kind="stable")
    same = labels[order[1:]] == labels[order[:-1]]
    return order[:-1][same], order[1:][same]


def components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The connected components of a graph: (count,) int64, each node's component named by its smallest node."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    smallest = np.full(count, count, np.int64)
    np.minimum.at(smallest, labels, np.arange(count))
    return np.asarray(smallest[labels])


def _compare(hashes: np.ndarray, small: np.ndarray, max_distance: int) -> Pairs:
    """Confirmed pairs, thinned to what connects their groups whenever many have come together."""
    brightness = small.mean(axis=1)
    found = Pairs(*(np.empty(0, np.int64) for _ in Pairs._fields))
    for bits in np.array_split(np.arange(HASH_BITS, dtype=np.uint64), max_distance + 1):
        keys = hashes & np.bitwise_or.reduce(np.uint64(1) << bits)
        for first, second in _candidates(keys, brightness):
            distance = np.bitwise_count(hashes[first] ^ hashes[second]).astype(np.int64)
            near = np.flatnonzero(distance <= max_distance)
            near = near[_mean_differences(small, first[near], second[near]) <= MAX_DIFFERENCE]
            confirmed = Pairs(first[near], second[near], distance[near])
            found = Pairs(*(np.concatenate(both) for both in zip(found, confirmed, strict=True)))
            if len(found.first) > MAX_PAIRS:
                found = _thinned(len(hashes), found)
    return _thinned(len(hashes), found)


def _candidates(keys: np.ndarray, brightness: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of equal key and about equal brightness, at most about `MAX_PAIRS` at a time."""
    order = np.lexsort((brightness, keys))
    changes = np.concatenate([[0], np.cumsum(keys[order][1:] != keys[order][:-1])])
    place = changes * 1024.0 + brightness[order]  # levels end at 255, so that keys are further apart than the limit
    counts = np.searchsorted(place, place + MAX_DIFFERENCE, side="right") - np.arange(len(place)) - 1
    parts = np.cumsum(counts) // MAX_PAIRS
    for start, stop in pairwise([*np.unique(parts, return_index=True)[1].tolist(), len(place)]):
        part = counts[start:stop]
        first = np.repeat(np.arange(start, stop), part)
        second = first + 1 + np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield order[first], order[second]


def _mean_differences(small: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The mean absolute difference of each pair of thumbnails."""
    parts = [np.empty(0)]
    for start in range(0, len(first), BLOCK):
        rows = slice(start, start + BLOCK)
        parts.append(np.abs(small[first[rows]].astype(np.int16) - small[second[rows]]).mean(axis=1))
    return np.concatenate(parts)


def _thinned(count: int, pairs: Pairs) -> Pairs:
    """The pairs of a minimum spanning forest: the closest ones that connect what all of them connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    low, high = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    _, once = np.unique(low * count + high, return_index=True)
    graph = coo_array((pairs.distance[once] + 1, (low[once], high[once])), shape=(count, count))
    forest = minimum_spanning_tree(graph.tocsr()).tocoo()
    return Pairs(forest.row.astype(np.int64), forest.col.astype(np.int64), forest.data.astype(np.int64) - 1)
