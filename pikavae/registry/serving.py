"""The code of a registered model: MLflow copies this file into the package and runs it there to load the model.

It is not imported by pikavae. Beside it in the package lie a copy of what it needs of pikavae, under a name of its own,
and the snapshot; so it loads where pikavae is not installed, and is not disturbed by another version where it is.
"""

import importlib
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
import torch.nn.functional as F

PIXELS_PER_BATCH = 1024 * 1024


class Reconstruction(mlflow.pyfunc.PythonModel):
    """Pictures to their reconstructions by the posterior's mode."""

    def load_context(self, context: Any) -> None:
        """Read the snapshot, onto a GPU where there is one."""
        read_snapshot = importlib.import_module(f"{context.model_config['code']}.model.snapshot").read_snapshot
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = read_snapshot(Path(context.artifacts["snapshot"])).to(self.device)

    @torch.inference_mode()
    def predict(self, model_input: np.ndarray) -> np.ndarray:
        """Reconstruct `model_input`: (B, 3, H, W) float32 in [-1, 1], any H and W; the same shape, clamped to [-1, 1].

        Sides that the downsampling factor does not divide are padded with their last row or column, and cut back.
        """
        images = torch.from_numpy(np.ascontiguousarray(model_input))
        height, width = images.shape[2:]
        factor = self.model.config.downsampling_factor
        images = F.pad(images, (0, -width % factor, 0, -height % factor), mode="replicate")
        count = max(1, PIXELS_PER_BATCH // (images.shape[2] * images.shape[3]))  # bounds the memory, whatever B is
        outputs = [
            self.model.decode(self.model.encode(batch.to(self.device)).mode()).clamp(-1, 1)[:, :, :height, :width].cpu()
            for batch in torch.split(images, count)
        ]
        reconstructions: np.ndarray = torch.cat(outputs).numpy()
        return reconstructions


mlflow.models.set_model(Reconstruction())
