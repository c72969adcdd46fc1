"""Decides if new pictures are enough to train on, and if they are fit for it. Nothing here reads a file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pikavae.data.news.survey import News
from pikavae.errors import UserError

Outcome = Literal["none", "waits", "train", "refused"]

AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")


class Limits(BaseModel):
    """How much worse than the last training's the new pictures may be."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    unreadable: float = Field(0.1, ge=0, le=1)
    """The share of the added files that may be unreadable."""
    alike: float = Field(0.5, ge=0, le=1)
    """The share of the added pictures that may be copies, or look like another one."""
    brightness: float = Field(0.25, ge=0, le=1)
    """How far the new pictures' mean brightness may be from the trained ones'; 1 is from black to white."""
    size: float = Field(3.0, ge=1)
    """How many times larger or smaller than the trained ones' the mean side of the new pictures may be."""
    gone: float = Field(0.5, ge=0, le=1)
    """The share of the trained pictures that may be gone."""


@dataclass(frozen=True)
class Amount:
    """How many new pictures are enough: a number, or a share of the pictures of the last training.

    Attributes:
        count: the least number.
        share: the least share; 0 if only the number counts.
    """

    count: int = 1
    share: float = 0.0

    @classmethod
    def parse(cls, text: str, field: str) -> Amount:
        """Read an amount such as `50` or `10%`; `field` names it in messages.

        Raises:
            UserError: it is neither, or not more than 0.
        """
        found = AMOUNT.fullmatch(text.strip())
        number, is_share = (float(found[1]), bool(found[2])) if found else (0.0, False)
        if number <= 0 or (not is_share and number != int(number)):
            raise UserError(
                f"{field} {text!r}: expected a number of pictures from 1, such as 50, or a share such as 10%"
            )
        return cls(share=number / 100) if is_share else cls(count=int(number))

    def __str__(self) -> str:
        """Return it as a person writes it."""
        return f"{100 * self.share:g}%" if self.share else f"{self.count:,}"

    def needed(self, num_trained: int) -> int:
        """Return how many new pictures are enough after a training on this many."""
        return max(self.count, math.ceil(self.share * num_trained - 1e-9))


@dataclass(frozen=True)
class Judgement:
    """Holds what follows from the news.

    Attributes:
        outcome: nothing is new, too little is, it is trained on, or it is refused.
        words: the same for a person, with the numbers.
        reason: which limits it breaks, by their names; empty if it is not refused.
    """

    outcome: Outcome
    words: str
    reason: str = ""


def judge(news: News, amount: Amount, limits: Limits) -> Judgement:
    """Judge what a survey found."""
    needed = amount.needed(news.num_trained)
    broken = _broken(news, limits, is_enough=news.num_added + len(news.problems) >= needed)
    if broken:
        return Judgement("refused", f"refused: {'; '.join(broken.values())}", ", ".join(broken))
    if news.num_new >= needed:
        return Judgement("train", f"{news.num_new:,} new of {news.num_total:,}")
    if news.num_new:
        return Judgement("waits", f"{news.num_new:,} new of {news.num_total:,}, waits for {needed:,}{_aside(news)}")
    return Judgement("none", f"no new pictures{_aside(news)}")


def _aside(news: News) -> str:
    """Return what else was added."""
    copies = news.num_added - news.num_new
    parts = [f"{copies:,} copies of known ones"] if copies else []
    parts += [f"{len(news.problems):,} files that cannot be read"] if news.problems else []
    return f"; also {' and '.join(parts)}" if parts else ""


def _broken(news: News, limits: Limits, *, is_enough: bool) -> dict[str, str]:
    """Return the limits that the news break, each with the numbers in words.

    Too few pictures to train on are not judged: two bad ones of three say little.
    """
    broken = {}
    if news.num_left < (1 - limits.gone) * news.num_trained:
        broken["gone"] = (
            f"only {news.num_left:,} of the {news.num_trained:,} trained pictures are left, and {limits.gone:.0%} may "
            f"be gone; see that the whole disk or share is there"
        )
    if not is_enough:
        return broken
    added, problems = news.num_added, len(news.problems)
    if problems and problems > limits.unreadable * (added + problems):
        name, reason = news.problems[0]
        more = f" and {problems - 1:,} more" if problems > 1 else ""
        broken["unreadable"] = (
            f"{problems:,} of {added + problems:,} added files cannot be used ({name}{more}: {reason}), and "
            f"{limits.unreadable:.0%} may be"
        )
    if not news.num_trained:
        return broken
    if news.num_alike > limits.alike * added:
        broken["alike"] = (
            f"{news.num_alike:,} of {added:,} added pictures are copies or look like another, and {limits.alike:.0%} "
            f"may"
        )
    if news.brightness is not None and abs(news.brightness[1] - news.brightness[0]) > limits.brightness:
        before, now = news.brightness
        broken["brightness"] = (
            f"the new pictures' mean brightness is {now:.2f}, the trained ones' {before:.2f}, and they may differ by "
            f"{limits.brightness:g}"
        )
    if news.side is not None and not 1 / limits.size <= news.side[1] / news.side[0] <= limits.size:
        before, now = news.side
        broken["size"] = (
            f"the new pictures' mean side is {now:.0f} px, the trained ones' {before:.0f} px, and one may be "
            f"{limits.size:g} times the other"
        )
    return broken
