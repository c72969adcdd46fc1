"""Turns captions into the 77 ids of a CLIP text encoder. Only the tokenizer is ever loaded."""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pikavae.config import content_hash
from pikavae.data.shards.files import MAX_TOKENS
from pikavae.data.sources.hub_files import Repository
from pikavae.errors import UserError
from pikavae.workspace.files import sha256_of
from pikavae.workspace.home import expand_user

VOCABULARY_SIZE = 2048
FIELD = "data.tokenizer"
SUBFOLDER = "tokenizer"
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""The files that hold the vocabulary of a CLIP tokenizer: one of these groups."""
OTHER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
FORM = "name a folder, ORG/NAME or ORG/NAME/SUBFOLDER of the hub, or none, and one is built from the captions"
OWN_TOKENIZER = "a folder of your own, or none, and one is built from the captions"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[^/]+)*(@[^/@]+)?")


def load_tokenizer(name: str | None, captions: Iterable[list[str]]) -> Any:
    """Return the configured CLIP tokenizer, or build a small one of the same format from the captions.

    Args:
        name: a folder, `ORG/NAME` or `ORG/NAME/SUBFOLDER` of the hub, or None to build one.
        captions: batches of captions, from which a built tokenizer learns its pieces.

    Raises:
        UserError: the tokenizer cannot be loaded, or does not read every text.
    """
    if name is None:
        return _tokenizer_of(captions)
    folder = expand_user(name, "data.tokenizer")
    return _read(_vocabulary_in(folder, name) if folder.is_dir() else _fetch(name), name)


def tokenizer_key(name: str) -> str:
    """Return what decides the ids: the hash of a folder's files, or the name on the hub.

    Raises:
        UserError: the name is neither a folder nor a name on the hub, or the folder holds no tokenizer.
    """
    folder = expand_user(name, "data.tokenizer")
    if not folder.is_dir():
        _check_hub_id(name)
        return name
    place = _vocabulary_in(folder, name)
    try:
        hashes = {file: sha256_of(place / file) for file in _files() if (place / file).is_file()}
    except OSError as error:
        raise UserError(f"{FIELD} {name!r}: cannot be read: {error.strerror}") from None
    return f"files {content_hash(hashes)}"


def _files() -> list[str]:
    return [*(file for files in VOCABULARIES for file in files), *OTHER_FILES]


def _vocabulary_in(folder: Path, name: str) -> Path:
    """Return the folder or its sub-folder `tokenizer` (as a whole pipeline has it): the first with a vocabulary.

    Raises:
        UserError: neither has one.
    """
    for place in (folder, folder / SUBFOLDER):
        if any(all((place / file).is_file() for file in files) for files in VOCABULARIES):
            return place
    raise UserError(
        f"{FIELD} {name!r}: no vocabulary of a CLIP tokenizer in it (tokenizer.json, or vocab.json and merges.txt); "
        f"{FORM}"
    )


def _fetch(name: str) -> Path:
    """Download a tokenizer into the hub's cache, or find it there if the hub does not answer."""
    _check_hub_id(name)
    place, _, revision = name.partition("@")
    owner, repository, inner = (*place.split("/", 2), "")[:3]
    hub = Repository(f"{owner}/{repository}", revision, FIELD, name, OWN_TOKENIZER)
    folders = [inner, f"{inner}/{SUBFOLDER}".lstrip("/")]
    root = hub.download(*(f"{folder}/{file}".lstrip("/") for folder in folders for file in _files()))
    return _vocabulary_in(root / inner, name)


def _check_hub_id(name: str) -> None:
    if name.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(name):
        raise UserError(f"{FIELD} {name!r}: no such folder; {FORM}")


def _read(folder: Path, name: str) -> Any:
    """Load the tokenizer in a folder and check that it knows every byte that a caption may hold.

    Raises:
        UserError: its files are damaged or belong to another model, so the ids of captions would mean nothing.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        pieces = {*tokenizer.get_vocab()}
        ids = tokenizer("a")["input_ids"]
        is_marked = len(ids) > 2 and (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    except Exception as error:  # noqa: BLE001 the library raises plain Exceptions about damaged files
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{FIELD} {name!r}: not a readable CLIP tokenizer, or damaged: {reason}; {FORM}") from None
    if missing := [letter for letter in sorted(ByteLevel.alphabet()) if not {letter, f"{letter}</w>"} <= pieces]:
        problem = f"its vocabulary of {len(pieces):,} pieces lacks {len(missing)} of the 256 bytes"
    elif not is_marked:
        problem = "it puts no marks of start and end around a caption"
    else:
        return tokenizer
    raise UserError(f"{FIELD} {name!r}: not a CLIP tokenizer: {problem}; {FORM}")


def _tokenizer_of(captions: Iterable[list[str]]) -> Any:
    """Build a tokenizer that splits words as CLIP's does, with pieces learnt from the captions."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    splitter = CLIPTokenizer().backend_tokenizer
    words: Counter[str] = Counter()
    for some in captions:
        for caption in some:
            normal = splitter.normalizer.normalize_str(caption)
            words.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normal))
    special = ["<|startoftext|>", "<|endoftext|>"]
    pieces, merges = learn_bpe(words, ByteLevel.alphabet(), VOCABULARY_SIZE - len(special))
    return CLIPTokenizer({piece: number for number, piece in enumerate([*pieces, *special])}, merges)


def tokenize(tokenizer: Any, captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of each caption, padded and truncated to 77 as CLIP does, and its number of tokens before that.

    Returns:
        (N, 77) int32 and (N,) int32; the numbers include the marks of start and end.
    """
    if not captions:
        return np.empty((0, MAX_TOKENS), np.int32), np.empty(0, np.int32)
    padded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=MAX_TOKENS)
    lengths = np.asarray(padded["attention_mask"], np.int32).sum(axis=1, dtype=np.int32)
    for index in np.flatnonzero(lengths == MAX_TOKENS):
        lengths[index] = len(tokenizer(captions[index])["input_ids"])
    return np.asarray(padded["input_ids"], np.int32), lengths


END = "</w>"


Pair = tuple[str, str]


def learn_bpe(words: Counter[str], alphabet: Iterable[str], size: int) -> tuple[list[str], list[Pair]]:
    """Learn pieces and merges as CLIP's tokenizer has them (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1).

    The alphabet comes first, then the alphabet at the end of a word, then a piece for each merge. Each step merges the
    most frequent pair; of equally frequent pairs, the first in the order of their characters. A pair that occurs once
    is never merged.

    Args:
        words: how often each word occurs, in characters of the alphabet.
        alphabet: all characters that may occur.
        size: the total number of pieces.
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
            continue  # an outdated count
        if -negative < 2:
            break
        merges.append(pair)
        pieces.append("".join(pair))
        changed: set[Pair] = set()
        for number in holders.pop(pair):
            symbols, count = splits[number]
            merged = _merge(symbols, pair)
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


def _merge(symbols: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
