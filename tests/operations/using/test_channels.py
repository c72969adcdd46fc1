"""Pictures that are not RGB, from their files through training, report, registry and use to files again."""

import io
import json

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from pikavae.config import Config, DataConfig, ModelConfig
from pikavae.errors import UserError
from pikavae.evaluation.report.report import Report
from pikavae.model.snapshot import CONFIG_NAME, RUN_CONFIG_NAME, write_snapshot
from pikavae.model.tiny import build_autoencoder
from pikavae.operations.using.picture_formats import form_of
from pikavae.presets import load_config, parse_config
from pikavae.production.packages import consumer
from pikavae.registry.package import build_package
from pikavae.training.state import starting_weights
from pikavae.workspace.home import home
from tests.conftest import TINY
from tests.support import commands

SIZES = {"channels": [8, 8], "norm_groups": 4, "num_res_blocks": 1}
FIVE = ["blue", "green", "red", "red edge", "nir"]


def model_of(folder, **data):
    """A model folder with random weights, of pictures of this form."""
    torch.manual_seed(0)
    config = parse_config({"data": {"image_size": 16, **data}, "model": SIZES})
    folder.mkdir(parents=True)
    write_snapshot(folder, build_autoencoder(config.model), image_size=16, config=config.to_yaml())
    return folder


@pytest.mark.slow
def test_a_run_of_cut_out_sprites_is_measured_registered_and_served_with_alpha(capsys, tmp_path):
    config = load_config("demo", {**TINY, "data.channels": ["rgba"], "data.sprites_count": "30"})
    done = commands.run(config)
    snapshot = commands.find_model(f"run:{done['run_id']}", config)
    assert json.loads((snapshot / CONFIG_NAME).read_text())["in_channels"] == 4
    prepared = commands.prepare(config).prepared_set
    assert prepared.record.channels == ["red", "green", "blue", "alpha"]
    pixels = prepared.train.pixels([0])[0]
    assert (pixels[:3] <= pixels[3:]).all()  # multiplied by alpha
    assert 0 < (pixels[3] == 0).double().mean() < 1

    (folder,) = [path.parent for path in (home() / "evaluations").rglob("report.json")] or [None]
    report = Report.load(folder)
    assert [*report.channels] == ["red", "green", "blue", "alpha"]
    assert all(one.psnr is not None and one.ssim is not None for one in report.channels.values())
    assert "jpeg" not in report.baselines
    page = (folder / "report.html").read_text()
    assert "checkerboard" in page
    assert "Channels" in page

    Image.new("RGBA", (20, 18), (200, 100, 50, 128)).save(tmp_path / "in.png")
    status, out, _ = commands.run_cli(
        capsys,
        "reconstruct",
        f"run:{done['run_id']}",
        str(tmp_path / "in.png"),
        "--out",
        str(tmp_path / "out"),
        "--json",
    )
    assert status == 0
    with Image.open(json.loads(out.splitlines()[-1])["files"][0]) as image:
        assert (image.mode, image.size) == ("RGBA", (20, 18))
        made = np.asarray(image).astype(int)

    build_package(snapshot, tmp_path / "package", image_size=16, metadata={})
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "package"))
    assert {output.shape[1] for output in consumer.use(loaded, 4).values()} == {4}
    (served,) = loaded.predict(np.array([(tmp_path / "in.png").read_bytes()], dtype=object))
    with Image.open(io.BytesIO(served)) as again:
        assert again.mode == "RGBA"
        np.testing.assert_allclose(np.asarray(again).astype(int), made, atol=2)
    with pytest.raises(Exception, match=r"expected \(B, 4, H, W\)"):
        loaded.predict(np.zeros((1, 3, 16, 16), np.float32))


def write_fives(folder, count=12):
    """Arrays of five channels, 16 bits."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        ramp = np.linspace(0, 60000, 20)[:, None, None] + generator.integers(0, 5000, (20, 24, 5))
        np.save(folder / f"{i:02d}.npy", ramp.astype(np.uint16))
    return folder


@pytest.mark.slow
def test_five_channels_of_16_bits_pass_from_arrays_to_arrays(capsys, tmp_path):
    source = write_fives(tmp_path / "source")
    given = {**TINY, "data.source": str(source), "data.channels": FIVE, "data.bit_depth": 16}
    config = load_config("demo", given)
    done = commands.run(config)
    prepared = commands.prepare(config).prepared_set
    assert prepared.train.pixels([0]).dtype == torch.uint16
    (folder,) = [path.parent for path in (home() / "evaluations").rglob("report.json")]
    report = Report.load(folder)
    assert [*report.channels] == FIVE
    assert "channels blue, green" in report.reasons["lpips"]
    assert report.metrics["colour_shift_red"] is not None
    status, out, complaint = commands.run_cli(
        capsys, "reconstruct", f"run:{done['run_id']}", str(source), "--out", str(tmp_path / "out"), "--json"
    )
    assert status == 0, complaint
    files = json.loads(out.splitlines()[-1])["files"]
    assert len(files) == 12
    made = np.load(files[0])
    assert (made.shape, made.dtype) == ((20, 24, 5), np.uint16)


@pytest.mark.parametrize(
    ("data", "suffix", "shape", "kind"),
    [
        ({"channels": "grey", "bit_depth": 16}, ".png", (18, 20), np.int32),
        ({"channels": "grey"}, ".png", (18, 20), np.uint8),
        ({"channels": ["height"], "range": [0.0, 9.0]}, ".npy", (18, 20, 1), np.float32),
        ({"channels": "rgb", "bit_depth": 16}, ".npy", (18, 20, 3), np.uint16),
    ],
)
def test_what_is_made_is_written_in_the_form_of_the_pictures(data, suffix, shape, kind, tmp_path):
    folder = model_of(tmp_path / "model", **data)
    values = np.random.default_rng(0).uniform(0, 9, shape).astype(np.float32)
    source = tmp_path / "in.npy"
    np.save(source, values if "range" in data else (values * 7000).astype(np.uint16))
    (made,) = commands.reconstruct(str(folder), [source], tmp_path / "out", Config())
    assert made.suffix == suffix
    if suffix == ".png":
        with Image.open(made) as image:
            assert image.mode in (("I;16",) if kind is np.int32 else ("L",))
            assert image.size == (20, 18)
    else:
        found = np.load(made)
        assert (found.shape, found.dtype) == (shape, kind)
        assert "range" not in data or (found.min() >= 0 and found.max() <= 9)


def test_a_tiff_is_written_where_one_is_named(tmp_path):
    import tifffile

    folder = model_of(tmp_path / "model", channels=FIVE, bit_depth=16)
    source = write_fives(tmp_path / "source", 1) / "00.npy"
    (made,) = commands.reconstruct(str(folder), [source], tmp_path / "one.tif", Config())
    found = tifffile.imread(made)
    assert (found.shape, found.dtype) == ((20, 24, 5), np.uint16)
    (again,) = commands.reconstruct(str(folder), [made], tmp_path / "again.npy", Config())
    assert np.load(again).shape == (20, 24, 5)
    with pytest.raises(UserError, match="pictures are written as NPY"):
        commands.reconstruct(str(folder), [source], tmp_path / "one.png", Config())


def test_a_picture_of_other_channels_is_refused_in_one_line(tmp_path):
    folder = model_of(tmp_path / "model", channels=FIVE)
    Image.new("RGB", (16, 16)).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png: an array of \(16, 16, 3\).*data.channels blue green"):
        commands.reconstruct(str(folder), [tmp_path / "rgb.png"], tmp_path / "out", Config())


def test_a_folder_without_a_configuration_is_known_by_its_number_of_channels(tmp_path):
    for name, count, channels in (("a", 1, 1), ("b", 4, 4), ("c", 2, 2)):
        folder = model_of(tmp_path / name, channels=["grey", "x", "y", "z"][:count] if count > 1 else "grey")
        (folder / RUN_CONFIG_NAME).unlink()
        assert len(form_of(folder).channels) == channels
    assert form_of(tmp_path / "b").channels == ("red", "green", "blue", "alpha")


def test_a_model_of_other_channels_is_neither_measured_nor_compared(tmp_path):
    folder = model_of(tmp_path / "model", channels="rgba")
    config = load_config("demo", {**TINY, "training.device": "cpu"})
    with pytest.raises(UserError, match=r"the pictures have 3 \(red green blue\), and the model reads 4"):
        commands.evaluate_model(str(folder), config)


def test_an_rgb_model_begins_a_training_with_alpha_and_no_other_does(tmp_path):
    rgb, five = model_of(tmp_path / "rgb"), model_of(tmp_path / "five", channels=FIVE)
    given = {**TINY, "model.num_res_blocks": "1", "data.channels": ["rgba"]}
    config = load_config("demo", {**given, "training.start": str(rgb)})
    folder = commands.starting_weights(config)
    assert starting_weights(folder, config).config.image_channels == 4
    with pytest.raises(UserError, match=r"of 5 channels, and data.channels asks for 4"):
        commands.starting_weights(load_config("demo", {**given, "training.start": str(five)}))
    frozen = {**given, "training.start": str(rgb), "training.trainable": "decoder"}
    with pytest.raises(UserError, match="encoder must learn to read alpha"):
        commands.starting_weights(load_config("demo", frozen))


@pytest.mark.parametrize(
    ("data", "more", "reason"),
    [
        ({"channels": ["a", "a"]}, {}, "'a' is named twice"),
        ({"channels": ["a", ""]}, {}, "'' is no name of a channel"),
        ({"channels": "cmyk"}, {}, "data.channels 'cmyk': expected rgb, grey, rgba, or a list"),
        ({"range": [1, 0]}, {}, "lower value first"),
        ({"bit_depth": 12}, {}, "multiple of 8"),
        ({"channels": "rgba"}, {"model": {"image_channels": 3}}, "leave model.image_channels out"),
        ({"channels": ["a", "b"]}, {"loss": {"perceptual_weight": 0.1}}, "LPIPS sees colours"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(data, more, reason):
    with pytest.raises(UserError, match=reason) as caught:
        parse_config({"data": data, **more})
    assert "\n" not in str(caught.value)


def test_names_that_a_word_stands_for_are_that_word_and_models_follow():
    config = parse_config({"data": {"channels": ["red", "green", "blue", "alpha"]}})
    assert (config.data.channels, config.model.image_channels) == ("rgba", 4)
    again = parse_config(config.model_dump(mode="json"), overrides={"data.channels": ["grey"]})
    assert again.model == ModelConfig(image_channels=1)
    assert Config(data=DataConfig(channels="grey")).model.image_channels == 1


def test_sprites_are_not_drawn_in_named_channels():
    with pytest.raises(UserError, match="sprites are drawn in rgb, rgba or grey"):
        commands.prepare(load_config("demo", {**TINY, "data.channels": FIVE}))
