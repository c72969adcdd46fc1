"""What the ledger shows in MLflow, as tags of versions: the ledger is the authority, so they can be made again."""

from __future__ import annotations

from collections.abc import Iterable

from pikavae.registry.ledger import Event


def production_tags(events: Iterable[Event], number: int | None) -> dict[str, str]:
    """Who made a production version the champion last, by promotion and by rollback, and why."""
    tags: dict[str, str] = {}
    for event in events:
        if event.production_version == number and event.state == "done" and event.action in {"promote", "rollback"}:
            tags |= {f"pikavae.{event.action}.reason": event.reason, f"pikavae.{event.action}.actor": event.actor}
    return tags
