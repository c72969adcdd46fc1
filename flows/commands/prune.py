"""The command that frees disk space."""

from __future__ import annotations

from flows.options import PruneOptions, parse_options
from flows.words import Result, refuse_extra, split_words
from pikavae.config import Config


def prune(words: list[str]) -> Result:
    """Free disk space: keep of each run the best, the last and what is referred to."""
    names, flags = split_words(words)
    refuse_extra(names)
    options = parse_options(PruneOptions, Config(), flags, "pikavae prune")
    from pikavae import operations

    removed = operations.prune(keep=options.keep, dry_run=options.dry_run)
    total = sum(item.bytes for item in removed)
    verb = "would go" if options.dry_run else "removed"
    lines = [
        f"{verb} {item.what}{f', run {item.run_id}' if item.run_id else ''}"
        f"{'' if item.step is None else f' step {item.step}'}, {item.bytes / 1e6:.1f} MB: {item.reason}"
        for item in removed
    ]
    lines.append(f"{len(removed)} things, {total / 1e6:.1f} MB {'would go' if options.dry_run else 'removed'}.")
    result = {
        "removed": [
            {"what": item.what, "run_id": item.run_id, "step": item.step, "bytes": item.bytes} for item in removed
        ],
        "bytes": total,
        "dry_run": options.dry_run,
    }
    return result, "\n".join(lines)
