"""Learn a byte-pair encoding from captions: the same captions give the same pieces.

The trainer of the `tokenizers` library numbers what it finds in the order of a hash map, so that two trainings differ.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

END = "</w>"
Pair = tuple[str, str]


def learn_bpe(words: Counter[str], alphabet: Iterable[str], size: int) -> tuple[list[str], list[Pair]]:
    """Pieces and merges as CLIP's tokenizer has them (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1).

    The alphabet comes first, then the alphabet at the end of a word, then a piece for each merge. The most frequent
    pair is merged, of equally frequent ones the first in the order of their characters; one that is seen once never is.

    Args:
        words: how often each word occurs, in characters of the alphabet.
        alphabet: all characters that may occur.
        size: pieces in all.
    """
    letters = sorted(alphabet)
    pieces = [*letters, *(f"{letter}{END}" for letter in letters)]
    splits = [([*word[:-1], f"{word[-1]}{END}"], count) for word, count in sorted(words.items())]
    counts: Counter[Pair] = Counter()
    holders: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (symbols, count) in enumerate(splits):
        for pair in pairwise(symbols):
            counts[pair] += count
            holders[pair].add(number)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(pieces) < size:
        negative, pair = heapq.heappop(heap)
        if counts[pair] != -negative:
            continue  # counted anew since
        if -negative < 2:
            break
        merges.append(pair)
        pieces.append("".join(pair))
        changed: set[Pair] = set()
        for number in holders.pop(pair):
            symbols, count = splits[number]
            merged = _merged(symbols, pair)
            for old in pairwise(symbols):
                counts[old] -= count
                changed.add(old)
            for new in pairwise(merged):
                counts[new] += count
                holders[new].add(number)
                changed.add(new)
            splits[number] = merged, count
        for other in changed:
            if counts[other] > 0:
                heapq.heappush(heap, (-counts[other], other))
    return pieces, merges


def _merged(symbols: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
