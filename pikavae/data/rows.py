"""What every source gives: pictures as they were found, in chunks that can be prepared apart from one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class SourcePicture:
    """A picture as the source has it.

    Attributes:
        name: unique in the source.
        content: the encoded picture as bytes, or a drawn one as `PIL.Image.Image`; None where there is none, and
            `problem` says why.
        caption: as found, of any type (of a caption file, its bytes); None where there is none.
        problem: why there is no content.
        transient: the problem is of this moment (the file vanished or changed after it was listed), so what was made
            of the chunk must not be used another time.
    """

    name: str
    content: Any
    caption: object
    problem: str = ""
    transient: bool = False


class SetAside(NamedTuple):
    """Something that was found and is no picture, for the record."""

    name: str
    reason: str


class Chunk(Protocol):
    """Some pictures of a source. It can be pickled, for another process, and is small: it holds none of them."""

    @property
    def content(self) -> Mapping[str, Any]:
        """What decides its pictures, with JSON's types as values."""

    @property
    def count(self) -> int | None:
        """How many pictures there are, where that is known."""

    def pictures(self) -> Iterator[SourcePicture]:
        """The pictures, each read when it is asked for.

        Raises:
            UserError: a file is damaged.
            TransientError: a file of many pictures changed after it was listed.
        """


class Source(Protocol):
    """Where pictures come from. What it finds is looked up once; open it again to see what changed."""

    def content(self) -> Mapping[str, Any]:
        """All that decides its pictures, by names that a person knows, with JSON's types as values."""

    def count(self) -> int | None:
        """How many pictures there are, where that is known beforehand."""

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All its pictures, each in one chunk, about `size` in each.

        Order and membership follow from the content alone. What is added to a source changes few chunks.
        """

    @property
    def columns(self) -> Mapping[str, str | None]:
        """The columns that pictures and captions are taken from (`image`, `caption`), where there are such."""

    @property
    def set_aside(self) -> Sequence[SetAside]:
        """What was found and is no picture; what cannot be read is known only when the pictures are."""

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many files were passed over, by kind: the operating system's own, hidden ones, others."""
