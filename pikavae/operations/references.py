"""Who refers to a run's snapshots: registered versions, production's ledger, trainings that began with one, latents."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae import runs, stages
from pikavae.evaluation.latent_set import RECORD_NAME
from pikavae.home import home
from pikavae.model.snapshot import CONFIG_NAME, WEIGHTS_NAME
from pikavae.registry import production
from pikavae.registry.production_model import RUN_TAG
from pikavae.registry.store import all_versions
from pikavae.registry.versions import MODEL_ID_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from pikavae.tracked import RunModel


@dataclass(frozen=True)
class Reference:
    """Something that refers to a snapshot.

    Attributes:
        who: for a person.
        run_id: the run that the snapshot is of; None where that is not told.
        digest: over its sizes and weights; None where that is not told.
        addresses: where its files are read from: a logged model's or a folder's.
    """

    who: str
    run_id: str | None
    digest: str | None
    addresses: tuple[str, ...] = ()

    def holds(self, model: RunModel) -> bool:
        """Whether it reads the files of this logged model."""
        return any(model.model_id in address for address in self.addresses)


def references_in_home() -> list[Reference]:
    """Those that this home tells of without MLflow.

    Raises:
        DamagedFileError: production's ledger is not whole.
    """
    ledger = [
        Reference(f"line {event['sequence']} of the ledger", event["run_id"], event["snapshot"])
        for event in production.history(home())
    ]
    begun = [
        Reference(f"run {run.run_id} began with it", None, run.record["inputs"][stages.START])
        for run in runs.run_folders(home())
        if stages.START in run.record["inputs"]
    ]
    latents = [
        Reference(f"latents/{path.parent.name} are its", None, runs.read_json(path).get("model"))
        for path in (home() / "latents").glob(f"*/{RECORD_NAME}")
    ]
    return [*ledger, *begun, *latents]


def references_in_registry(client: MlflowClient) -> list[Reference]:
    """The versions of all registered models, whoever made them and of what."""
    return [
        Reference(
            f"{version.name} version {version.version}",
            version.tags.get(RUN_TAG) or version.run_id,
            version.tags.get("pikavae.snapshot"),
            tuple(_addresses(client, version)),
        )
        for version in all_versions(client)
    ]


def _addresses(client: MlflowClient, version: ModelVersion) -> Iterator[str]:
    yield str(version.source)
    if own := version.tags.get(MODEL_ID_TAG):
        yield f"models:/{own}"
    elif version.model_id:
        yield f"models:/{version.model_id}"
    else:  # made by hand of a folder, or a copy of another version
        yield str(client.get_model_version_download_uri(version.name, version.version))


def referred_steps(
    run_id: str,
    snapshots: Mapping[int, Path],
    models: Collection[RunModel],
    references: Iterable[Reference],
    *,
    unread: Collection[int],
) -> Iterator[tuple[int, str]]:
    """The steps of a run that are referred to, each with who does. One that names the run alone keeps all its steps.

    Args:
        run_id: the run.
        snapshots: its snapshot folders by step.
        models: its logged models.
        references: of all runs.
        unread: steps that stay for another reason, whose weights need not be read for their digest.
    """
    concerned = [reference for reference in references if reference.run_id in {None, run_id} or reference.addresses]
    wanted = {
        reference.digest
        for reference in concerned
        if reference.run_id in {None, run_id} and reference.digest is not None
    }
    digests = {
        step: runs.snapshot_digest(path)
        for step, path in snapshots.items()
        if wanted and step not in unread and all((path / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME))
    }
    for reference in concerned:
        found = {model.step for model in models if reference.holds(model)}
        for step, path in snapshots.items():
            if any(run_id in address and path.name in address for address in reference.addresses):
                found.add(step)
        if reference.digest is not None and reference.run_id in {None, run_id}:
            found |= {step for step, digest in digests.items() if digest == reference.digest}
        elif reference.run_id == run_id and not found:
            found = set(snapshots)
        for step in sorted(found):
            yield step, reference.who
