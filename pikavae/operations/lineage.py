"""Where a version comes from and what became of it: from the source of its pictures to the alias that it has.

What is gone (a deleted run, a set, a report) is told with what is still known of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pikavae import runs
from pikavae.config import Config
from pikavae.data.dataset import RECORD_NAME
from pikavae.errors import UserError
from pikavae.evaluation.report import REPORT_NAME
from pikavae.files import sha256_of
from pikavae.home import home
from pikavae.operations.exchange import IMPORT_TAG
from pikavae.operations.results import find_evaluated
from pikavae.registry import production, versions
from pikavae.registry.package import SNAPSHOT_FOLDER
from pikavae.registry.production_store import digest_of
from pikavae.registry.store import local_folder
from pikavae.registry.versions import Version
from pikavae.tracked import get_run
from pikavae.tracking import connect


@dataclass(frozen=True)
class Link:
    """One thing on the way.

    Attributes:
        what: `source`, `prepared set`, `run`, `snapshot`, `report`, `version`, `event` or `alias`.
        name: what identifies it; None where nothing tells it.
        there: whether it is still there; None for what cannot be asked, such as a source.
        facts: more of it, JSON values.
    """

    what: str
    name: str | None
    there: bool | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def lineage(number: int, config: Config) -> list[Link]:
    """Everything on the way to a candidate version and after it, in the order of time.

    Args:
        number: of the candidate. One that was deleted in MLflow is told as far as the ledger knows it.
        config: `registry.model_name`.

    Raises:
        UserError: neither registry nor ledger know such a version.
        DamagedFileError: the ledger is not whole.
    """
    client, model_name = connect(home()), config.registry.model_name
    events = [
        event for event in production.history(home()) if (event["model"], event["version"]) == (model_name, number)
    ]
    version, tags, manifest = _known(number, model_name, events)
    run_id = tags.get("pikavae.run_id") or (version.run_id if version else None)
    record = _run_record(run_id)
    aliases = production.roles(client, model_name).get(number, [])
    tracked = get_run(client, run_id) if run_id else None
    return [
        _source(tags, record),
        _prepared(tags.get("pikavae.fingerprint")),
        Link(
            "run",
            run_id,
            tracked is not None,
            {
                "status": tracked.status if tracked else None,
                "folder": bool(record),
                "config": tags.get("pikavae.config_hash"),
                "commit": tags.get("mlflow.source.git.commit"),
                "uncommitted": tags.get("pikavae.git.dirty") or None,
                "starting weights": record.get("inputs", {}).get("starting weights"),
            },
        ),
        Link("snapshot", tags.get("pikavae.snapshot"), version is not None and _has_files(version)),
        _report(tags.get("pikavae.report"), tags.get("pikavae.evaluation_set")),
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
    """A link for a person, on one line."""
    facts = [f"{name} {value}" for name, value in link.facts.items() if value not in (None, False)]
    gone = " (gone)" if link.there is False and link.name else ""
    return " ".join(f"{link.what:<14}{link.name or '-'}{gone}  {', '.join(facts)}".rstrip().splitlines())


def _known(
    number: int, model_name: str, events: list[dict[str, Any]]
) -> tuple[Version | None, dict[str, str], Mapping[str, str]]:
    """The version, its tags and its manifest: of the registry, or where it is deleted there, of the ledger."""
    try:
        version = versions.get_version(connect(home()), model_name, number)
    except UserError:
        if not events:
            raise
        last = events[-1]
        told = {"fingerprint": last["fingerprint"], "run_id": last["run_id"], "snapshot": last["snapshot"]}
        told |= {"report": last["report"], "evaluation_set": last["evaluation_set"]}
        tags = {f"pikavae.{name}": str(value) for name, value in told.items() if value}
        return None, {**last["shown"].get("tags", {}), **tags}, last["manifest"]
    return version, dict(version.tags), version.manifest


def _below(folder: str, name: str | None) -> Path | None:
    """What has this name in a folder of the home. It is from a tag, which anybody can edit: no path is followed."""
    return home() / folder / name if name and Path(name).name == name else None


def _run_record(run_id: str | None) -> dict[str, Any]:
    path = _below("runs", run_id)
    return runs.read_json(path / runs.RUN_NAME) if path and (path / runs.RUN_NAME).is_file() else {}


def _source(tags: Mapping[str, str], record: Mapping[str, Any]) -> Link:
    if IMPORT_TAG in tags:
        return Link("source", tags[IMPORT_TAG], None, {"form": tags.get("pikavae.imported.form")})
    data = record.get("config", {}).get("data", {})
    return Link("source", data.get("source"), None, {"size": data.get("image_size")})


def _prepared(fingerprint: str | None) -> Link:
    path = _below("prepared", fingerprint)
    there = path is not None and (path / RECORD_NAME).is_file()
    pictures = runs.read_json(path / RECORD_NAME)["num_images"] if path and there else None
    return Link("prepared set", fingerprint, there, {"pictures": pictures})


def _has_files(version: Version) -> bool:
    client = connect(home())
    folder = local_folder(client.get_model_version_download_uri(version.name, str(version.version)))
    return folder is None or (folder / SNAPSHOT_FOLDER).is_dir()


def _report(name: str | None, evaluation_set: str | None) -> Link:
    found = find_evaluated(name) if name and _below("evaluations", name) else None
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
