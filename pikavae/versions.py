"""Which code made a result."""

from __future__ import annotations

import hashlib
from pathlib import Path


def code_version(*packages: str, without: str | None = None) -> str:
    """A hash, 16 hexadecimal digits, of the sources of these packages of pikavae: `code_version("data")`.

    Args:
        packages: their names below `pikavae`.
        without: the beginning of the names of modules that do not count, since no result depends on them.
    """
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            if without is not None and path.name.startswith(without):
                continue
            digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
