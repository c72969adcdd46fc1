"""Trace a version from the source of its pictures to its alias.

Something that is gone (a deleted run, a set, a report) is listed with what is still known about it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pikavae.config import Config
from pikavae.data.record import RECORD_NAME, SetRecord
from pikavae.errors import UserError
from pikavae.evaluation.report.report import REPORT_NAME
from pikavae.operations.stages.results import find_evaluated
from pikavae.production.changes import promote
from pikavae.production.packages.store import digest_of
from pikavae.registry import versions
from pikavae.registry.package import SNAPSHOT_FOLDER
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder
from pikavae.tracker.queries import get_run
from pikavae.tracker.tags import (
    COMMIT_TAG,
    CONFIG_HASH_TAG,
    DIRTY_TAG,
    EVALUATION_SET_TAG,
    FINGERPRINT_TAG,
    IMPORT_FORM_TAG,
    IMPORT_TAG,
    REPORT_TAG,
    RUN_TAG,
    SNAPSHOT_TAG,
)
from pikavae.workspace import runs
from pikavae.workspace.files import sha256_of
from pikavae.workspace.records import readable_files
from pikavae.workspace.run_record import RunRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """Describes one step of a lineage.

    Attributes:
        what: `source`, `prepared set`, `run`, `snapshot`, `report`, `version`, `event` or `alias`.
        name: what identifies it; None if unknown.
        there: True if it still exists; None if that cannot be checked, as for a source.
        facts: further facts, JSON values.
    """

    what: str
    name: str | None
    there: bool | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def lineage(workspace: Workspace, number: int, config: Config) -> list[Link]:
    """Return everything that led to a candidate version or followed it, in chronological order.

    Args:
        workspace: the state folder and its store.
        number: the candidate's number. One deleted in MLflow is described by what the ledger knows.
        config: `registry.model_name`.

    Raises:
        UserError: neither the registry nor the ledger knows such a version.
        DamagedFileError: the ledger is not whole.
    """
    client, model_name = workspace.client, config.registry.model_name
    events = [
        event for event in promote.history(workspace.home) if (event["model"], event["version"]) == (model_name, number)
    ]
    version, tags, manifest = _find_version(workspace, number, model_name, events)
    run_id = tags.get(RUN_TAG) or (version.run_id if version else None)
    record = _run_record(workspace, run_id)
    extends = record.extends if record else None
    aliases = promote.roles(client, model_name).get(number, [])
    tracked = get_run(client, run_id) if run_id else None
    return [
        _source(tags, record),
        _prepared(workspace, tags.get(FINGERPRINT_TAG)),
        Link(
            "run",
            run_id,
            tracked is not None,
            {
                "called": repr(tracked.name) if tracked else None,
                "note": repr(tracked.note) if tracked and tracked.note else None,
                **(tracked.own_tags if tracked else {}),
                "status": tracked.status if tracked else None,
                "folder": record is not None,
                "config": tags.get(CONFIG_HASH_TAG),
                "commit": tags.get(COMMIT_TAG),
                "uncommitted": tags.get(DIRTY_TAG) or None,
                "starting weights": record.inputs.get("starting weights") if record else None,
                "extends run": f"{extends.run}@{extends.step}" if extends else None,
            },
        ),
        Link("snapshot", tags.get(SNAPSHOT_TAG), version is not None and _has_files(workspace, version)),
        _report(workspace, tags.get(REPORT_TAG), tags.get(EVALUATION_SET_TAG)),
        Link(
            "version",
            f"{model_name} {number}",
            version is not None,
            {"registered": version.created.isoformat() if version else None, "files": digest_of(manifest)},
        ),
        *map(_event, events),
        Link("alias", ", ".join(aliases) or None),
    ]


def line_of(link: Link) -> str:
    """Format a link for a person, on one line."""
    facts = [f"{name} {value}" for name, value in link.facts.items() if value not in (None, False)]
    gone = " (gone)" if link.there is False and link.name else ""
    return " ".join(f"{link.what:<14}{link.name or '-'}{gone}  {', '.join(facts)}".rstrip().splitlines())


def _find_version(
    workspace: Workspace, number: int, model_name: str, events: list[dict[str, Any]]
) -> tuple[Version | None, dict[str, str], Mapping[str, str]]:
    """Return the version, its tags and its manifest from the registry, or from the ledger if it was deleted there."""
    try:
        version = versions.get_version(workspace.client, model_name, number)
    except UserError:
        if not events:
            raise
        last = events[-1]
        fields = {FINGERPRINT_TAG: "fingerprint", RUN_TAG: "run_id", SNAPSHOT_TAG: "snapshot", REPORT_TAG: "report"}
        fields |= {EVALUATION_SET_TAG: "evaluation_set"}
        tags = {tag: str(last[field]) for tag, field in fields.items() if last[field]}
        return None, {**last["shown"].get("tags", {}), **tags}, last["manifest"]
    return version, dict(version.tags), version.manifest


def _below(workspace: Workspace, folder: str, name: str | None) -> Path | None:
    """Return the path of a name in a folder of the home; None for a name with slashes, since anybody can edit tags."""
    return workspace.home / folder / name if name and Path(name).name == name else None


def _run_record(workspace: Workspace, run_id: str | None) -> RunRecord | None:
    path = _below(workspace, "runs", run_id)
    found = readable_files([path / runs.RUN_NAME], RunRecord.read, logger) if path else ()
    return next((record for _, record in found), None)


def _source(tags: Mapping[str, str], record: RunRecord | None) -> Link:
    if IMPORT_TAG in tags:
        return Link("source", tags[IMPORT_TAG], None, {"form": tags.get(IMPORT_FORM_TAG)})
    data = record.config.get("data", {}) if record else {}
    return Link("source", data.get("source"), None, {"size": data.get("image_size")})


def _prepared(workspace: Workspace, fingerprint: str | None) -> Link:
    path = _below(workspace, "prepared", fingerprint)
    records = readable_files([path / RECORD_NAME], SetRecord.read, logger) if path else ()
    record = next((record for _, record in records), None)
    return Link("prepared set", fingerprint, record is not None, {"pictures": record and record.num_images})


def _has_files(workspace: Workspace, version: Version) -> bool:
    client = workspace.client
    folder = local_folder(client.get_model_version_download_uri(version.name, str(version.version)))
    return folder is None or (folder / SNAPSHOT_FOLDER).is_dir()


def _report(workspace: Workspace, name: str | None, evaluation_set: str | None) -> Link:
    found = find_evaluated(workspace, name) if name and _below(workspace, "evaluations", name) else None
    facts: dict[str, Any] = {"evaluation set": evaluation_set}
    if found is not None:
        psnr = found.report.metrics["psnr"]
        facts |= {"psnr": None if psnr is None else round(psnr, 2), "sha256": sha256_of(found.folder / REPORT_NAME)}
    return Link("report", name, found is not None, facts)


def _event(event: Mapping[str, Any]) -> Link:
    return Link(
        "event",
        f"{event['sequence']} {event['action']} {event['state']}",
        True,
        {
            "time": event["time"],
            "actor": event["actor"],
            "approver": event["approver"],
            "forced": event["forced"],
            "hash": event["hash"],
            "reason": repr(event["reason"]),
        },
    )
