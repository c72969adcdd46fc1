"""Captions to the 77 ids of a CLIP text encoder. Only the tokenizer is ever loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pikavae.data.hub import one_line_errors

MAX_LENGTH = 77
VOCABULARY_SIZE = 2048


def load_tokenizer(name: str | None, captions: Sequence[str]) -> Any:
    """The configured CLIP tokenizer, or a small one of the same format built from the captions.

    Args:
        name: a folder, `ORG/NAME` or `ORG/NAME/SUBFOLDER` of the hub, or None to build one.
        captions: what a built one learns its pieces from.

    Raises:
        UserError: the tokenizer cannot be had.
    """
    from transformers import CLIPTokenizer

    if name is None:
        return CLIPTokenizer().train_new_from_iterator(captions, vocab_size=VOCABULARY_SIZE, show_progress=False)
    folder = Path(name).expanduser()
    with one_line_errors("data.tokenizer", name):
        if folder.is_dir():
            return CLIPTokenizer.from_pretrained(folder)
        parts = name.split("/", 2)
        return CLIPTokenizer.from_pretrained("/".join(parts[:2]), subfolder=parts[2] if len(parts) > 2 else "")


def tokenize(tokenizer: Any, captions: Sequence[str]) -> tuple[list[list[int]], int]:
    """The ids of each caption, 77 of them, padded and truncated as the original does, and how many were truncated."""
    padded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=MAX_LENGTH)["input_ids"]
    whole = tokenizer(list(captions))["input_ids"]
    return padded, sum(len(ids) > MAX_LENGTH for ids in whole)
