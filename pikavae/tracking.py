"""Runs in MLflow: the only module that writes them.

Every call names its client and its run: MLflow's own "active run" is kept per thread and opens stray runs in tasks that
run in other threads. A run can be continued after a crash; what it already holds is not written twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pikavae.errors import PikavaeError, TransientError, UserError
from pikavae.files import exclusive
from pikavae.registry.relocation import moved_from
from pikavae.registry.store import all_pages, all_versions, delete_model, point_time, quiet_mlflow
from pikavae.tracked import CHECKPOINT_TYPE
from pikavae.views import VIEW_TAG, leaderboard

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric
    from PIL import Image

ATTEMPTS_TAG = "pikavae.flow_run_ids"
NOTE_TAG = "mlflow.note.content"
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
POINTS_PER_FLUSH = 200
SECONDS_PER_FLUSH = 2.0
PROBE_SECONDS = 5.0
IMAGE_FILE = re.compile(r"(?P<key>[^/]+?)\+step\+(?P<step>-?\d+)\+timestamp\+.*\.png$")


def tracking_uri(home: Path) -> str:
    """Where runs are recorded: MLFLOW_TRACKING_URI when set, else the database in `home`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"


def connect(home: Path) -> MlflowClient:
    """A client of the store that `tracking_uri` names. Our own database is made here when it is not there yet.

    Args:
        home: the absolute folder that holds all state.

    Raises:
        UserError: the address is one that MLflow refuses, or our own database was moved and names other files.
        TransientError: nothing answers at the address.
        PikavaeError: the database cannot be used.
    """
    quiet_mlflow()
    uri = tracking_uri(home)
    if uri.startswith(("http://", "https://")):
        _probe(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        # Processes that make one new database at the same time break it for good.
        with exclusive(home / "mlflow.lock"):
            if uri == f"sqlite:///{home / 'mlflow.db'}":
                with closing(sqlite3.connect(home / "mlflow.db")) as database:
                    database.execute("PRAGMA journal_mode=WAL")  # kept in the file; readers no longer wait for writers
                if (old := moved_from(home)) is not None:
                    raise UserError(
                        f"{home}: was at {old} before; `pikavae store relocate` makes MLflow find its files"
                    )
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except MlflowException as error:
        kind = UserError if error.error_code == "INVALID_PARAMETER_VALUE" else PikavaeError
        raise kind(f"MLflow store {uri}: {' '.join(error.message.split())}") from None
    except sqlite3.DatabaseError as error:
        raise PikavaeError(f"MLflow store {home / 'mlflow.db'}: {error}; restore the file, or move it away") from None
    return client


def answers(home: Path) -> bool:
    """Whether the store can be written to now: MLflow itself would try for four minutes to reach a server."""
    uri = tracking_uri(home)
    if uri.startswith(("http://", "https://")):
        try:
            _probe(uri)
        except TransientError:
            return False
    return True


def _probe(uri: str) -> None:
    """Ask a server for a sign of life: MLflow's own retries would take four minutes to give up."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()  # something answers; whether it is MLflow shows in the first call
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TransientError(
            f"MLFLOW_TRACKING_URI {uri}: no answer ({reason}); start that server, or unset the variable"
        ) from None


def experiment_id(client: MlflowClient, home: Path, name: str) -> str:
    """The id of the experiment `name`, made when it is not there; in a local database its files go below `home`.

    Raises:
        UserError: the experiment was deleted in MLflow and not purged.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if str(client.tracking_uri).startswith("sqlite:"):
            # Without one, MLflow would take a folder of whatever the working directory is.
            readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
            digest = hashlib.sha256(name.encode()).hexdigest()[:8]
            location = (home / "artifacts" / f"{readable}-{digest}".lstrip("-")).as_uri()
        note = "Autoencoder runs of pikavae. Compare `val/psnr`; checkpoints are listed under Models."
        try:
            tags = {NOTE_TAG: note, VIEW_TAG: json.dumps(leaderboard())}
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment {name!r}: this experiment was deleted in MLflow; choose another name, or restore it "
            f"with `mlflow experiments restore -x {experiment.experiment_id}`"
        )
    if experiment.tags.get(VIEW_TAG) != json.dumps(leaderboard()):  # of an earlier pikavae
        client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, json.dumps(leaderboard()))
    return str(experiment.experiment_id)


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot that a run keeps as a logged model."""

    step: int
    model_id: str
    metrics: Mapping[str, float]
    location: str
    """Address of its files."""


class RunLog:
    """One MLflow run, and all that is written to it. Make it with `start` or `resume`."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str, name: str, last: dict[str, Metric]):
        self.run_id, self.experiment_id, self.name = run_id, experiment_id, name
        self._client = client
        self._last = last  # the last point of each curve
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()
        self._images: set[tuple[str, int]] | None = None  # read from the store when first needed
        self._validation_set: tuple[str, str] | None = None

    @classmethod
    def start(
        cls,
        client: MlflowClient,
        experiment_id: str,
        name: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
    ) -> RunLog:
        """Open a new run.

        Args:
            client: from `connect`.
            experiment_id: from the function of that name.
            name: shown in MLflow.
            tags: over `mlflow.source.name` and `mlflow.source.type`, which MLflow's client leaves empty.
            params: dotted names to JSON values; texts stay as they are, None is written as `null`.
        """
        from mlflow.entities import Param

        source = {"mlflow.source.name": "pikavae", "mlflow.source.type": "LOCAL"}
        run = client.create_run(experiment_id, run_name=name, tags={**source, **tags})
        log = cls(client, run.info.run_id, experiment_id, name, {})
        texts = [Param(key, _param_text(value)) for key, value in params.items()]
        for first in range(0, len(texts), PARAMS_PER_BATCH):
            client.log_batch(log.run_id, params=texts[first : first + PARAMS_PER_BATCH])
        return log

    @classmethod
    def resume(cls, client: MlflowClient, run_id: str) -> RunLog:
        """Continue a run, whatever its status is.

        Points at or before the last step of their curve, and pictures of a step that is there, are not written again.
        """
        client.update_run(run_id, status="RUNNING")
        run = client.get_run(run_id)
        last = {
            key: max(client.get_metric_history(run_id, key), key=lambda point: int(point.step))
            for key in run.data.metrics
        }
        return cls(client, run_id, run.info.experiment_id, run.info.run_name, last)

    def log(self, metrics: Mapping[str, float], step: int, *, again: bool = False, time_ms: int | None = None) -> None:
        """Add a point to each curve. Points are written in batches: at the latest after two seconds, or by `flush`.

        A point at or before the last step of its curve is dropped, since a resumed run computes it again; with `again`
        it is written all the same, and MLflow shows the later of two. NaN is kept; a database stores an infinite
        number as the largest finite one.

        Args:
            metrics: the points by the names of their curves.
            step: where they are on the curves.
            again: see above.
            time_ms: when they were measured, in milliseconds since 1970; now by default.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000) if time_ms is None else time_ms
        for key, value in metrics.items():
            if again or key not in self._last or step > self._last[key].step:
                self._last[key] = Metric(key, float(value), now, step)
                self._buffer.append(self._last[key])
        if len(self._buffer) >= POINTS_PER_FLUSH or time.monotonic() - self._flushed >= SECONDS_PER_FLUSH:
            self.flush()

    @property
    def is_holding_back(self) -> bool:
        """Whether there are points that `flush` would write."""
        return bool(self._buffer)

    def flush(self) -> None:
        """Write the points that are still held back."""
        for first in range(0, len(self._buffer), POINTS_PER_FLUSH):
            self._client.log_batch(self.run_id, metrics=self._buffer[first : first + POINTS_PER_FLUSH])
        self._buffer.clear()
        self._flushed = time.monotonic()

    def log_image(self, key: str, image: Image.Image, step: int) -> None:
        """Add a picture to the series `key`, which MLflow shows with a slider over steps; not twice for one step."""
        if self._images is None:
            listed = self._client.list_artifacts(self.run_id, "images")
            found = (IMAGE_FILE.match(Path(file.path).name) for file in listed)
            self._images = {(match["key"], int(match["step"])) for match in found if match}
        name = key.replace("/", "~")  # as MLflow writes it in file names
        if (name, step) not in self._images:
            self._client.log_image(self.run_id, image, key=key, step=step)
            self._images.add((name, step))

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file among the run's artifacts, under `folder`."""
        self._client.log_artifact(self.run_id, str(path), folder or None)

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as the artifact `name`."""
        self._client.log_text(self.run_id, text, name)

    def log_dataset(
        self,
        name: str,
        digest: str,
        context: str,
        *,
        num_rows: int,
        source: str,
    ) -> None:
        """Record a data set that the run reads.

        Args:
            name: shown in MLflow.
            digest: our fingerprint of its content, at most 36 characters; MLflow's own does not look at pictures.
            context: `training` or `validation`; checkpoints' scores are linked to the validation set.
            num_rows: how many pictures it has.
            source: where it came from.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name,
            digest,
            source_type="pikavae",
            source=json.dumps({"uri": source}),
            profile=json.dumps({"num_rows": num_rows}),
        )
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
        if context == "validation":
            self._validation_set = (name, digest)

    def log_checkpoint(self, folder: Path, step: int, metrics: Mapping[str, float]) -> str:
        """Keep a snapshot folder as a logged model with its scores; return its model id.

        What is held back is flushed first. A whole one of the same step is reused, one cut short is replaced.
        """
        from mlflow.entities import LoggedModelOutput, Metric

        self.flush()
        name = f"step-{step:08d}"
        for model in self._models(f"name = '{name}'"):
            if str(model.status) == "READY":
                return str(model.model_id)
            delete_model(self._client, model.model_id)
        model = self._client.create_logged_model(
            self.experiment_id, name, self.run_id, params={"step": str(step)}, model_type=CHECKPOINT_TYPE
        )
        self._client.log_model_artifacts(model.model_id, str(folder))
        dataset_name, dataset_digest = self._validation_set or (None, None)
        points = [
            Metric(
                key,
                float(value),
                point_time(self._client, self.run_id, key, step),
                step,
                model_id=model.model_id,
                dataset_name=dataset_name,
                dataset_digest=dataset_digest,
                run_id=self.run_id,
            )
            for key, value in metrics.items()
        ]
        self._client.log_batch(self.run_id, metrics=points)
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
        self._client.finalize_logged_model(model.model_id, "READY")  # last: a READY one has everything
        return str(model.model_id)

    def _models(self, condition: str = "") -> list[LoggedModel]:
        query = " AND ".join(
            [
                f"source_run_id = '{self.run_id}'",
                f"model_type = '{CHECKPOINT_TYPE}'",
                *([condition] if condition else []),
            ]
        )
        return all_pages(lambda token: self._client.search_logged_models([self.experiment_id], query, page_token=token))

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that the run keeps, by step."""
        return sorted(
            (
                Checkpoint(
                    int(model.params["step"]),
                    str(model.model_id),
                    {metric.key: metric.value for metric in model.metrics or []},
                    str(model.artifact_location),
                )
                for model in self._models()
                if str(model.status) == "READY"
            ),
            key=lambda checkpoint: checkpoint.step,
        )

    def drop_checkpoint(self, step: int) -> None:
        """Delete the checkpoint of a step and its bytes, unless a registered version was made from it."""
        for model in self._models(f"name = 'step-{step:08d}'"):
            if all(version.model_id != model.model_id for version in all_versions(self._client)):
                delete_model(self._client, model.model_id)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on the run, over what they were."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def add_attempt(self, flow_run_id: str) -> None:
        """Add an orchestrator's run id to the list of those that worked on this run."""
        tags = self._client.get_run(self.run_id).data.tags
        attempts = [attempt for attempt in tags.get(ATTEMPTS_TAG, "").split(",") if attempt]
        if flow_run_id not in attempts:
            self._client.set_tag(self.run_id, ATTEMPTS_TAG, ",".join([*attempts, flow_run_id]))

    def note(self) -> str:
        """The Markdown at the head of the run's page; empty where there is none."""
        return str(self._client.get_run(self.run_id).data.tags.get(NOTE_TAG, ""))

    def set_note(self, markdown: str) -> None:
        """Replace the Markdown at the head of the run's page."""
        self._client.set_tag(self.run_id, NOTE_TAG, markdown)

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Flush, and close the run."""
        self.flush()
        self._client.set_terminated(self.run_id, status)


def _param_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= PARAM_LENGTH else text[: PARAM_LENGTH - 1] + "…"
