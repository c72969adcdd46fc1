"""Learning a byte-pair encoding, and the ids that come of it."""

import itertools
import json
import shutil
from collections import Counter

import numpy as np
import pytest

from pikavae.config import DataConfig
from pikavae.data.prepare import prepare, prepare_inputs
from pikavae.data.tokens import learn_bpe, load_tokenizer, tokenize, tokenizer_key
from pikavae.errors import UserError

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


# A tokenizer that is given


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The files of a tokenizer in both forms: `tokenizer.json`, and `vocab.json` with `merges.txt`."""
    folder = tmp_path_factory.mktemp("tokenizer")
    load_tokenizer(None, iter(CAPTIONS)).save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])])
    return {
        "tokenizer.json": (folder / "tokenizer.json").read_bytes(),
        "vocab.json": json.dumps(model["vocab"]).encode(),
        "merges.txt": merges.encode(),
    }


def folder_with(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    path.mkdir(exist_ok=True)
    return str(path)


@pytest.mark.parametrize("names", [["tokenizer.json"], ["vocab.json", "merges.txt"]])
@pytest.mark.parametrize("inner", ["", "tokenizer/"])
def test_both_forms_are_read_from_the_folder_or_from_a_pipelines(given, tmp_path, names, inner):
    name = folder_with(tmp_path / "clip", {inner + file: given[file] for file in names})
    ids = load_tokenizer(name, ())(CAPTIONS[0])["input_ids"]
    assert ids == load_tokenizer(None, iter(CAPTIONS))(CAPTIONS[0])["input_ids"]


WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "vocab": {"[UNK]": 0, "a": 1},
}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda given: {}, "no vocabulary of a CLIP tokenizer in it"),
        (lambda given: {"tokenizer_config.json": b"{}"}, "no vocabulary of a CLIP tokenizer in it"),
        (lambda given: {"vocab.txt": b"[PAD]\na\n"}, "no vocabulary of a CLIP tokenizer in it"),
        (lambda given: {"vocab.json": given["vocab.json"]}, "no vocabulary of a CLIP tokenizer in it"),
        (lambda given: {"merges.txt": given["merges.txt"]}, "no vocabulary of a CLIP tokenizer in it"),
        (lambda given: {"tokenizer.json": given["tokenizer.json"][:500]}, "not a readable CLIP tokenizer, or damaged"),
        (lambda given: {"vocab.json": b"[]", "merges.txt": given["merges.txt"]}, "not a readable CLIP tokenizer"),
        (lambda given: {"vocab.json": b"\xff\xfe", "merges.txt": b""}, "not a readable CLIP tokenizer"),
        (
            lambda given: {
                "vocab.json": b'{"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}',
                "merges.txt": b"#version: 0.2\n",
            },
            "not a CLIP tokenizer: its vocabulary of 4 pieces lacks 255 of the 256 bytes",
        ),
        (
            lambda given: {"tokenizer.json": json.dumps({"version": "1.0", "model": WORDPIECE}).encode()},
            "not a readable CLIP tokenizer",
        ),
        (lambda given: {**given, "tokenizer_config.json": b"[]"}, "not a readable CLIP tokenizer"),
    ],
)
def test_a_folder_whose_tokenizer_would_read_nothing_is_refused_in_one_line(given, tmp_path, made, message):
    name = folder_with(tmp_path / "clip", made(given))
    with pytest.raises(UserError) as caught:
        load_tokenizer(name, ())
    assert str(caught.value).startswith(f"data.tokenizer {name!r}: {message}")
    assert "name a folder, ORG/NAME or ORG/NAME/SUBFOLDER of the hub, or none" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["/no/such/folder", "./clip", "~/clip-of-nobody", "clip", "org//x", "a b/c", "org/"])
def test_a_misspelt_name_is_refused_before_anything_is_asked(name):
    for ask in (tokenizer_key, lambda name: load_tokenizer(name, ())):
        with pytest.raises(UserError, match=r"^data\.tokenizer .*: no such folder; name a folder, ORG/NAME"):
            ask(name)


def test_a_set_is_made_with_the_tokenizer_of_the_folder_as_it_is_now_and_with_a_bad_one_none_is(given, tmp_path):
    root, clip = tmp_path / "prepared", tmp_path / "clip"
    folder_with(clip, {})
    config = DataConfig(sprites_count=12, image_size=16, validation_fraction=0.3, tokenizer=str(clip), workers=1)
    for ask in (prepare_inputs, lambda config: prepare(config, root)):
        with pytest.raises(UserError, match="no vocabulary"):
            ask(config)
    (clip / "tokenizer.json").write_bytes(given["tokenizer.json"][:700])
    with pytest.raises(UserError, match="damaged"):
        prepare(config, root)
    assert not list(root.glob("*/record.json"))
    assert not list(root.glob("shards/*"))
    (clip / "tokenizer.json").write_bytes(given["tokenizer.json"])
    good, reused = prepare(config, root)
    assert not reused
    assert len(good.train.input_ids.unique()) > 3
    shutil.copytree(clip, tmp_path / "moved")
    assert prepare(config.model_copy(update={"tokenizer": str(tmp_path / "moved")}), root)[1]
    other = load_tokenizer(None, iter([["other words, other words"]]))
    other.save_pretrained(clip)
    again, reused = prepare(config, root)
    assert not reused
    assert again.fingerprint != good.fingerprint
