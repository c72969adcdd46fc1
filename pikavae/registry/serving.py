"""Loads and serves a registered model: MLflow copies this file into the package and runs it there.

pikavae does not import this file. The package also holds the snapshot, and a copy of the parts of pikavae that this
file needs, under a name of its own. So it loads without pikavae, and does not conflict with an installed one.
"""

import base64
import binascii
import importlib
import io
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlflow
import numpy as np
import numpy.typing as npt
import torch
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from PIL import Image

MAX_PIXELS = 64 * 1024 * 1024
BACKGROUND = (255, 255, 255)
EXPECTED = (
    "expected (B, 3, H, W) float32 in [-1, 1] (of pixels in 0 to 255: pixels / 127.5 - 1), or picture files: their "
    "bytes, or those as base64 text or data URIs"
)
MAX_OVERSHOOT = 0.05
"""How far a value may be outside [-1, 1], because rounding and interpolation overshoot. Another range is refused."""
DATA_URI = re.compile(r"data:[^,]*,", re.IGNORECASE)
URL_SAFE = str.maketrans("-_", "+/")


class Reconstruction(mlflow.pyfunc.PythonModel):
    """Reconstructs pictures by the posterior's mode."""

    def load_context(self, context: Any) -> None:
        """Read the snapshot, onto a GPU if there is one."""
        code = context.model_config["code"]
        read_snapshot = importlib.import_module(f"{code}.weights.published").read_snapshot
        self.pictures = importlib.import_module(f"{code}.data.pictures.decode")
        self.decoding = threading.Lock()  # a server answers in several threads; Pillow's limits are process-wide
        self.tiling = importlib.import_module(f"{code}.model.tiling")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        prepare_for_use = importlib.import_module(f"{code}.model.inference").prepare_for_use
        self.model = prepare_for_use(read_snapshot(Path(context.artifacts["snapshot"])), device)

    def predict(self, model_input: np.ndarray) -> np.ndarray:
        """Reconstruct pictures of any height and width.

        Args:
            model_input: (B, 3, H, W) float32 in [-1, 1]; or picture files (B,), each as its bytes or as text that
                `_content` takes. Files are turned upright and laid over white. MLflow makes such an array from a data
                frame's column.

        Returns:
            The same shape, clamped to [-1, 1]; or PNG files, as bytes for bytes and as base64 text for text.

        Raises:
            MlflowException: the input is something else, or a file is not a readable picture; a server answers with
                400.
        """
        if model_input.ndim == 1:
            return np.array(self._files(model_input.tolist()), dtype=object)
        return self._reconstruct(_tensor(model_input))

    def _files(self, files: Sequence[Any]) -> list[Any]:
        """Reconstruct picture files one after the other, and return PNG files."""
        results: list[Any] = []
        for number, file in enumerate(files, 1):
            pixels = self._reconstruct(self._decode(file, number))[0].transpose(1, 2, 0)
            buffer = io.BytesIO()
            Image.fromarray(np.round((pixels + 1.0) * 127.5).astype(np.uint8)).save(buffer, format="PNG")
            png = buffer.getvalue()
            results.append(base64.b64encode(png).decode("ascii") if isinstance(file, str) else png)
        return results

    def _decode(self, file: Any, number: int) -> npt.NDArray[np.float32]:
        """Return a picture file as (1, 3, H, W) float32 in [-1, 1]."""
        if not isinstance(file, bytes | str):
            raise _refusal(f"picture {number} is a {type(file).__name__}; {EXPECTED}")
        content = _content(file, number) if isinstance(file, str) else file
        try:
            with self.decoding:
                picture = self.pictures.decode(content, BACKGROUND, MAX_PIXELS).image
        except self.pictures.UnreadablePictureError as error:
            raise _refusal(f"picture {number}: {error}") from None
        return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1.0)

    def _reconstruct(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return reconstructions of the same shape, (B, 3, H, W).

        `reconstruct_any_size` describes how it treats odd sides and large pictures.
        """
        images = torch.from_numpy(np.ascontiguousarray(pixels))
        reconstructions: npt.NDArray[np.float32] = (
            self.tiling.reconstruct_any_size(self.model, images).clamp(-1, 1).numpy()
        )
        return reconstructions


def _content(text: str, number: int) -> bytes:
    """Decode base64 or a base64 data URI, in either alphabet, with or without padding and white space."""
    head = DATA_URI.match(text.lstrip())
    if head is not None:
        if not head[0].lower().rstrip(", ").endswith(";base64"):
            raise _refusal(f"picture {number}: a data URI that is not in base64; {EXPECTED}")
        text = unquote(text.lstrip()[head.end() :])
    digits = "".join(text.split()).translate(URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _refusal(f"picture {number}: its text is not base64") from None


def _tensor(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the pictures as float32. A server passes JSON's numbers as objects, because the signature allows any."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise _refusal(f"shape {images.shape}; {EXPECTED}")
    if images.dtype == object:
        try:
            images = images.astype(np.float32)
        except (TypeError, ValueError):
            raise _refusal(f"not all are numbers; {EXPECTED}") from None
    if images.dtype != np.float32:
        raise _refusal(f"dtype {images.dtype}; {EXPECTED}")
    if not np.isfinite(images).all():
        raise _refusal(f"NaN or infinite numbers; {EXPECTED}")
    low, high = float(images.min()), float(images.max())
    if max(-low, high) > 1.0 + MAX_OVERSHOOT:
        raise _refusal(f"values from {low:g} to {high:g}; {EXPECTED}")
    return images


def _refusal(complaint: str) -> MlflowException:
    return MlflowException(f"model input: {complaint}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Reconstruction())
