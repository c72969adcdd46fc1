"""Defines the records of a run folder: what a run is of, and the result of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pikavae.workspace.records import Inputs, Record


class ExtendedRun(Record):
    """Names the finished run that a longer one began with, and its last step."""

    run: str
    step: int


class RunRecord(Record):
    """Holds the record of a run, `run.json`."""

    key: str
    """The key of its training."""
    inputs: Inputs
    """The inputs of its training."""
    created: str
    """UTC, ISO 8601."""
    config: Mapping[str, Any]
    """The whole configuration, as the version that wrote it had its fields."""
    extends: ExtendedRun | None = None


class TeacherRecord(Record):
    """Names the autoencoder whose latents a tiny one learns, and how a diffusion model scales them."""

    folder: str
    """Its snapshot folder."""
    scaling_factor: float
    shift_factor: float
    latents_mean: Sequence[float] | None = None
    latents_std: Sequence[float] | None = None
    """One number for each channel; None if all channels have the same."""


class JobRecord(Record):
    """Holds what the training process is to do, `job.json`."""

    config: Mapping[str, Any]
    """The whole configuration."""
    prepared: str
    """The folder of the prepared set."""
    start: str | None = None
    """The snapshot folder with the first weights; None for new ones."""
    teacher: TeacherRecord | None = None
    """The autoencoder whose latents are learned; None if there is none."""
    device: str
    threads: int
    """CPU threads of each process."""
    processes: int


class Counters(Record):
    """Holds how far a training is."""

    step: int
    images_seen: int
    seconds: float
    """Training time so far, over all attempts."""
    scores: Mapping[str, float]
    """The primary validation metric of every checkpoint, by step."""
    processes: int
    threads: int | None = None
    """CPU threads of each process; None in checkpoints of earlier versions."""


class CheckpointRecord(Counters):
    """Holds the record of a checkpoint, `state.json`, without its digest."""

    sha256: Mapping[str, str]
    """The hash of each other file of the checkpoint."""


class FinishedTraining(Record):
    """Holds what the training process reports at its end."""

    snapshot: str
    """The folder of the last step's weights, by its name among the run's snapshots."""
    start_step: int
    """Where the last attempt began; 0 unless it resumed."""
    steps: int
    """Optimizer steps of the whole run."""
    images_seen: int = 0
    """Pictures of the whole run."""
    images_per_second: float = 0.0
    best_step: int
    """The step of the best validation score among the checkpoints."""


class PrunedRecord(Record):
    """Says why a sweep stopped an unfinished training, `pruned.json`. A training that resumes removes it."""

    time: str
    """UTC, ISO 8601."""
    reason: str


class TrainingResult(FinishedTraining):
    """Holds the result of a training, `train.json`, which marks the run as finished."""

    experiment_id: str = ""
    snapshot_sha256: Mapping[str, str]
    """The hash of each file of the snapshot."""


class ImportResult(Record):
    """Holds, in `train.json`, a model that was imported and not trained here."""

    imported: str
    """Where it was imported from."""
    steps: int
    best_step: int
    images_seen: int = 0
    snapshot: str
    experiment_id: str = ""
    snapshot_sha256: Mapping[str, str]


RunResult = TrainingResult | ImportResult
