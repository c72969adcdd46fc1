"""Write the page of a sweep: the table of its trials, parallel coordinates, and the command of the best one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pikavae.html.parallel import Axis, Kind, Parallel, ParallelLine, axis_of
from pikavae.html.render import render
from pikavae.html.text import PageFinding, count
from pikavae.operations.sweeps.objective import Objective
from pikavae.operations.sweeps.space import Choices, Range, Space
from pikavae.operations.sweeps.trials import PRUNE_AFTER_SHARE, PRUNE_AFTER_TRIALS, Entry

TEMPLATE = Path(__file__).with_name("sweep.html")
MOST_REASONS = 3
EXACT_LENGTH = 8
"""The length up to which a number is shown with six digits, and not four."""
LEGEND: Sequence[tuple[Kind, str]] = (
    ("best", "the best"),
    ("done", "others"),
    ("pruned", "pruned"),
    ("failed", "failed"),
)


@dataclass(frozen=True)
class About:
    """Holds what the page says of a sweep besides its trials.

    Attributes:
        name: its name.
        space: what is tried.
        objective: what trials are ranked by.
        source: where the pictures come from.
        image_size: their side in pixels.
        num_images: how many of them are held out for validation.
        is_grid: True if every combination is tried.
        budget: how many trials are asked for.
        prunes: True if trials may be stopped during their training.
        seed: of the choice of values.
    """

    name: str
    space: Space
    objective: Objective
    source: str
    image_size: int
    num_images: int
    is_grid: bool
    budget: int
    prunes: bool
    seed: int


class Row(NamedTuple):
    """Holds a row of the table, in words."""

    kind: str
    number: int
    values: Sequence[str]
    score: str
    minutes: str
    state: str
    run: str


def ranked(entries: Sequence[Entry], objective: Objective) -> list[Entry]:
    """Return the trials, the best first, then those without a score, by state and number."""
    states = ("complete", "running", "waiting", "pruned", "failed")
    sign = objective.metric.sign()
    return sorted(entries, key=lambda one: (states.index(one.state), -sign * (one.score or 0.0), one.number))


def best_of(entries: Sequence[Entry], objective: Objective) -> Entry | None:
    """Return the trial with the best score, the first of equals; None if none has a score."""
    return next((one for one in ranked(entries, objective) if one.score is not None), None)


def value_text(value: Any) -> str:
    """Return a value in words."""
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text if len(text) <= EXACT_LENGTH else f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def short_names(fields: Sequence[str]) -> list[str]:
    """Return the fields without their sections, if each still says what it is and can be told from the others."""
    short = [field if field.endswith(".name") else field.partition(".")[2] for field in fields]
    return short if len({*short}) == len(short) else list(fields)


def state_text(one: Entry, objective: Objective) -> str:
    """Return in words how a trial is."""
    if one.state == "pruned" and one.scores:
        last = max(one.scores)
        return f"pruned at step {last:,}, at {objective.metric.text(one.scores[last])}"
    if one.state == "failed":
        return f"failed: {one.reason}"
    if one.state == "running":
        return f"running on {one.where}"
    if one.state == "waiting":
        return "cut off; the same command resumes it" if one.where else "waiting"
    return "found: trained before" if one.is_reused else "trained"


def sweep_page(about: About, entries: Sequence[Entry], command: str | None) -> str:
    """Write the page as one HTML document.

    Args:
        about: the sweep.
        entries: its trials.
        command: what runs the best one; None if none has a score.
    """
    objective, best = about.objective, best_of(entries, about.objective)
    ended = [one for one in entries if one.state in {"complete", "pruned", "failed"}]
    metric = objective.metric
    return render(
        TEMPLATE,
        name=about.name,
        objective=objective,
        source=about.source,
        image_size=about.image_size,
        num_images=about.num_images,
        numbers=_numbers(about, entries, best),
        findings=findings(about, entries),
        fields=short_names(list(about.space.dimensions)),
        rows=[_row(one, about, best) for one in ranked(entries, objective)],
        command=command,
        chart=_chart(about, ended, best) if ended else None,
        legend=[(kind, words) for kind, words in LEGEND if any(_kind(one, best) == kind for one in ended)],
        steps=_steps(entries, objective),
        method=_method(about),
        space=[(field, _words_of(one)) for field, one in about.space.dimensions.items()],
        metric_words=f"{objective.title}: {metric.about}. It is the mean over the held-out pictures, measured after "
        "the training on its last snapshot, or on its best one if training.patience is set.",
    )


def findings(about: About, entries: Sequence[Entry]) -> list[PageFinding]:
    """Return what a sweep has found so far: the best trial, and those that were pruned, failed or are not done."""
    best = best_of(entries, about.objective)
    found: list[PageFinding] = []
    if best is not None:
        settings = ", ".join(f"{field} {value_text(value)}" for field, value in best.values.items())
        found.append(PageFinding("fine", f"Trial {best.number} is the best: {settings}."))
    by_state = {state: [one for one in entries if one.state == state] for state in ("pruned", "failed", "waiting")}
    if pruned := by_state["pruned"]:
        text = f"{count(len(pruned), 'trial')} pruned: others had better scores at the same step."
        found.append(PageFinding("note", text))
    if failed := by_state["failed"]:
        reasons = list(dict.fromkeys(one.reason for one in failed))
        more = f", and {len(reasons) - MOST_REASONS} more reasons" if len(reasons) > MOST_REASONS else ""
        text = f"{count(len(failed), 'trial')} failed: {'; '.join(reasons[:MOST_REASONS])}{more}."
        found.append(PageFinding("check", text))
    edges = _at_an_end(about.space, best) if best is not None else []
    if edges:
        found.append(
            PageFinding("note", f"The best value of {' and '.join(edges)} is at an end of what was tried: try further.")
        )
    done = sum(one.state in {"complete", "pruned", "failed"} for one in entries)
    if done < about.budget:
        text = f"{done} of {count(about.budget, 'trial')} ended. The same command continues."
        found.append(PageFinding("note", text))
    return found


def _at_an_end(space: Space, best: Entry) -> list[str]:
    """Return the fields of numbers whose best value is the least or the largest that was tried."""
    found = []
    for field, one in space.dimensions.items():
        value = best.values.get(field)
        if isinstance(one, Choices):
            numbers = [v for v in one.values if isinstance(v, int | float) and not isinstance(v, bool)]
            if len(numbers) > 2 and len(numbers) == len(one.values) and value in {min(numbers), max(numbers)}:
                found.append(field)
        elif value in {one.low, one.high}:
            found.append(field)
    return found


def _numbers(about: About, entries: Sequence[Entry], best: Entry | None) -> list[tuple[str, str]]:
    states = [one.state for one in entries]
    numbers = [
        (f"best {about.objective.title}", "-" if best is None else about.objective.metric.format(best.score)),
        ("trials with a score", f"{states.count('complete')} of {about.budget}"),
    ]
    numbers += [(name, str(states.count(name))) for name in ("pruned", "failed") if name in states]
    return [*numbers, ("minutes of training and measuring", f"{sum(one.seconds for one in entries) / 60:.1f}")]


def _row(one: Entry, about: About, best: Entry | None) -> Row:
    return Row(
        kind=_kind(one, best),
        number=one.number,
        values=[value_text(one.values.get(field)) for field in about.space.dimensions],
        score=about.objective.metric.format(one.score),
        minutes=f"{one.seconds / 60:.1f}" if one.seconds else "-",
        state=state_text(one, about.objective),
        run=one.run_id[:8],
    )


def _kind(one: Entry, best: Entry | None) -> Kind:
    if best is not None and one.number == best.number:
        return "best"
    return "pruned" if one.state == "pruned" else "failed" if one.state == "failed" else "done"


def _chart(about: About, ended: Sequence[Entry], best: Entry | None) -> Parallel:
    """Return the parallel coordinates of the trials that ended: an axis for each field, and one for the score."""
    objective, order = about.objective, ranked(ended, about.objective)
    scored = [one for one in order if one.score is not None]
    places = {one.number: place for place, one in enumerate(scored)}
    lines = [
        ParallelLine(
            kind=_kind(one, best),
            rank=1.0 - places[one.number] / max(1, len(scored) - 1) if one.number in places else 0.0,
            label=_label(one, objective),
        )
        for one in order
    ]
    axes: list[Axis] = []
    for field, dimension in about.space.dimensions.items():
        values = [one.values.get(field) for one in order]
        choices = dimension.values if isinstance(dimension, Choices) else None
        axes.append(axis_of(field, values, [value_text(value) for value in values], choices))
    scores = [one.score for one in order]
    axes.append(axis_of(objective.title, scores, [objective.metric.format(score) for score in scores]))
    return Parallel(title=f"Parallel coordinates of {count(len(order), 'trial')}", axes=axes, lines=lines)


def _label(one: Entry, objective: Objective) -> str:
    settings = ", ".join(f"{field} {value_text(value)}" for field, value in one.values.items())
    outcome = objective.metric.text(one.score) if one.score is not None else one.state
    return f"trial {one.number}: {outcome}; {settings}"


def _steps(entries: Sequence[Entry], objective: Objective) -> list[tuple[int, str, str]]:
    """Return of each trial with a score, by number, the score and the best so far."""
    steps, best = [], None
    for one in entries:
        if one.score is None:
            continue
        best = one.score if best is None or objective.is_better(one.score, best) else best
        steps.append((one.number, objective.metric.format(one.score), objective.metric.format(best)))
    return steps


def _words_of(one: Choices | Range) -> str:
    if isinstance(one, Choices):
        return ", ".join(value_text(value) for value in one.values)
    kinds: Mapping[str, str] = {
        "range": "evenly",
        "log_range": "evenly in their logarithm",
        "integers": "whole numbers",
    }
    step = f", in steps of {value_text(one.step)}" if one.step is not None else ""
    return f"{value_text(one.low)} to {value_text(one.high)}, {kinds[one.kind]}{step}"


def _method(about: About) -> str:
    how = (
        "Every combination is tried."
        if about.is_grid
        else f"Values are drawn by Optuna's TPE, seed {about.seed}: the first by chance, later ones near good scores."
    )
    if not about.prunes:
        return f"{how} Every trial trains to its end."
    return (
        f"{how} A trial is pruned if its best validation score so far is below the median of the others at the same "
        f"step: after {PRUNE_AFTER_SHARE:.0%} of its training, and once {PRUNE_AFTER_TRIALS} trials have a score."
    )
