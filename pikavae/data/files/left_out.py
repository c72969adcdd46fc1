"""Counts what did not become a picture of a set: pictures that do not decode, and files that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pikavae.config import DataConfig
from pikavae.data.files.rows import BESIDE_PICTURES, NO_LOSS, SetAside, Source
from pikavae.data.record import MissingCounts, NotUsed, SetRecord
from pikavae.errors import UserError

MOST_KINDS = 4
"""The most kinds that a line names; the others are counted together."""
EXAMPLES = 3


def lost_pictures(sources: Mapping[str, Source]) -> list[SetAside]:
    """Return what the sources left out that may be pictures, such as formats that are not read."""
    return [item for source in sources.values() for item in source.set_aside if item.kind not in NO_LOSS]


def warnings_of(sources: Mapping[str, Source]) -> list[str]:
    """Return the sources' warnings, and one if tables and archives beside pictures are not read."""
    beside = [item.name for source in sources.values() for item in source.set_aside if item.kind == BESIDE_PICTURES]
    names = ", ".join(beside[:EXAMPLES]) + (f" and {len(beside) - EXAMPLES:,} more" if len(beside) > EXAMPLES else "")
    beside_warning = [f"What lies beside pictures in tables and archives is not read: {names}."] if beside else []
    warnings = [warning for source in sources.values() for warning in (*source.warnings, *source.loaded_warnings)]
    return [*dict.fromkeys(warnings), *beside_warning]  # both sides of tables may give the same warning


def refuse_too_many(
    config: DataConfig, left_out: Sequence[SetAside], unreadable: Sequence[tuple[str, str]], num_read: int
) -> None:
    """Stop a preparation that would miss more pictures than `data.max_unreadable_fraction` allows.

    Args:
        config: the data section.
        left_out: what the sources left out.
        unreadable: name and reason of pictures that do not decode, as far as known.
        num_read: the number of pictures in the sources, including unreadable ones.

    Raises:
        UserError: there are too many, or there is no picture at all.
    """
    if num_read == 0:
        hint = f" that can be used; left out: {count_kinds(left_out)}" if left_out else ""
        raise UserError(f"data.source {config.source!r}: holds no pictures{hint}")
    if len(unreadable) == num_read:
        raise UserError(
            f"data.source {config.source!r}: none of its {num_read:,} pictures can be read ({_examples(unreadable)})"
        )
    missing, total = len(left_out) + len(unreadable), num_read + len(left_out)
    if missing <= config.max_unreadable_fraction * total:
        return
    parts = [f"{len(unreadable):,} cannot be read ({_examples(unreadable)})"] if unreadable else []
    if left_out:
        parts.append(f"left out: {count_kinds(left_out)} ({_examples([item[:2] for item in left_out])})")
    raise UserError(
        f"data.max_unreadable_fraction {config.max_unreadable_fraction}: {missing:,} of {total:,} pictures would be "
        f"missing; {'; '.join(parts)}; repair or remove them, name those to ignore in data.exclude, or raise the field"
    )


def lost_of(record: SetRecord) -> list[NotUsed]:
    """Return what may be a picture and is not in a set: what does not decode, and what was left out."""
    return [*record.quarantined, *(item for item in record.set_aside if item.kind not in NO_LOSS)]


def missing_counts(record: SetRecord) -> MissingCounts:
    """Return a record's counts of what is missing; compute those that an older record lacks."""
    aside = record.set_aside
    return MissingCounts(
        num_quarantined=record.num_quarantined,
        unreadable=by_count(item.reason for item in record.quarantined),
        num_left_out=len(aside) if record.num_left_out is None else record.num_left_out,
        left_out=by_count(item.reason for item in aside) if record.left_out is None else record.left_out,
    )


def missing_line(record: SetRecord) -> str:
    """Return one line on how many pictures of a set cannot be read and how many were left out, by kind."""
    counts = missing_counts(record)
    other = sum(kinds.get("other", 0) for kinds in record.ignored.values())
    words = [
        f"{number:,} {what}{f' ({list_kinds(kinds)})' if kinds else ''}"
        for number, what, kinds in (
            (counts.num_quarantined, "unreadable", counts.unreadable),
            (counts.num_left_out, "left out", counts.left_out),
        )
    ]
    return ", ".join([*words, *([f"{other:,} other file{'s' * (other > 1)} passed over"] if other else [])])


def count_kinds(items: Iterable[SetAside]) -> str:
    """Return one line with the count of each kind, most frequent first."""
    return list_kinds(by_count(item.kind for item in items))


def by_count(kinds: Iterable[str]) -> dict[str, int]:
    """Return how often each kind occurs, most frequent first, equally frequent ones by name."""
    return dict(sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0])))


def list_kinds(kinds: Mapping[str, int]) -> str:
    """Return one line with the most frequent kinds and their counts, and the number of the rest."""
    named = [f"{number:,} {kind}" for kind, number in list(kinds.items())[:MOST_KINDS]]
    rest = sum(list(kinds.values())[MOST_KINDS:])
    return ", ".join([*named, *([f"{rest:,} more"] if rest else [])])


def _examples(items: Sequence[tuple[str, str]]) -> str:
    """Return the most frequent reasons, each with one name as an example and the number of others."""
    names: dict[str, list[str]] = {}
    for name, reason in items:
        names.setdefault(reason, []).append(name)
    frequent = sorted(names.items(), key=lambda item: -len(item[1]))[:EXAMPLES]
    listed = [
        f"{found[0]}{f' and {len(found) - 1:,} more' if len(found) > 1 else ''}: {reason}" for reason, found in frequent
    ]
    rest = len(items) - sum(len(found) for _, found in frequent)
    return "; ".join([*listed, *([f"and {rest:,} more"] if rest else [])])
