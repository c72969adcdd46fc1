"""Find unpacked members of archives that may be removed, because their archive is gone or has changed.

They are unpacked again when needed, so removing one too early only costs time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pikavae.data.files.archives import HASH_NAME, UNPACKED_NAME, has_archive


class Unused(NamedTuple):
    """Names something below `prepared/unpacked` that may be removed, and why."""

    path: Path
    reason: str


def locks_of_preparations(prepared: Path) -> list[Path]:
    """Return the locks that preparations hold while they run."""
    return [*prepared.glob("locks/*.lock"), *(prepared / UNPACKED_NAME).glob("locks/*.lock")]


def unused_members(prepared: Path) -> Iterator[Unused]:
    """Yield what may be removed while no preparation runs: members, and folders that link to removed ones."""
    store, going = prepared / UNPACKED_NAME, set[Path]()
    for folder in sorted(store.glob("*")):
        if folder.name.endswith(".tmp"):
            yield Unused(folder, "a killed process had begun to write it")
        elif HASH_NAME.fullmatch(folder.name) and not has_archive(folder):
            going.add(folder.resolve())
            yield Unused(folder, "its archive is gone or was changed")
    for view in sorted(store.glob("views/*")):
        links = [path for path in view.rglob("*") if path.is_symlink()]
        if any(not link.exists() or link.resolve() in going for link in links):
            yield Unused(view, "an archive that it shows is gone or was changed")
