"""The code of a registered model: MLflow copies this file into the package and runs it there to load the model.

It is not imported by pikavae. Beside it in the package lie a copy of what it needs of pikavae, under a name of its own,
and the snapshot; so it loads where pikavae is not installed, and is not disturbed by another version where it is.
"""

import base64
import binascii
import importlib
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import torch
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from PIL import Image

MAX_PIXELS = 64 * 1024 * 1024
BACKGROUND = (255, 255, 255)
EXPECTED = "expected (B, 3, H, W) float32 in [-1, 1], or picture files: their bytes, or those as base64 text"


class Reconstruction(mlflow.pyfunc.PythonModel):
    """Pictures to their reconstructions by the posterior's mode."""

    def load_context(self, context: Any) -> None:
        """Read the snapshot, onto a GPU where there is one."""
        code = context.model_config["code"]
        read_snapshot = importlib.import_module(f"{code}.model.snapshot").read_snapshot
        self.pictures = importlib.import_module(f"{code}.data.pictures")
        self.decoding = threading.Lock()  # a server answers in several threads, Pillow's limits are the process's
        self.tiling = importlib.import_module(f"{code}.model.tiling")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = read_snapshot(Path(context.artifacts["snapshot"])).to(device)

    def predict(self, model_input: np.ndarray) -> np.ndarray:
        """Reconstruct pictures of any height and width.

        Args:
            model_input: (B, 3, H, W) float32 in [-1, 1]; or picture files (B,), each as its bytes or as these in
                base64 text, which are turned upright and laid over white. MLflow makes that of a data frame's column.

        Returns:
            The same shape, clamped to [-1, 1]; or PNG files in the form of the given files.

        Raises:
            MlflowException: it is something else, or a file is no picture that can be read; a server answers with 400.
        """
        if model_input.ndim == 1:
            return np.array(self._files(model_input.tolist()), dtype=object)
        return self._reconstruct(_tensor(model_input))

    def _files(self, files: Sequence[Any]) -> list[Any]:
        """Picture files to PNG files, one after the other."""
        results: list[Any] = []
        for number, file in enumerate(files, 1):
            pixels = self._reconstruct(self._decoded(file, number))[0].transpose(1, 2, 0)
            buffer = io.BytesIO()
            Image.fromarray(np.round((pixels + 1.0) * 127.5).astype(np.uint8)).save(buffer, format="PNG")
            png = buffer.getvalue()
            results.append(base64.b64encode(png).decode("ascii") if isinstance(file, str) else png)
        return results

    def _decoded(self, file: Any, number: int) -> npt.NDArray[np.float32]:
        """A picture file as (1, 3, H, W) float32 in [-1, 1]."""
        if not isinstance(file, bytes | str):
            raise _refused(f"picture {number} is a {type(file).__name__}; {EXPECTED}")
        try:
            content = base64.b64decode("".join(file.split()), validate=True) if isinstance(file, str) else file
        except (binascii.Error, ValueError):
            raise _refused(f"picture {number}: its text is not base64") from None
        try:
            with self.decoding:
                picture = self.pictures.decode(content, BACKGROUND, MAX_PIXELS).image
        except self.pictures.UnreadablePictureError as error:
            raise _refused(f"picture {number}: {error}") from None
        return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1.0)

    def _reconstruct(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Reconstructions of (B, 3, H, W).

        `reconstruct_any_size` says what becomes of odd sides and of large pictures.
        """
        images = torch.from_numpy(np.ascontiguousarray(pixels))
        reconstructions: npt.NDArray[np.float32] = (
            self.tiling.reconstruct_any_size(self.model, images).clamp(-1, 1).numpy()
        )
        return reconstructions


def _tensor(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The pictures as float32. A server gives JSON's numbers as objects, for the signature leaves the kind open."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise _refused(f"shape {images.shape}; {EXPECTED}")
    if images.dtype == object:
        try:
            images = images.astype(np.float32)
        except (TypeError, ValueError):
            raise _refused(f"not all are numbers; {EXPECTED}") from None
    if images.dtype != np.float32:
        raise _refused(f"dtype {images.dtype}; {EXPECTED}")
    if not np.isfinite(images).all():
        raise _refused(f"NaN or infinite numbers; {EXPECTED}")
    return images


def _refused(complaint: str) -> MlflowException:
    return MlflowException(f"model input: {complaint}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Reconstruction())
