"""`interpolate` and `sample` as a user meets them."""

import json
from pathlib import Path

import pytest
import torch

from flows.cli import main
from pikavae.config import ModelConfig
from pikavae.evaluation.report.panels import to_uint8
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import RUN_CONFIG_NAME, write_snapshot
from pikavae.operations.using.picture_formats import picture_bytes, read_picture
from pikavae.presets import parse_config
from pikavae.weights.published import read_snapshot
from pikavae.workspace.home import home

CONFIG = parse_config(
    {
        "model": ModelConfig(channels=(8, 8, 8), norm_groups=4).model_dump(),
        "data": {"sprites_count": 12, "image_size": 16, "validation_fraction": 0.3},
        "training": {"threads": 1},
    }
)


@pytest.fixture
def model(tmp_path):
    """A model folder, for whose factor of 4 the pictures of 20 x 18 px must be padded."""
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    write_snapshot(folder, AutoencoderKL(CONFIG.model), image_size=16, config=CONFIG.to_yaml())
    return folder


@pytest.fixture
def run(capsys, tmp_path):
    """Runs a command with `--out out` and gives the files that it wrote, and what it said."""

    def command(name, *words, out="out"):
        status = main([name, *map(str, words), "--out", str(tmp_path / out), "--json"])
        said, complaint = capsys.readouterr()
        assert status == 0, complaint
        return [Path(file) for file in json.loads(said.splitlines()[-1])["files"]], complaint

    return command


@pytest.fixture
def mistake(capsys, tmp_path):
    """Runs a command that must be refused, in one line and with nothing written, and gives the line."""

    def command(name, *words):
        status = main([name, *map(str, words), "--out", str(tmp_path / "none")])
        said, complaint = capsys.readouterr()
        assert (status, said, len(complaint.strip().splitlines())) == (2, "", 1)
        assert not (tmp_path / "none").exists()
        return complaint

    return command


def test_the_ends_of_an_interpolation_are_the_reconstructions(run, model, folder_of_pictures):
    first, second = folder_of_pictures / "00.png", folder_of_pictures / "01.png"
    frames, _ = run("interpolate", model, first, second, "--frames", "11")
    ends, _ = run("reconstruct", model, first, second, out="ends")
    assert [frame.name for frame in frames] == [f"00-01-{place:02d}.png" for place in range(11)]
    assert frames[0].read_bytes() == ends[0].read_bytes()
    assert frames[-1].read_bytes() == ends[1].read_bytes()
    assert {read_picture(frame).shape for frame in frames} == {(1, 3, 18, 20)}


@torch.inference_mode()
def test_between_the_ends_the_latent_is_the_weighted_mean(run, model, tmp_path):
    images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for image, path in zip(images, paths, strict=True):
        path.write_bytes(picture_bytes(image[None]))
    frames, _ = run("interpolate", model, *paths, "--frames", "5")
    loaded = read_snapshot(model)
    first, second = (loaded.encode(image[None]).mode() for image in images)
    expected = to_uint8(loaded.decode(0.75 * first + 0.25 * second))
    assert (to_uint8(read_picture(frames[1])).int() - expected.int()).abs().max() <= 1


def test_draws_differ_from_each_other_and_a_seed_repeats_them(run, model, folder_of_pictures):
    pictures = [folder_of_pictures / "00.png", folder_of_pictures / "01.png"]
    drawn, said = run("sample", model, *pictures, "--count", "3")
    assert [file.name for file in drawn] == ["00-0.png", "00-1.png", "00-2.png", "01-0.png", "01-1.png", "01-2.png"]
    assert {read_picture(file).shape for file in drawn} == {(1, 3, 18, 20)}
    assert len({file.read_bytes() for file in drawn}) == 6
    again, _ = run("sample", model, pictures[0], "--count", "2", out="again")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in drawn[:2]]
    other, _ = run("sample", model, pictures[0], "--count", "1", "--seed", "1", out="other")
    assert other[0].read_bytes() not in {file.read_bytes() for file in drawn}
    assert "Drawn from the posteriors" in said


def test_noise_has_the_measured_mean_and_deviation_of_the_latents(run, mistake, model):
    complaint = mistake("sample", model)
    assert f"`pikavae evaluate {model}` measures them" in complaint
    assert main(["evaluate", str(model)]) == 0
    (report,) = home().glob("evaluations/*/report.json")
    metrics = json.loads(report.read_text())["metrics"]
    files, said = run("sample", model, "--count", "2", "--seed", "5")
    assert [file.name for file in files] == ["noise-0.png", "noise-1.png"]
    assert "no picture of the data" in said
    noise = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        expected = read_snapshot(model).decode(metrics["latent_mean"] + metrics["latent_std"] * noise)
    assert torch.equal(to_uint8(read_picture(files[0])), to_uint8(expected))
    again, _ = run("sample", model, "--count", "1", "--seed", "5", out="again")
    assert again[0].read_bytes() == files[0].read_bytes() != files[1].read_bytes()


def test_a_folder_of_another_maker_will_do_and_equal_ends_have_one_picture(run, model, folder_of_pictures):
    (model / RUN_CONFIG_NAME).unlink()
    frames, _ = run("interpolate", model, folder_of_pictures / "00.png", folder_of_pictures / "00.png")
    assert len({frame.read_bytes() for frame in frames}) == 1
    assert len(frames) == 9


def test_mistakes_are_told_in_one_line_and_nothing_is_written(mistake, model, folder_of_pictures, tmp_path):
    first, second = folder_of_pictures / "00.png", folder_of_pictures / "01.png"
    other, broken = tmp_path / "other.png", tmp_path / "broken.png"
    other.write_bytes(picture_bytes(torch.zeros(1, 3, 8, 30)))
    broken.write_bytes(b"no picture")
    twin = tmp_path / "00.png"
    twin.write_bytes(first.read_bytes())
    assert "name two picture files" in mistake("interpolate", model, first)
    assert "takes one model and two picture files" in mistake("interpolate", model, first, second, other)
    assert "30x8 pixels" in mistake("interpolate", model, first, other)
    assert "--frames 1" in mistake("interpolate", model, first, second, "--frames", "1")
    assert "broken.png" in mistake("interpolate", model, first, broken)
    assert "broken.png" in mistake("sample", model, first, broken)
    assert "none.png" in mistake("sample", model, tmp_path / "none.png")
    assert "several files are called '00'" in mistake("sample", model, first, twin)
    assert "--count 0" in mistake("sample", model, first, "--count", "0")
    assert "--seed -1" in mistake("sample", model, first, "--seed", "-1")
    assert "--seed 99999999999999999999" in mistake("sample", model, first, "--seed", "99999999999999999999")
    assert "name a model" in mistake("sample")


@pytest.fixture
def nested(tmp_path):
    """A folder with pictures at three depths, and a text that is none."""
    folder = tmp_path / "nested"
    for place, name in enumerate(("one.png", "a/one.png", "a/b/two.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_bytes(torch.full((1, 3, 8, 8), place / 4)))
    (folder / "a" / "notes.txt").write_text("no picture")
    return folder


@pytest.mark.parametrize(("command", "mark"), [(["reconstruct"], ""), (["sample", "--count", "1"], "-0")])
def test_of_a_folder_all_pictures_are_taken_and_keep_their_places(run, model, nested, command, mark):
    name, *words = command
    files, _ = run(name, model, nested, *words)
    out = nested.parent / "out"
    assert files == [out / f"{place}{mark}.png" for place in ("a/b/two", "a/one", "one")]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(files)
    again, _ = run(name, model, nested / "a" / "b", nested / "one.png", *words, out="other")
    assert again == [out.with_name("other") / f"{place}{mark}.png" for place in ("two", "one")]


@pytest.mark.parametrize("command", ["reconstruct", "sample"])
@pytest.mark.parametrize("holds", ["nothing", "texts"])
def test_a_folder_without_pictures_is_refused(mistake, model, tmp_path, command, holds):
    folder = tmp_path / "empty" / "deeper"
    folder.mkdir(parents=True)
    if holds == "texts":
        (folder / "notes.txt").write_text("no picture")
    assert f"IMAGE {folder.parent}: the folder holds no pictures" in mistake(command, model, folder.parent)


@pytest.mark.parametrize("command", [["reconstruct"], ["sample", "--count", "1"]])
@pytest.mark.parametrize("name", ["x.png", "X.PNG", "deeper/x.png"])
def test_one_picture_goes_to_the_file_that_is_named(run, model, nested, tmp_path, command, name):
    files, _ = run(command[0], model, nested / "one.png", *command[1:], out=name)
    assert files == [tmp_path / name]
    assert read_picture(tmp_path / name).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("words", "out", "complaint"),
    [
        (["reconstruct", "nested"], "x.png", "one file, and 3 pictures would be written; name a folder"),
        (["sample", "nested/one.png"], "x.png", "one file, and 4 pictures would be written; name a folder"),
        (["interpolate", "nested/one.png", "nested/one.png"], "x.png", "one file, and 9 pictures would be written"),
        (["reconstruct", "nested/one.png"], "x.jpg", "pictures are written as PNG; name a folder, or a file that ends"),
        (["reconstruct", "nested/one.png"], "x.WEBP", "pictures are written as PNG"),
        (["sample", "nested/one.png"], "x.pdf", "pictures are written as PNG"),
        (["sample", "nested/one.png"], "x.parquet", "pictures are written as PNG"),
        (["reconstruct", "nested/one.png"], "nested/a/notes.txt", "pictures are written as PNG"),
    ],
)
def test_a_file_that_will_not_do_is_refused_and_nothing_is_written(capsys, model, nested, words, out, complaint):
    command, *pictures = words
    path = nested.parent / out
    before = sorted(nested.parent.rglob("*"))
    given = [str(nested.parent / picture) for picture in pictures]
    assert main([command, str(model), *given, "--out", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pikavae: --out {path}: {complaint}")
    assert error.count("\n") == 1
    assert sorted(nested.parent.rglob("*")) == before


def test_no_picture_is_written_over(capsys, model, folder_of_pictures, tmp_path):
    first, twin = folder_of_pictures / "00.png", folder_of_pictures / "00-0.png"
    twin.write_bytes(first.read_bytes())
    (tmp_path / "link").symlink_to(folder_of_pictures)
    before = {path: path.read_bytes() for path in folder_of_pictures.iterdir()}
    for words in (["reconstruct", model, first], ["sample", model, twin, first, "--count", "2"]):
        assert main([*map(str, words), "--out", str(tmp_path / "link")]) == 2
        assert "there is one of the pictures; name another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder_of_pictures.iterdir()} == before


def test_help_says_what_noise_is_and_what_an_interpolation_is(capsys):
    for name, words in (("sample", "makes no new pictures"), ("interpolate", "is no picture of the data")):
        assert main([name, "--help"]) == 0
        assert words in " ".join(capsys.readouterr().out.split())
