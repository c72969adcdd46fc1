"""Measure the scaling of a model's latents, by one definition everywhere.

The definition is that of `encode` and of latent-diffusion: mean and deviation over the latents of the pictures that the
model was trained on, since a diffusion model trains on them too (Rombach et al. 2022, appendix G, who use the first
batch of them). If this home does not have those pictures, the model keeps the scaling that it came with. A model that
came with none gets that of the pictures of the newest report, and its card says so. A model with `model.latent_norm`
needs none: its own statistics are of its latents. Nor does a tiny one, whose latents are scaled already.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from pikavae.config import Config, content_hash
from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import DamagedFileError
from pikavae.evaluation.measure.latent_statistics import LatentStatistics
from pikavae.evaluation.measure.measurement import images_of
from pikavae.evaluation.report.model_card import Scaling, scaling_of_report
from pikavae.evaluation.report.report import Report
from pikavae.model.inference import exact_float32, prepare_for_use
from pikavae.model.sizes import CONFIG_NAME, STABLE_DIFFUSION_SCALING_FACTOR, is_normalised
from pikavae.model.tiny_sizes import TINY
from pikavae.operations.stages.runtime import choose_device, use_threads
from pikavae.operations.stages.training_facts import training_pictures_of
from pikavae.tracker.client import Workspace
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import write_atomically
from pikavae.workspace.provenance import code_of
from pikavae.workspace.records import Record, read_object

logger = logging.getLogger(__name__)


class ScalingRecord(Record):
    """Holds the scaling of a model's latents that was measured on its training pictures."""

    scaling_factor: float
    shift_factor: float


def scaling_of(workspace: Workspace, snapshot: Path, report: Report | None, config: Config) -> Scaling | None:
    """Return the measured scaling of a snapshot's latents; None if it has its own, or nothing was measured.

    Args:
        workspace: the state folder and its store.
        snapshot: its folder.
        report: the newest report on it, used if the training pictures are unknown.
        config: batch size, device and threads.
    """
    sizes = read_object(snapshot / CONFIG_NAME)
    if is_normalised(sizes) or sizes.get("_class_name") == TINY:
        return None
    picture_set = training_pictures_of(workspace, snapshot)
    if picture_set is not None and len(picture_set):
        return _of_pictures(workspace, snapshot, picture_set, config)
    came_with = sizes.get("scaling_factor")
    keeps_its_own = came_with not in (None, STABLE_DIFFUSION_SCALING_FACTOR) or sizes.get("latents_std") is not None
    return None if report is None or keeps_its_own else scaling_of_report(report)


def scaling_key(workspace: Workspace, snapshot: Path) -> str | None:
    """Return the name of the measurement that `scaling_of` makes of a snapshot, without making it; None if of none."""
    picture_set = training_pictures_of(workspace, snapshot)
    return _key_of(snapshot, picture_set) if picture_set is not None and len(picture_set) else None


def _key_of(snapshot: Path, picture_set: PictureSet) -> str:
    """Return the name of a measurement on these pictures."""
    return content_hash(
        {
            "model": runs.snapshot_digest(snapshot),
            "pictures": picture_set.digest,
            "code of the latents": code_of("latents"),
        }
    )


def _of_pictures(workspace: Workspace, snapshot: Path, picture_set: PictureSet, config: Config) -> Scaling | None:
    """Measure the scaling on all training pictures, or reuse an earlier measurement."""
    key = _key_of(snapshot, picture_set)
    path = workspace.home / "scaling" / f"{key}.json"
    try:
        found = ScalingRecord.read(path)
        factor, shift = found.scaling_factor, found.shift_factor
    except (OSError, DamagedFileError):
        logger.info("measuring the scaling of the latents on the %d training pictures", len(picture_set))
        statistics = _statistics(snapshot, picture_set, config)
        factor, shift = statistics.scaling_factor, statistics.shift_factor
        scaling = Scaling.of(factor, shift, num_images=len(picture_set), side="training")
        if scaling is not None:
            record = ScalingRecord(scaling_factor=factor, shift_factor=shift)
            write_atomically(path, json.dumps(record.content()) + "\n")
        return scaling
    return Scaling.of(factor, shift, num_images=len(picture_set), side="training")


def _statistics(snapshot: Path, picture_set: PictureSet, config: Config) -> LatentStatistics:
    use_threads(config)
    device = choose_device(config)
    model = prepare_for_use(read_snapshot(snapshot), device)
    statistics = LatentStatistics(model.config.latent_channels)
    with torch.inference_mode(), exact_float32():
        for indices in picture_set.batches(config.evaluation.batch_size):
            statistics.update(model.encode(images_of(picture_set, indices).to(device)))
    return statistics
