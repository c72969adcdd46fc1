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
import yaml
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from PIL import Image

MAX_PIXELS = 64 * 1024 * 1024
BACKGROUND = (255, 255, 255)
EXPECTED = (
    "expected (B, {channels}, H, W) float32 in [-1, 1] (of pixels in 0 to 255: pixels / 127.5 - 1), or picture files: "
    "their bytes, or those as base64 text or data URIs"
)
MAX_OVERSHOOT = 0.05
"""How far a value may be outside [-1, 1], because rounding and interpolation overshoot. Another range is refused."""
FORM_FIELDS = ("channels", "bit_depth", "range")
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
        snapshot = Path(context.artifacts["snapshot"])
        self.model = prepare_for_use(read_snapshot(snapshot), device)
        self.pixels = importlib.import_module(f"{code}.data.pictures.pixels")
        self.form = _form_of(snapshot, importlib.import_module(f"{code}.config"), self.pixels, self.model)

    def predict(self, model_input: np.ndarray) -> np.ndarray:
        """Reconstruct pictures of any height and width.

        Args:
            model_input: (B, C, H, W) float32 in [-1, 1], C the channels of the model's pictures; or picture files (B,),
                each as its bytes or as text that `_content` takes. Files are turned upright, and laid over white unless
                the model has alpha. MLflow makes such an array from a data
                frame's column.

        Returns:
            The same shape, clamped to [-1, 1]; or PNG files, as bytes for bytes and as base64 text for text. Where PNG
            cannot hold the channels, .npy files.

        Raises:
            MlflowException: the input is something else, or a file is not a readable picture; a server answers with
                400.
        """
        if model_input.ndim == 1:
            return np.array(self._files(model_input.tolist()), dtype=object)
        return self._reconstruct(_tensor(model_input, len(self.form.channels)))

    def _files(self, files: Sequence[Any]) -> list[Any]:
        """Reconstruct picture files one after the other, and return PNG files."""
        results: list[Any] = []
        for number, file in enumerate(files, 1):
            pixels = self._reconstruct(self._decode(file, number))[0].transpose(1, 2, 0)
            made = self._encode(pixels)
            results.append(base64.b64encode(made).decode("ascii") if isinstance(file, str) else made)
        return results

    def _encode(self, pixels: npt.NDArray[np.float32]) -> bytes:
        """Return a picture (H, W, C) in [-1, 1] as a PNG file, or as an .npy file where PNG cannot hold it."""
        shares = (pixels.astype(np.float64) + 1.0) / 2.0
        buffer = io.BytesIO()
        values = self.pixels.as_stated(shares, self.form)
        if self.pixels.fits_png(self.form):
            Image.fromarray(values).save(buffer, format="PNG")
        else:
            np.save(buffer, values)
        return buffer.getvalue()

    def _decode(self, file: Any, number: int) -> npt.NDArray[np.float32]:
        """Return a picture file as (1, C, H, W) float32 in [-1, 1]."""
        if not isinstance(file, bytes | str):
            expected = EXPECTED.format(channels=len(self.form.channels))
            raise _refusal(f"picture {number} is a {type(file).__name__}; {expected}")
        content = _content(file, number) if isinstance(file, str) else file
        try:
            with self.decoding:
                picture = self.pixels.decode_pixels(content, self.form, BACKGROUND, MAX_PIXELS).pixels
        except self.pictures.UnreadablePictureError as error:
            raise _refusal(f"picture {number}: {error}") from None
        half = np.float32(self.form.largest / 2)
        return np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / half - np.float32(1.0)

    def _reconstruct(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return reconstructions of the same shape, (B, C, H, W).

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
            raise _refusal(f"picture {number}: a data URI that is not in base64; encode its bytes in base64")
        text = unquote(text.lstrip()[head.end() :])
    digits = "".join(text.split()).translate(URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _refusal(f"picture {number}: its text is not base64") from None


def _form_of(snapshot: Path, config: Any, pixels: Any, model: Any) -> Any:
    """Return the form of a model's pictures: that of its configuration, or by its number of channels."""
    count = model.config.image_channels
    settings = snapshot / "pikavae.yaml"
    tree = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    given = (tree or {}).get("data", {})
    data = config.DataConfig(**{name: given[name] for name in FORM_FIELDS if name in given})
    if len(data.channel_names) != count:
        data = config.DataConfig(channels=config.channels_for(count))
    return pixels.PixelForm.of(data)


def _tensor(images: npt.NDArray[Any], channels: int) -> npt.NDArray[np.float32]:
    """Return the pictures as float32. A server passes JSON's numbers as objects, because the signature allows any."""
    expected = EXPECTED.format(channels=channels)
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
        raise _refusal(f"shape {images.shape}; {expected}")
    if images.dtype == object:
        try:
            images = images.astype(np.float32)
        except (TypeError, ValueError):
            raise _refusal(f"not all are numbers; {expected}") from None
    if images.dtype != np.float32:
        raise _refusal(f"dtype {images.dtype}; {expected}")
    if not np.isfinite(images).all():
        raise _refusal(f"NaN or infinite numbers; {expected}")
    low, high = float(images.min()), float(images.max())
    if max(-low, high) > 1.0 + MAX_OVERSHOOT:
        raise _refusal(f"values from {low:g} to {high:g}; {expected}")
    return images


def _refusal(complaint: str) -> MlflowException:
    return MlflowException(f"model input: {complaint}", error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(Reconstruction())
