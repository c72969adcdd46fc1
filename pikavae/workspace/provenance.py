"""Define which code decides which result, and hash each file so that only a change of its behaviour changes the hash.

A result's key holds the hashes of the files in its row of the table. A file is hashed as its syntax tree, without
comments, docstrings and layout, so a change of words changes no key.
"""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

Result = Literal["sprites", "shard", "prepared set", "training", "evaluation", "registration", "import", "latents"]

PACKAGE = Path(__file__).parents[1]

DECIDED_BY: dict[Result, tuple[str, ...]] = {
    "sprites": ("data/sprites",),
    "shard": ("data/shards", "data/pictures", "data/captions/clean.py"),
    "prepared set": (
        "data/prepare.py",
        "data/assemble.py",
        "data/tokens.py",
        "data/sources",
        "data/files",
        "data/captions",
        "data/split",
        "data/prepared/dataset.py",
        "data/side.py",
    ),
    "training": (
        "training",
        "model",
        "data/prepared",
        "data/side.py",
        "data/shards/files.py",
        "data/pictures/form.py",
        "features/lpips.py",
        "evaluation/metrics/similarity.py",
    ),
    "evaluation": (
        "evaluation/evaluate.py",
        "evaluation/measure",
        "evaluation/metrics",
        "evaluation/studies",
        "evaluation/report",
        "model",
        "features",
        "data/prepared/dataset.py",
        "data/prepared/shown.py",
        "data/side.py",
        "data/prepared/augment.py",
        "data/pictures/form.py",
        "data/shards/files.py",
    ),
    "registration": ("registry", "model"),
    "import": ("weights", "model"),
    "latents": ("latents", "model"),
}
"""The files and folders below `pikavae` that decide each result.

A prepared set depends on the shards' row through their names, and drawn pictures on the sprites' row through their
content. Code that no row lists decides nothing: pages, logs, progress, estimates, locks, the tracker."""

NOT_DECIDING = frozenset(
    {
        "data/shards/workers.py",
        "data/record.py",
        "data/files/memo.py",
        "data/sources/hub_files.py",
        "evaluation/metrics/bootstrap.py",
        "evaluation/report/card_loading.py",
        "evaluation/report/model_card.py",
        "evaluation/report/table.py",
        "features/published.py",
        "latents/card.py",
        "latents/record.py",
        "training/compiling.py",
        "training/display.py",
        "training/journal.py",
        "training/memory.py",
        "training/observer.py",
        "training/peak.py",
        "training/precision.py",
        "weights/rescale.py",
    }
)
"""Files in the table's folders that no result depends on: records, estimates, the search for files of weights, and what
makes another model."""


def code_of(result: Result, root: Path = PACKAGE) -> dict[str, str]:
    """Return the hash of every file that decides a result.

    Args:
        result: a row of the table.
        root: the folder of the library.

    Returns:
        16 hexadecimal digits for each file, by its path below `root`.
    """
    paths = chain.from_iterable(_python_files(root / entry) for entry in DECIDED_BY[result])
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {name: _syntax_hash(path) for name, path in sorted(names.items()) if name not in NOT_DECIDING}


def syntax_hash(source: str) -> str:
    """Return a hash, 16 hexadecimal digits, of a source's behaviour: its syntax tree without docstrings.

    The tree is written out by field names, without empty fields, so it is the same in every version of Python.
    """
    return hashlib.sha256(_canonical(ast.parse(source)).encode()).hexdigest()[:16]


def _python_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _syntax_hash(path: Path) -> str:
    status = path.stat()
    return _cached_hash(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _cached_hash(path: Path, _changed: int, _size: int) -> str:
    return syntax_hash(path.read_text(encoding="utf-8"))


def _canonical(node: object) -> str:
    if isinstance(node, list):
        return f"[{','.join(_canonical(item) for item in node if not _is_words(item))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{name}={_canonical(value)}"
        for name, value in ast.iter_fields(node)
        if name not in {"kind", "type_comment", "type_ignores"} and value is not None and value != []
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def _is_words(node: object) -> bool:
    """Return True if a statement is only a string: a docstring, also that of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
