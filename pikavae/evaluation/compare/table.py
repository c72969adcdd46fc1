"""Formats a comparison in aligned columns for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pikavae.evaluation.compare.comparison import Comparison, Difference, PictureChange, WorstTenth
from pikavae.evaluation.metrics.definitions import METRICS

MAX_WIDTH = 60
"""The most letters of a name or caption that are shown."""


def comparison_table(comparison: Comparison, a: str, b: str) -> str:
    """Format a comparison for people: every metric, the worst tenth, the slices, and the pictures that changed most.

    Args:
        comparison: what was found.
        a: what the user calls model A.
        b: what the user calls model B.
    """
    primary = comparison.primary_metric
    whole = comparison.metrics[primary]
    tenth = comparison.worst_tenth
    lines = [
        f"A is {a}, B is {b}: {comparison.num_images:,} pictures of {comparison.image_size} px "
        f"(set {comparison.evaluation_set}).",
        "",
        *_metrics(comparison.metrics),
        "",
        f"{primary} over each model's worst {tenth.count:,}: {_worst(tenth)}",
    ]
    if comparison.slices:
        lines += ["", *_slices(primary, {"all": whole, **comparison.slices})]
        lines += ["One interval in twenty errs by chance: a slice alone decides nothing."]
    for title, changes in (("Lost", comparison.most_lost), ("Won", comparison.most_won)):
        if changes:
            lines += ["", f"{title} most by {primary}:", *_changes(changes)]
    return "\n".join([*lines, *_complaints(comparison.metrics)])


def _metrics(metrics: Mapping[str, Difference]) -> list[str]:
    rows = [
        [
            METRICS[name].label,
            five_digits(one.mean_a),
            five_digits(one.mean_b),
            signed_number(one.difference),
            interval_text(one),
            f"{one.wins}/{one.ties}/{one.losses}",
            one.verdict,
        ]
        for name, one in metrics.items()
    ]
    return _align([["", "A", "B", "A - B", "95 % interval", "wins/ties/losses", "A is"], *rows])


def _slices(primary: str, slices: Mapping[str, Difference]) -> list[str]:
    rows = [
        [name, str(one.count), signed_number(one.difference), interval_text(one), one.verdict]
        for name, one in slices.items()
    ]
    return _align([[f"{primary} of", "pictures", "A - B", "95 % interval", "A is"], *rows])


def _changes(changes: Sequence[PictureChange]) -> list[str]:
    rows = [
        [_line(change.name), five_digits(change.a), five_digits(change.b), signed_number(change.difference)]
        for change in changes
    ]
    captions = [_line(change.caption) for change in changes]
    aligned = _align([["", "A", "B", "A - B"], *rows])
    return [aligned[0], *(f"{line}  {caption}".rstrip() for line, caption in zip(aligned[1:], captions, strict=True))]


def _complaints(metrics: Mapping[str, Difference]) -> list[str]:
    """Return lines on pictures without a number, and on intervals that could not be computed."""
    lines = [
        f"{name}: pictures without such a number are left out: {one.left_out_a} of A, {one.left_out_b} of B."
        for name, one in metrics.items()
        if one.count and (one.left_out_a or one.left_out_b)
    ]
    reasons: dict[str, list[str]] = {}
    for name, one in metrics.items():
        if one.reason:
            reasons.setdefault(one.reason, []).append(name)
    lines += [f"No interval of {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return ["", *lines] if lines else []


def _worst(tenth: WorstTenth) -> str:
    return f"A {five_digits(tenth.a)}, B {five_digits(tenth.b)}, A - B {signed_number(tenth.difference)}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the first column and the verdicts under `A is` to the left, the other columns to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [i == 0 or title == "A is" for i, title in enumerate(rows[0])]
    return [
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]


def _line(text: str) -> str:
    """Shorten a name or a caption to one line, whatever it holds."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return printable if len(printable) <= MAX_WIDTH else f"{printable[: MAX_WIDTH - 3]}..."


def five_digits(value: float | None) -> str:
    """Format a number in five digits; None becomes a dash."""
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:#.5g}"


def signed_number(value: float | None) -> str:
    """Format a difference in three digits with its sign; None becomes a dash."""
    if value is None:
        return "-"
    if value == 0.0:
        return "0"
    return f"{value:+.0f}" if abs(value) >= 100 else f"{value:+#.3g}"


def interval_text(one: Difference) -> str:
    """Format the interval in brackets, or as a dash if there is none."""
    return "-" if one.interval is None else f"[{signed_number(one.interval[0])}, {signed_number(one.interval[1])}]"
