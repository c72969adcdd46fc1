"""The command of the state folder as a whole."""

from __future__ import annotations

from flows.options import RelocateOptions, parse_options
from flows.words import Result, split_words
from pikavae.config import Config
from pikavae.errors import UserError


def store(words: list[str]) -> Result:
    """After the state folder was moved: `store relocate [--from OLD] [--dry-run]`."""
    names, flags = split_words(words)
    options = parse_options(RelocateOptions, Config(), flags, "pikavae store relocate")
    if names != ["relocate"]:
        raise UserError(f"store {' '.join(names)}".rstrip() + ": expected `store relocate`")
    from pikavae import operations

    done = operations.relocate(options.old, dry_run=options.dry_run)
    total = sum(done.addresses.values())
    result = {
        "from": None if done.old is None else str(done.old),
        "to": str(done.new),
        "addresses": dict(done.addresses),
        "backup": None if done.backup is None else str(done.backup),
        "dry_run": options.dry_run,
    }
    if done.old is None:
        return result, f"every address is one of {done.new} already"
    verb = "would be" if options.dry_run else "are"
    lines = [f"{total} addresses of {done.old} {verb} addresses of {done.new}"]
    lines += [f"  {count:>6}  {column}" for column, count in done.addresses.items()]
    return result, "\n".join([*lines, *([f"The database as it was: {done.backup}"] if done.backup else [])])
