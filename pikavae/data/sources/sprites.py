"""Makes a source of the built-in characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pikavae.config import content_hash
from pikavae.data.files.rows import SetAside, SourcePicture
from pikavae.workspace.provenance import code_of


def _drawing() -> str:
    return content_hash(code_of("sprites"))


@dataclass(frozen=True)
class SpriteChunk:
    """Draws some of the built-in characters."""

    seed: int
    start: int
    stop: int
    cut_out: bool = False

    @property
    def content(self) -> Mapping[str, Any]:
        """The seed, the range, the hash of the drawing code, and if they are cut out."""
        how = {"cut_out": True} if self.cut_out else {}
        return {"sprites": {"seed": self.seed, "range": [self.start, self.stop], "code": _drawing(), **how}}

    @property
    def count(self) -> int:
        """The number of characters."""
        return self.stop - self.start

    def pictures(self) -> Iterator[SourcePicture]:
        """Draw the characters one after the other."""
        from pikavae.data.sprites.draw import draw_sprite

        for index in range(self.start, self.stop):
            sprite = draw_sprite(self.seed, index, cut_out=self.cut_out)
            yield SourcePicture(sprite.name, sprite.image, sprite.caption)


class Sprites:
    """Provides the built-in characters."""

    set_aside: Sequence[SetAside] = ()
    warnings: Sequence[str] = ()
    loaded_warnings: Sequence[str] = ()
    captions: Mapping[str, int] = MappingProxyType({})

    def __init__(self, seed: int, count: int, *, cut_out: bool = False) -> None:
        """Take the seed and the number of characters, which are RGBA pictures if they are cut out."""
        self.seed, self.number, self.cut_out = seed, count, cut_out
        self.columns: Mapping[str, str | None] = {}
        self.ignored: Mapping[str, int] = {}

    def content(self) -> Mapping[str, Any]:
        """Return the seed, the count, the hash of the drawing code, and if they are cut out."""
        how = {"cut_out": True} if self.cut_out else {}
        return {"sprites": {"seed": self.seed, "count": self.number, "code": _drawing(), **how}}

    def count(self) -> int:
        """Return the configured number."""
        return self.number

    def chunks(self, size: int) -> Iterator[SpriteChunk]:
        """Yield chunks of `size` characters, in the order of their numbers."""
        for start in range(0, self.number, size):
            yield SpriteChunk(self.seed, start, min(start + size, self.number), self.cut_out)
