"""Learning a byte-pair encoding, and the ids that come of it."""

import itertools
from collections import Counter

import numpy as np
import pytest

from pikavae.data.bpe import learn_bpe
from pikavae.data.tokens import load_tokenizer, tokenize

CAPTIONS = [["a red fox, jumping", "the red hen", "A FOX and a hen"], ["", "日本 🎉", "red red red foxes"]]


def naive_bpe(words, alphabet, size):
    """Counting everything anew for each merge."""
    pieces = [*sorted(alphabet), *(f"{letter}</w>" for letter in sorted(alphabet))]
    splits = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while len(pieces) < size:
        pairs = Counter()
        for word, symbols in splits.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        pieces.append("".join(best))
        for word, symbols in splits.items():
            merged = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            splits[word] = merged
    return pieces, merges


@pytest.mark.parametrize("seed", range(6))
def test_the_pieces_are_those_of_counting_anew_each_time(seed):
    generator = np.random.default_rng(seed)
    words = Counter()
    for _ in range(200):
        words["".join(generator.choice(list("abcd"), generator.integers(1, 9)))] += int(generator.integers(1, 20))
    shuffled = Counter(dict(generator.permutation(np.array(list(words.items()), object)).tolist()))
    expected = naive_bpe(words, "abcd", 60)
    assert learn_bpe(words, "abcd", 60) == expected
    assert learn_bpe(shuffled, "dcba", 60) == expected


def test_a_tokenizer_of_captions_is_the_same_each_time_and_reads_everything():
    first, second = (load_tokenizer(None, iter(CAPTIONS)) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    for caption in ("a red fox, jumping", "unseen wörds 42 🎈", "日本"):
        ids = first(caption)["input_ids"]
        assert (ids[0], ids[-1]) == (first.bos_token_id, first.eos_token_id)
        assert first.unk_token_id not in ids[1:-1]
    assert first.tokenize("red") == ["red</w>"]


def test_ids_are_padded_and_cut_as_transformers_does_and_lengths_are_those_before():
    tokenizer = load_tokenizer(None, iter(CAPTIONS))
    captions = ["", "red", "red " * 75, "red " * 76, "fox " * 300]
    input_ids, lengths = tokenize(tokenizer, captions)
    expected = tokenizer(captions, padding="max_length", truncation=True, max_length=77)["input_ids"]
    assert input_ids.tolist() == expected
    assert input_ids.dtype == np.int32
    assert lengths.tolist() == [2, 3, 77, 78, 302]
    assert tokenize(tokenizer, [])[0].shape == (0, 77)
