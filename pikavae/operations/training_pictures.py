"""Which pictures a model was trained on, as far as this home knows: its own, and those of the weights it began with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pikavae import runs, stages
from pikavae.config import content_hash
from pikavae.data.dataset import PictureSet
from pikavae.data.prepare import find_prepared
from pikavae.home import home
from pikavae.model.snapshot import CONFIG_NAME, WEIGHTS_NAME
from pikavae.registry.gates import Seen
from pikavae.registry.production_model import RUN_TAG
from pikavae.registry.store import all_versions
from pikavae.registry.versions import Version
from pikavae.runs import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass
class _Trace:
    """What is found on the way back to the first weights."""

    fingerprints: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def fingerprint_of(version: Version) -> str | None:
    """The prepared set that a version was trained on; None for one that was not trained here."""
    run = _run(_run_id(version))
    fingerprint: str | None = version.tags.get("pikavae.fingerprint")
    return fingerprint if run is None else run.record["inputs"].get("prepared set")


def seen_by(client: MlflowClient, version: Version, who: str, evaluation: PictureSet) -> Seen:
    """Which evaluation pictures a version was trained on, itself or the weights that it began with.

    A picture is the same when its decoded pixels are, at whatever size it was prepared, or when its stored pixels are.

    Args:
        client: from `pikavae.tracking.connect`.
        version: a candidate, or a version of the production model.
        who: the same for a person.
        evaluation: the pictures.
    """
    trace = _trace(client, version)
    leaked: dict[str, None] = {}
    for fingerprint in trace.fingerprints:
        prepared = find_prepared(fingerprint, home() / "prepared")
        if prepared is None:
            trace.unknown.append(f"prepared set {fingerprint} is not there any more")
            continue
        train = prepared.train
        identities, pixels = {*train.identities}, {*train.hashes}
        marks = zip(evaluation.names, evaluation.identities, evaluation.hashes, strict=True)
        leaked |= {name: None for name, identity, stored in marks if identity in identities or stored in pixels}
    return Seen(who, tuple(leaked), tuple(trace.unknown))


def _trace(client: MlflowClient, version: Version) -> _Trace:
    trace, run_id, seen = _Trace(), _run_id(version), set[str]()
    while run_id not in seen:
        seen.add(run_id)
        run = _run(run_id)
        if run is None:
            trace.unknown.append(f"the folder of run {run_id or '?'} is not there any more")
            if len(seen) == 1 and (fingerprint := version.tags.get("pikavae.fingerprint")):
                trace.fingerprints.append(fingerprint)
            break
        inputs = run.record["inputs"]
        if "imported" in inputs:
            trace.unknown.append(f"run {run_id} imported the weights, and nothing tells what they were trained on")
            break
        trace.fingerprints.append(str(inputs["prepared set"]))
        if stages.START not in inputs:
            break
        maker = _maker_of(client, inputs[stages.START], run)
        if maker is None:
            trace.unknown.append(f"run {run_id} began with weights of which no run here is known")
            break
        run_id = maker
    return trace


def _maker_of(client: MlflowClient, digest: str, run: RunFolder) -> str | None:
    """The run that made the weights of this digest, by registered versions, finished runs, or the name they were given.

    Args:
        client: from `pikavae.tracking.connect`.
        digest: over sizes and weights.
        run: the run that began with them.
    """
    for version in all_versions(client):
        if version.tags.get("pikavae.snapshot") == digest:
            return str(version.tags.get(RUN_TAG) or version.run_id)
    for other in runs.run_folders(home()):
        hashes = (other.result or {}).get("snapshot_sha256", {})
        if content_hash({name: hashes.get(name) for name in (CONFIG_NAME, WEIGHTS_NAME)}) == digest:
            return other.run_id
    start = run.record["config"]["training"]["start"] or ""
    named = start.removeprefix("run:").partition("@")[0] if start.startswith("run:") else ""
    found = [other.run_id for other in runs.run_folders(home()) if named and other.run_id.startswith(named)]
    return found[0] if len(found) == 1 else None


def _run_id(version: Version) -> str:
    return version.tags.get(RUN_TAG) or version.run_id


def _run(run_id: str) -> RunFolder | None:
    return next((run for run in runs.run_folders(home()) if run.run_id == run_id), None)
