"""Read picture files as a model takes them, and write what it makes, in the form of its training pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pikavae.config import DataConfig, channels_for
from pikavae.data.pictures.decode import UnreadablePictureError
from pikavae.data.pictures.form import GREY, PLAIN, RGBA, PixelForm
from pikavae.data.pictures.pixels import as_stated, decode_pixels, fits_png
from pikavae.data.prepared.dataset import to_float
from pikavae.errors import UserError
from pikavae.model.sizes import CONFIG_NAME, RUN_CONFIG_NAME, model_config
from pikavae.presets import load_config
from pikavae.workspace.records import read_object

MAX_PIXELS = DataConfig().max_pixels
WHITE = (255, 255, 255)
PNG, NPY = ".png", ".npy"
TIFF = (".tif", ".tiff")


def form_of(folder: Path) -> PixelForm:
    """Return the form of the pictures that a snapshot or diffusers folder is a model of.

    Without a configuration of pikavae, the number of channels decides: grey, RGB, RGBA, or channels without names.
    """
    sizes, settings = folder / CONFIG_NAME, folder / RUN_CONFIG_NAME
    count = model_config(read_object(sizes), where=str(sizes)).image_channels
    if settings.is_file() and len((data := load_config(settings).data).channel_names) == count:
        return PixelForm.of(data)
    return PixelForm.of(DataConfig(channels=channels_for(count)))


def suffix_for(form: PixelForm) -> str:
    """Return the suffix of the files that hold pictures of a form without loss: .png if it can, else .npy."""
    return PNG if fits_png(form) else NPY


def suffixes_for(form: PixelForm) -> tuple[str, ...]:
    """Return the suffixes of the files that pictures of a form may be written to, the usual one first."""
    return tuple(dict.fromkeys((suffix_for(form), NPY, *TIFF))) if not form.is_plain else (PNG,)


def read_picture(path: Path, form: PixelForm = PLAIN) -> Tensor:
    """Read a picture file as (1, C, H, W) float32 in [-1, 1], upright; transparency over white, unless alpha is kept.

    Raises:
        UserError: the file does not exist, or is not a readable picture of this form.
    """
    if path.is_dir():
        raise UserError(f"IMAGE {path}: a folder; name a picture file")
    try:
        pixels = decode_pixels(path.read_bytes(), form, WHITE, MAX_PIXELS).pixels
    except OSError as error:
        raise UserError(f"IMAGE {path}: {error.strerror}") from None
    except UnreadablePictureError as error:
        raise UserError(f"IMAGE {path}: {error}") from None
    return to_float(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])


def picture_bytes(image: Tensor, form: PixelForm = PLAIN, suffix: str = PNG) -> bytes:
    """Return one picture, (1, C, H, W) in about [-1, 1], as the bytes of a file.

    A .png has 8 bits a channel, or 16 for such grey. An .npy or .tif has the numbers in the units of the form: float32
    in `data.range`, or integers of its bits. The colours of RGBA are divided by alpha, as files have them.

    Args:
        image: clamped; NaN becomes the least value.
        form: its form.
        suffix: one of `suffixes_for`.
    """
    from pikavae.evaluation.report.panels import to_uint8

    buffer = io.BytesIO()
    if form.is_plain:
        Image.fromarray(to_uint8(image)[0].permute(1, 2, 0).numpy()).save(buffer, format="PNG")
        return buffer.getvalue()
    clamped = image[0].detach().cpu().double().nan_to_num(nan=-1.0).clamp(-1.0, 1.0)
    values = as_stated(((clamped + 1.0) / 2.0).permute(1, 2, 0).numpy(), form)
    if suffix == PNG:
        Image.fromarray(values).save(buffer, format="PNG")
    elif suffix == NPY:
        np.save(buffer, values)
    else:
        _write_tiff(buffer, values, form)
    return buffer.getvalue()


def _write_tiff(buffer: io.BytesIO, values: np.ndarray, form: PixelForm) -> None:
    import tifffile

    colours = not form.is_named and form.channels != GREY
    options: dict[str, Any] = {"photometric": "rgb"} if colours else {"photometric": "minisblack"}
    if values.ndim == 3:
        options["planarconfig"] = "contig"
    if form.channels == RGBA:
        options["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(buffer, values, metadata={"channels": list(form.channels)}, **options)
