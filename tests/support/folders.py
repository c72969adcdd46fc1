"""Folders of pictures, written and read."""

import io

import numpy as np
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.sources.open import open_source


def encoded(kind, colour=(200, 10, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, kind)
    return buffer.getvalue()


PNG = encoded("PNG")


def picture(number):
    return encoded("PNG", (number % 256, number // 256, 7))


def fill(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def opened(root, **fields):
    return open_source(str(root), DataConfig(source=str(root), **fields), "data.source")


def pictures_of(source, size=1000):
    return {picture.name: picture for chunk in source.chunks(size) for picture in chunk.pictures()}


def captions_of(source):
    return {name: picture.caption for name, picture in pictures_of(source).items()}


def draw(folder, numbers, *, low=0, high=256, size=16):
    """Pictures of coarse noise, another for each number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(low, high, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(folder / f"{number:04d}.png")
