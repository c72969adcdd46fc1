"""The champion stands in the table of an evaluation by itself."""

import pytest
import torch

from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from tests.support import commands
from tests.support.configs import tiny_on_cpu as tiny
from tests.support.house import NAME


def config(**overrides):
    return tiny(**{"registry.model_name": NAME, **overrides})


@pytest.fixture
def other(tmp_path):
    """A model folder that is no version."""
    folder = tmp_path / "other"
    folder.mkdir()
    torch.manual_seed(9)
    write_snapshot(folder, AutoencoderKL(tiny().model), image_size=16, config="")
    return str(folder)


def test_the_champion_is_measured_once_and_is_the_one_of_the_moment(house, quick, other):
    assert commands.beside(other, config()).others == ()
    house.promote(1)
    first = commands.beside(other, config())
    ((label, champion),) = first.others
    assert label == "champion, version 1"
    assert (first.evaluated.reused, champion.reused, first.note) == (True, False, None)
    assert f"\n{label}  " in first.table()
    ((_, again),) = commands.beside(other, config()).others
    assert (again.reused, again.folder) == (True, champion.folder)
    assert commands.beside("champion", config()).others == ()  # not beside itself
    assert [label for label, _ in commands.beside(other, config(), ["1"]).others] == ["1"]
    house.promote(2)
    later = commands.beside(other, config())
    assert [label for label, _ in later.others] == ["champion, version 2"]
    assert later.evaluated.folder == first.evaluated.folder
    assert later.file != first.file


def test_a_champion_that_does_not_fit_the_pictures_is_left_out_with_the_reason(house, quick, tmp_path):
    house.promote(1)  # two pixels a latent cell
    folder = tmp_path / "any size"
    folder.mkdir()
    plain = {"model.channels": [8], "data.image_size": 15}
    write_snapshot(folder, AutoencoderKL(tiny(**plain).model), image_size=15, config="")
    found = commands.beside(str(folder), config(**plain))
    assert found.others == ()
    assert "data.image_size 15 is not a multiple of the downsampling factor 2" in found.note
    assert found.note in found.table()
