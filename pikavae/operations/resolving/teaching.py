"""Resolve the autoencoder that a tiny one learns from, and how a diffusion model scales its latents."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pikavae.model.sizes import CONFIG_NAME, STABLE_DIFFUSION_SCALING_FACTOR, is_normalised, scaling_in
from pikavae.operations.resolving.resolve import ResolvedModel, teacher_model
from pikavae.operations.resolving.scaling import scaling_key, scaling_of
from pikavae.operations.stages import keys
from pikavae.operations.stages.describing import has_the_latents_of_others
from pikavae.workspace.records import Inputs, read_object
from pikavae.workspace.run_record import TeacherRecord

if TYPE_CHECKING:
    from pikavae.config import Config
    from pikavae.tracker.client import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedTeacher:
    """Holds the teacher of a training.

    Attributes:
        model: the autoencoder.
        scaling: the key of the measured scaling of its latents; None if its `config.json` has what counts.
    """

    model: ResolvedModel
    scaling: str | None

    @property
    def inputs(self) -> Inputs:
        """Return the inputs of the training that name it."""
        scaling = {} if self.scaling is None else {keys.TEACHERS_SCALING: self.scaling}
        return {keys.TEACHER: self.model.digest, **scaling}

    def record(self, workspace: Workspace, config: Config) -> TeacherRecord:
        """Return what the training needs of it; the scaling is measured, unless it was before."""
        folder = self.model.folder
        factors: dict[str, Any] = {"scaling_factor": STABLE_DIFFUSION_SCALING_FACTOR, "shift_factor": 0.0}
        sizes = read_object(folder / CONFIG_NAME)
        if is_normalised(sizes):
            logger.info("the teacher %s: its latents are normalised by its own statistics", self.model.name)
            return TeacherRecord(folder=str(folder), scaling_factor=1.0, shift_factor=0.0)
        factors |= scaling_in(sizes)
        source = f"by its {CONFIG_NAME}"
        if self.scaling is not None and (measured := scaling_of(workspace, folder, None, config)) is not None:
            factors, source = {**measured.factors}, f"measured on {measured.source}"
        logger.info("the teacher %s: its latents are scaled as %s, %s", self.model.name, formula(factors), source)
        return TeacherRecord(folder=str(folder), **factors)


def formula(factors: Mapping[str, Any]) -> str:
    """Return how latents are scaled, for a person."""
    if "latents_std" in factors:
        return f"(latent - mean) * {factors['scaling_factor']:.5g} / std, by channel"
    return f"(latent - {factors['shift_factor']:.5g}) * {factors['scaling_factor']:.5g}"


def teacher_of(workspace: Workspace, config: Config) -> ResolvedTeacher | None:
    """Return the teacher that `training.teacher` names; None if it names none.

    The scaling of its latents is that of an export: measured on the pictures that it was trained on if this home has
    them, and else what it came with.

    Raises:
        UserError: as `teacher_model`.
        DamagedFileError: a file of a version or a finished run does not have its recorded hash.
    """
    model = teacher_model(workspace, config)
    if model is None:
        return None
    own = has_the_latents_of_others(model.folder) or is_normalised(read_object(model.folder / CONFIG_NAME))
    return ResolvedTeacher(model, None if own else scaling_key(workspace, model.folder))
