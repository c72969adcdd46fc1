"""How long the search for near duplicates takes, and what it holds in memory, on made-up sets of hashes and thumbnails.

Usage: python benchmarks/duplicates.py [--pictures N] [--distances D ...]
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from pikavae.data.split.duplicates import components, near_pairs

Looks = tuple[np.ndarray, np.ndarray]
BLANK_SHARE = 0.2


def random_looks(generator: np.random.Generator, count: int) -> Looks:
    """Return looks of pictures that have nothing to do with each other."""
    hashes = generator.integers(0, 2**64, count, dtype=np.uint64)
    level = generator.integers(0, 192, (count, 1, 1, 3))
    return hashes, (level + generator.integers(0, 64, (count, 8, 8, 3))).astype(np.uint8)


def equally_bright_looks(generator: np.random.Generator, count: int) -> Looks:
    """Return looks whose thumbnails all have about the same sum, which then excludes nothing."""
    return random_looks(generator, count)[0], generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def clustered_looks(generator: np.random.Generator, count: int) -> Looks:
    """Return looks of ten slightly changed copies of each picture."""
    hashes, thumbnails = random_looks(generator, count // 10)
    hashes, thumbnails = np.repeat(hashes, 10), np.repeat(thumbnails, 10, axis=0)
    hashes ^= np.uint64(1) << generator.integers(0, 64, len(hashes), dtype=np.uint64)
    return hashes, thumbnails ^ generator.integers(0, 4, thumbnails.shape, dtype=np.uint8)


def with_equal_blanks(generator: np.random.Generator, count: int) -> Looks:
    """Return looks of which a fifth are the same blank picture."""
    return _with_blanks(generator, count, lambda shape: np.full(shape, 255))


def with_noisy_blanks(generator: np.random.Generator, count: int) -> Looks:
    """Return looks of which a fifth are blank, with equal hashes and thumbnails of which no two are equal."""
    return _with_blanks(generator, count, lambda shape: generator.integers(250, 256, shape))


def with_coloured_blanks(generator: np.random.Generator, count: int) -> Looks:
    """Return looks of which a fifth are blank in colours of their own."""
    return _with_blanks(generator, count, lambda shape: generator.integers(0, 256, (shape[0], 1, 1, 3)))


def _with_blanks(generator: np.random.Generator, count: int, draw: Callable[[tuple[int, ...]], np.ndarray]) -> Looks:
    hashes, thumbnails = random_looks(generator, count)
    num_blank = int(BLANK_SHARE * count)
    hashes[:num_blank] = 0
    thumbnails[:num_blank] = draw(thumbnails[:num_blank].shape)
    return hashes, thumbnails


SETS = (
    random_looks,
    equally_bright_looks,
    clustered_looks,
    with_equal_blanks,
    with_noisy_blanks,
    with_coloured_blanks,
)


def main() -> None:
    """Print a table: seconds, peak of memory, links, components and the largest of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--distances", type=int, nargs="+", default=[4, 8])
    arguments = parser.parse_args()
    print("| set | kinds | distance | seconds | peak MB | links | components | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for make in SETS:
        generator = np.random.default_rng(0)
        hashes, thumbnails = make(generator, arguments.pictures)
        for num_kinds in (1, 3):
            kinds = generator.integers(0, num_kinds, len(hashes))
            for distance in arguments.distances:
                started = time.perf_counter()
                near_pairs(hashes, thumbnails, distance, kinds)
                seconds = time.perf_counter() - started
                tracemalloc.start()
                pairs = near_pairs(hashes, thumbnails, distance, kinds)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                sizes = np.bincount(components(len(hashes), pairs.first, pairs.second))
                print(
                    f"| {make.__name__} | {num_kinds} | {distance} | {seconds:.1f} | {peak / 1e6:.0f} "
                    f"| {len(pairs.first)} | {np.count_nonzero(sizes)} | {sizes.max()} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
