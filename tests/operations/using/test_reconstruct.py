import numpy as np
import pytest
import torch
from PIL import Image

from pikavae.config import Config, ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from tests.support import commands


@pytest.fixture
def folder(tmp_path):
    """A model of 16 pixels a cell."""
    torch.manual_seed(0)
    model = AutoencoderKL(ModelConfig(channels=(1, 1, 1, 2, 2), num_res_blocks=1, norm_groups=1))
    (tmp_path / "model").mkdir()
    write_snapshot(tmp_path / "model", model, image_size=64, config=Config(model=model.config).to_yaml())
    return tmp_path / "model"


def test_pictures_of_more_than_a_megapixel_keep_their_odd_size(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1003, 1101, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:5, :3]).save(tmp_path / "small.png")
    files = commands.reconstruct(
        str(folder), [tmp_path / "large.png", tmp_path / "small.png"], tmp_path / "out", Config()
    )
    for file, size in zip(files, [(1101, 1003), (3, 5)], strict=True):
        with Image.open(file) as image:
            assert image.size == size


def test_nothing_is_written_where_one_file_cannot_be_read(folder, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:30])
    with pytest.raises(UserError, match=r"b\.png"):
        commands.reconstruct(str(folder), [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", Config())
    assert not (tmp_path / "out").exists()
