"""A comparison in aligned columns, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pikavae.evaluation.comparison import Comparison, Difference, PictureChange, WorstTenth


def comparison_table(comparison: Comparison, a: str, b: str) -> str:
    """What a person reads, in lines: every metric, the worst tenth, the slices, and the pictures that changed most.

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
    for title, changes in (("Lost", comparison.most_lost), ("Won", comparison.most_won)):
        if changes:
            lines += ["", f"{title} most by {primary}:", *_changes(changes)]
    return "\n".join([*lines, *_complaints(comparison.metrics)])


def _metrics(metrics: Mapping[str, Difference]) -> list[str]:
    rows = [
        [
            name,
            _number(one.mean_a),
            _number(one.mean_b),
            _signed(one.difference),
            _interval(one),
            f"{one.wins}/{one.ties}/{one.losses}",
            one.verdict,
        ]
        for name, one in metrics.items()
    ]
    return _aligned([["", "A", "B", "A - B", "95 % interval", "wins/ties/losses", "A is"], *rows])


def _slices(primary: str, slices: Mapping[str, Difference]) -> list[str]:
    rows = [
        [name, str(one.count), _signed(one.difference), _interval(one), one.verdict] for name, one in slices.items()
    ]
    return _aligned([[f"{primary} of", "pictures", "A - B", "95 % interval", "A is"], *rows])


def _changes(changes: Sequence[PictureChange]) -> list[str]:
    rows = [[change.name, _number(change.a), _number(change.b), _signed(change.difference)] for change in changes]
    captions = [change.caption for change in changes]
    aligned = _aligned([["", "A", "B", "A - B"], *rows])
    return [aligned[0], *(f"{line}  {caption}".rstrip() for line, caption in zip(aligned[1:], captions, strict=True))]


def _complaints(metrics: Mapping[str, Difference]) -> list[str]:
    """Lines on pictures without a number, and on intervals that could not be had."""
    lines = [
        f"{name}: left out for numbers that are not finite: {one.left_out_a} pictures of A, {one.left_out_b} of B."
        for name, one in metrics.items()
        if one.left_out_a or one.left_out_b
    ]
    reasons: dict[str, list[str]] = {}
    for name, one in metrics.items():
        if one.reason:
            reasons.setdefault(one.reason, []).append(name)
    lines += [f"No interval of {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return ["", *lines] if lines else []


def _worst(tenth: WorstTenth) -> str:
    return f"A {_number(tenth.a)}, B {_number(tenth.b)}, A - B {_signed(tenth.difference)}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first and the last column to the left, numbers between them to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words_last = rows[0][-1] == "A is"
    lines = []
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        if words_last:
            cells[-1] = rest[-1]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _signed(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0.0 else f"{value:+.3g}"


def _interval(one: Difference) -> str:
    return "-" if one.interval is None else f"[{_signed(one.interval[0])}, {_signed(one.interval[1])}]"
