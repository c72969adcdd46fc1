"""Writes runs in MLflow. No other module writes them.

Every call names its client and its run, because MLflow keeps its own "active run" per thread and opens stray runs in
tasks that run in other threads. A run can be continued after a crash. What it already holds is not written twice.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pikavae.process.marks import mark_here
from pikavae.tracker.labels import describe, own_part
from pikavae.tracker.mlflow_files import all_pages, all_versions, delete_model, point_time
from pikavae.tracker.queries import CHECKPOINT_TYPE
from pikavae.tracker.tags import ATTEMPTS_TAG, NOTE_TAG, OWNER_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric
    from PIL import Image

logger = logging.getLogger(__name__)

PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
POINTS_PER_FLUSH = 200
SECONDS_PER_FLUSH = 2.0
IMAGE_FOLDER = "images"
IMAGE_FILE = re.compile(r"(?P<key>[^/]+?)\+step\+(?P<step>-?\d+)\+timestamp\+.*\.png$")


@dataclass(frozen=True)
class Checkpoint:
    """Holds a snapshot that a run keeps as a logged model."""

    step: int
    model_id: str
    metrics: Mapping[str, float]
    location: str
    """Address of its files."""


class RunLog:
    """Writes one MLflow run. Make it with `start` or `resume`."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str, name: str, last: dict[str, Metric]):
        self.run_id, self.experiment_id, self.name = run_id, experiment_id, name
        self._client = client
        self._last = last  # the last point of each curve
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()
        self._images: set[tuple[str, int]] | None = None  # whole ones; read from the store when first needed
        self._unsure: dict[tuple[str, int], str] = {}  # file names of those that may be stored in part
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
            client: of the store.
            experiment_id: from `Workspace.experiment_id`.
            name: shown in MLflow.
            tags: added to `mlflow.source.name` and `mlflow.source.type`, which MLflow's client leaves empty.
            params: names to JSON values; texts remain unchanged, None is written as `null`.
        """
        from mlflow.entities import Param

        source = {"mlflow.source.name": "pikavae", "mlflow.source.type": "LOCAL", OWNER_TAG: mark_here()}
        run = client.create_run(experiment_id, run_name=name, tags={**source, **tags})
        log = cls(client, run.info.run_id, experiment_id, name, {})
        texts = [Param(key, _param_text(value)) for key, value in params.items()]
        for first in range(0, len(texts), PARAMS_PER_BATCH):
            client.log_batch(log.run_id, params=texts[first : first + PARAMS_PER_BATCH])
        return log

    @classmethod
    def resume(cls, client: MlflowClient, run_id: str) -> RunLog:
        """Continue a run of any status.

        Points at or before the last step of their curve are not written again, nor pictures of a step that has them.
        """
        client.set_tag(run_id, OWNER_TAG, mark_here())  # first: a run that is running is never without its process
        client.update_run(run_id, status="RUNNING")
        run = client.get_run(run_id)
        last = {
            key: max(client.get_metric_history(run_id, key), key=lambda point: int(point.step))
            for key in run.data.metrics
        }
        return cls(client, run_id, run.info.experiment_id, run.info.run_name, last)

    def log(self, metrics: Mapping[str, float], step: int, *, again: bool = False, time_ms: int | None = None) -> None:
        """Add a point to each curve. Points are written in batches: by the first call after two seconds, or by `flush`.

        A point at or before the last step of its curve is dropped, because a resumed run computes it again. NaN is
        kept. A database stores an infinite number as the largest finite one.

        Args:
            metrics: the points by the names of their curves.
            step: where they are on the curves.
            again: also write points at or before the last step; MLflow shows the later of two.
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

    def without_last(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the points whose value is not the one that MLflow shows of their curve."""
        shown = self._client.get_run(self.run_id).data.metrics
        return {key: value for key, value in metrics.items() if shown.get(key) != value}

    def log_usage(self, numbers: Mapping[str, float]) -> None:
        """Write what the run used, as it is now, unless it is written already: after the last point of every curve.

        MLflow shows metrics whose names begin with `system/` apart from the curves, and no chart of them on the run's
        first screen.
        """
        last = self._last
        new = {key: value for key, value in numbers.items() if key not in last or last[key].value != value}
        step = max((point.step for point in last.values()), default=0)
        self.log(new, step + 1 if any(last[key].step == step for key in new if key in last) else step)

    @property
    def is_holding_back(self) -> bool:
        """Return True if there are points that `flush` would write."""
        return bool(self._buffer)

    def flush(self) -> None:
        """Write the points that wait in the buffer."""
        for first in range(0, len(self._buffer), POINTS_PER_FLUSH):
            self._client.log_batch(self.run_id, metrics=self._buffer[first : first + POINTS_PER_FLUSH])
        self._buffer.clear()
        self._flushed = time.monotonic()

    def log_image(self, key: str, image: Image.Image, step: int) -> None:
        """Add a picture to the series `key`, once for each step. MLflow shows a series with a slider over steps.

        A picture whose upload failed may be in the store in whole or in part. It is then written again under the name
        that it has there. The last picture of each series that an earlier process left is treated the same way.
        """
        if self._images is None:
            self._images, self._unsure = self._stored_images()
        place = key.replace("/", "~"), step  # as MLflow writes the key in file names
        if place in self._images:
            return
        try:
            if place in self._unsure:
                self._replace_image(self._unsure[place], image)
            else:
                self._client.log_image(self.run_id, image, key=key, step=step)
        except Exception:  # raised again: whatever it was, the store may have a part
            self._images = None
            raise
        self._images.add(place)

    def _stored_images(self) -> tuple[set[tuple[str, int]], dict[tuple[str, int], str]]:
        """Return the pictures that the store has whole, and the file name of the last one of each series."""
        names = [Path(file.path).name for file in self._client.list_artifacts(self.run_id, IMAGE_FOLDER)]
        stored = {(match["key"], int(match["step"])): match[0] for name in names if (match := IMAGE_FILE.match(name))}
        last = dict(sorted(stored))  # the key of each series, and its last step
        unsure = {place: name for place, name in stored.items() if last[place[0]] == place[1]}
        return stored.keys() - unsure.keys(), unsure

    def _replace_image(self, name: str, image: Image.Image) -> None:
        """Write a picture and its thumbnail over the files of an upload that may have been cut short."""
        from mlflow.tracking.multimedia import compress_image_size
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

        with TemporaryDirectory() as folder:
            whole = Path(folder) / name
            thumbnail = whole.with_name(f"{whole.stem}+compressed.webp")  # both are named as `log_image` names them
            image.save(whole)
            compress_image_size(image).save(thumbnail)
            for file in (whole, thumbnail):
                self._client.log_artifact(self.run_id, str(file), IMAGE_FOLDER)
        self._client.set_tag(self.run_id, MLFLOW_LOGGED_IMAGES, "true")

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file among the run's artifacts, under `folder`."""
        self._client.log_artifact(self.run_id, str(path), folder or None)

    def log_picture(self, picture: Image.Image, name: str) -> None:
        """Keep a picture as the artifact `name`, in place of an earlier one."""
        with TemporaryDirectory() as folder:
            picture.save(path := Path(folder, name))
            self._client.log_artifact(self.run_id, str(path))

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
            context: `training` or `validation`; the scores of checkpoints are linked to the validation set.
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
        """Keep a snapshot folder as a logged model with its scores, and return its model id.

        The buffer is flushed first. A whole model of the same step is reused; one that was cut short is replaced.
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
                point_time(self._client, self.run_id, key, step, float(value)),
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
        """Return the checkpoints that the run keeps, by step."""
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

    def tags(self) -> dict[str, str]:
        """Return the run's tags as MLflow has them now."""
        return dict(self._client.get_run(self.run_id).data.tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on the run, replacing earlier values."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def remove_tag(self, key: str) -> None:
        """Remove a tag of the run, if it has it."""
        if key in self.tags():
            self._client.delete_tag(self.run_id, key)

    def add_attempt(self, flow_run_id: str) -> None:
        """Add an orchestrator's run id to the list of the attempts at this run."""
        attempts = [attempt for attempt in self.tags().get(ATTEMPTS_TAG, "").split(",") if attempt]
        if flow_run_id not in attempts:
            self._client.set_tag(self.run_id, ATTEMPTS_TAG, ",".join([*attempts, flow_run_id]))

    def note(self) -> str:
        """Return the run's description without a person's note before it; empty if there is none."""
        return own_part(self.tags())

    def set_note(self, markdown: str) -> None:
        """Replace the run's description, Markdown at the head of its page; a person's note stays before it."""
        self._client.set_tag(self.run_id, NOTE_TAG, describe(self.tags(), markdown))

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Flush, and close the run."""
        self.flush()
        self._client.set_terminated(self.run_id, status)


def _param_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= PARAM_LENGTH else text[: PARAM_LENGTH - 1] + "…"


def tag_run(client: MlflowClient, run_id: str, tags: Mapping[str, str], *, unless: str) -> None:
    """Set tags on a run and leave its status, unless it has the tag `unless`."""
    if unless not in client.get_run(run_id).data.tags:
        for key, value in tags.items():
            client.set_tag(run_id, key, value)


def keep_copy(client: MlflowClient, run_id: str, file: Path, folder: str) -> None:
    """Copy a file into a run's artifacts. If MLflow refuses, as for a deleted run, a warning is logged."""
    from mlflow.exceptions import MlflowException

    try:
        client.log_artifact(run_id, str(file), folder)
    except MlflowException as error:
        logger.warning("run %s keeps no copy of %s: %s", run_id, file.name, " ".join(error.message.split()))
