"""Declares what every source provides: pictures as they were found, in chunks that are prepared independently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class SourcePicture:
    """Holds a picture as the source has it.

    Attributes:
        name: its name, unique in the source.
        content: the encoded picture as bytes, or a drawn one as `PIL.Image.Image`; None if there is none, and `problem`
            says why.
        caption: the caption as found, of any type (for a caption file, its bytes); None if there is none.
        problem: why there is no content.
        transient: the problem is temporary (the file vanished or changed after it was listed), so the shard made from
            the chunk must not be reused.
    """

    name: str
    content: Any
    caption: object
    problem: str = ""
    transient: bool = False


class SetAside(NamedTuple):
    """Records something that was found and is not used as a picture.

    Attributes:
        name: its name in the source.
        reason: why it is not used, with the remedy.
        kind: what it is, in words that follow a number: `links that leave the folder`.
    """

    name: str
    reason: str
    kind: str


UNREADABLE_FILES = "files that cannot be read"
FOLDERS_LIKE_FILES = "folders named like files"
FOLDER_LINKS = "links to folders that are read where they lie"
SECOND_CAPTIONS = "second captions of a picture"
UNREADABLE_CAPTIONS = "caption files that cannot be read"
BESIDE_PICTURES = "tables and archives beside pictures"
OUTDATED_ROWS = "rows of lists that name no picture, where every picture has its caption"
NO_LOSS = frozenset(
    (BESIDE_PICTURES, FOLDERS_LIKE_FILES, FOLDER_LINKS, SECOND_CAPTIONS, UNREADABLE_CAPTIONS, OUTDATED_ROWS)
)
"""Kinds that lose no picture; all others count as left out."""


class Chunk(Protocol):
    """Names some pictures of a source. It can be pickled for another process, and is small: it holds no pictures."""

    @property
    def content(self) -> Mapping[str, Any]:
        """What decides the chunk's pictures, with JSON's types as values."""

    @property
    def count(self) -> int | None:
        """The number of pictures, or None if unknown."""

    def pictures(self) -> Iterator[SourcePicture]:
        """Yield the pictures, each read on request.

        Raises:
            UserError: a file is damaged.
            TransientError: a file of many pictures changed after it was listed.
        """


class Source(Protocol):
    """Provides pictures. It looks up what it has once; open it again to see changes."""

    def content(self) -> Mapping[str, Any]:
        """Return all that decides the source's pictures, by names that a person knows, with JSON's types as values."""

    def count(self) -> int | None:
        """Return the number of pictures, or None if it is not known beforehand."""

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield all pictures, each in one chunk, about `size` in each chunk.

        Order and membership follow from the content alone. Additions to a source change few chunks.
        """

    @property
    def columns(self) -> Mapping[str, str | None]:
        """The columns of pictures and captions (by `image`, `caption`), if the source has columns."""

    @property
    def set_aside(self) -> Sequence[SetAside]:
        """What was found and is not a picture; unreadable pictures are known only when they are read."""

    @property
    def captions(self) -> Mapping[str, int]:
        """The number of captioned pictures by origin of the caption; for tables, `columns` has it."""

    @property
    def warnings(self) -> Sequence[str]:
        """What to know before training on the source, one sentence each."""

    @property
    def loaded_warnings(self) -> Sequence[str]:
        """More warnings, known only when the source is loaded: they follow from the content."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """The number of ignored files by kind: the operating system's own, hidden ones, others."""
