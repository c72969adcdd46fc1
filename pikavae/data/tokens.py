"""Captions to the 77 ids of a CLIP text encoder. Only the tokenizer is ever loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pikavae.data.bpe import learn_bpe
from pikavae.data.hub import one_line_errors
from pikavae.data.shards import MAX_TOKENS

VOCABULARY_SIZE = 2048


def load_tokenizer(name: str | None, captions: Iterable[list[str]]) -> Any:
    """The configured CLIP tokenizer, or a small one of the same format built from the captions.

    Args:
        name: a folder, `ORG/NAME` or `ORG/NAME/SUBFOLDER` of the hub, or None to build one.
        captions: what a built one learns its pieces from, some at a time.

    Raises:
        UserError: the tokenizer cannot be had.
    """
    from transformers import CLIPTokenizer

    if name is None:
        return _tokenizer_of(captions)
    folder = Path(name).expanduser()
    with one_line_errors("data.tokenizer", name):
        if folder.is_dir():
            return CLIPTokenizer.from_pretrained(folder)
        parts = name.split("/", 2)
        return CLIPTokenizer.from_pretrained("/".join(parts[:2]), subfolder=parts[2] if len(parts) > 2 else "")


def _tokenizer_of(captions: Iterable[list[str]]) -> Any:
    """A tokenizer that splits words as CLIP's does, with pieces learnt from the captions."""
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
    """The ids of each caption, padded and truncated to 77 as the original does, and how many there are without that.

    Returns:
        (N, 77) int32 and (N,) int32; the marks of start and end are counted.
    """
    if not captions:
        return np.empty((0, MAX_TOKENS), np.int32), np.empty(0, np.int32)
    padded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=MAX_TOKENS)
    lengths = np.asarray(padded["attention_mask"], np.int32).sum(axis=1, dtype=np.int32)
    for index in np.flatnonzero(lengths == MAX_TOKENS):
        lengths[index] = len(tokenizer(captions[index])["input_ids"])
    return np.asarray(padded["input_ids"], np.int32), lengths
