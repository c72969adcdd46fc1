"""Small sets of latents, and what is read of them."""

import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.data.prepared.dataset import PictureSet
from pikavae.latents.encode import LOCK_NAME, encode_set
from pikavae.model.autoencoder import AutoencoderKL
from tests.support.pictures import picture_set

SIZE, FACTOR, CHANNELS = 16, 2, 3
SETS = tempfile.TemporaryDirectory()
SHAPE = (CHANNELS, SIZE // FACTOR, SIZE // FACTOR)
HOSTILE = [
    "",
    "two\nlines\r\nof it",
    "comma, \"quote\" 'apostrophe' \\ {brace}",
    "ünï日本\u2028\u202e🙂\U0010ffff",
    "nul \x00 and after",
    "---\nconfigs: []\n---",
    " spaces at both ends ",
    "NaN",
    "null",
    "x" * 70_000,
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def side(count: int, seed: int) -> PictureSet:
    generator = np.random.default_rng(seed)
    pictures = [generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(count)]
    return picture_set(
        Path(tempfile.mkdtemp(dir=SETS.name)),
        pictures,
        captions=[HOSTILE[i % len(HOSTILE)] for i in range(count)],
        names=[f"{seed}/{i}, \n日本.png" for i in range(count)],
    )


def sides(train: int = 23, validation: int = 6) -> dict[Any, PictureSet]:
    return {"train": side(train, 1), "validation": side(validation, 2)}


def model(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(ModelConfig(channels=(8, 16), norm_groups=4, latent_channels=CHANNELS)).eval()


def encode(folder: Path, subject: AutoencoderKL | None = None, given=None, **settings):
    defaults = {
        "batch_size": 4,
        "device": torch.device("cpu"),
        "logvar": False,
        "provenance": {"model": "m1", "snapshot": "step-00000001", "prepared_set": "p1"},
        "tokenizer_folder": None,
        "rows_per_shard": 10,
    }
    return encode_set(subject or model(), given or sides(), folder, **{**defaults, **settings})


def load(folder: Path, split: str, tmp_path: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(tmp_path / "cache"))


@torch.inference_mode()
def posterior(pictures: PictureSet, subject: AutoencoderKL | None = None):
    return (subject or model()).encode(pictures.batch(range(len(pictures)))["pixel_values"])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished set, for tests that only look."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made") / "latents"
    return folder, encode(folder)
