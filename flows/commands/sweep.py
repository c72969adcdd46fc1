"""Train and measure many settings, and rank them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flows.commands.stages import is_attended
from flows.terminal.command import Arguments, Result
from flows.terminal.options import SweepOptions
from flows.terminal.tables import table

if TYPE_CHECKING:
    from pikavae.operations import Swept


def sweep(arguments: Arguments[SweepOptions]) -> Result:
    """Train and measure many settings, and rank them."""
    from pikavae import operations

    options, workspace = arguments.options, arguments.workspace
    plan = operations.SweepPlan(
        config=arguments.config,
        space=operations.make_space(arguments.swept, options.space, arguments.settings),
        preset=arguments.names[0],
        trials=options.trials,
        minutes=options.minutes,
        metric=options.metric,
        name=options.name,
        seed=options.seed,
        prune=options.prune,
        retry_failed=options.retry_failed,
    )
    what = f"sweep {plan.name}".rstrip() + f" of {', '.join(plan.space.dimensions)}"
    with operations.attempt(workspace, what, attended=is_attended()):
        done = operations.sweep(workspace, plan)
    return done.summary(), closing_lines(done)


def closing_lines(done: Swept) -> str:
    """Return the table of a sweep's trials, the best first, and what to do with the best one."""
    from pikavae.operations import short_names, state_text, value_text

    fields = [*done.entries[0].values] if done.entries else []
    head = ["trial", done.objective.title, *short_names(fields), "state"]
    rows = [
        [
            str(one.number),
            done.objective.metric.format(one.score),
            *(value_text(one.values.get(field)) for field in fields),
            state_text(one, done.objective),
        ]
        for one in done.entries
    ]
    program = sys.argv[0]
    lines = ["", *table(head, rows, len(head) - 1), ""]
    if not done.is_done:
        lines += ["Trials are left: the same command continues.", ""]
    if done.best is not None and done.command is not None:
        lines += [f"The best is trial {done.best.number}. This registers it:", f"  {done.command}", ""]
    lines += [f"Page with charts:      {done.page}", f"Browse the runs:       {program} ui --run {done.run_id}"]
    return "\n".join(lines)
