"""`pikavae evaluate A --beside B` says what each model costs beside its scores, and which ones to choose from."""

import json
from pathlib import Path

import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.evaluation.compare.costs import Costs
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.model.tiny import build_autoencoder
from pikavae.operations.using import measuring_costs
from pikavae.operations.using.measuring_costs import measure_costs
from pikavae.weights.published import read_snapshot
from tests.operations.using.test_beside import label_of, model_folder, tiny_autoencoder
from tests.support import commands
from tests.support.commands import run_cli
from tests.support.configs import tiny_on_cpu as tiny
from tests.support.pages import Page

CPU = torch.device("cpu")
FIELDS = {
    "model", "family", "downsampling_factor", "latent_channels", "latent_bytes", "compression", "parameters",
    "encoder_parameters", "decoder_parameters", "encode_ms", "encode_ms_range", "decode_ms", "decode_ms_range",
    "encode_bytes", "decode_bytes", "score", "best_for_bytes", "best_for_time",
}  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """An own model of factor 2, one of factor 4, and a tiny autoencoder of diffusers."""
    own = model_folder(tmp_path / "own", 0)
    deeper = model_folder(tmp_path / "deeper", 1, **{"model.channels": [8, 8, 8]})
    tiny_autoencoder(tmp_path / "tiny")
    return own, deeper, str(tmp_path / "tiny")


def measured(*folders, size=16, seed=0):
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return measure_costs([Path(folder) for folder in folders], [str(i) for i in range(len(folders))], image, CPU)


def test_one_command_says_what_each_model_costs(capsys, folders):
    own, deeper, small = folders
    words = ("evaluate", own, "--beside", deeper, "--beside", small)
    status, out, err = run_cli(capsys, *words, "--json")
    assert status == 0, err
    beside = json.loads(out)["beside"]
    costs = beside["costs"]
    assert costs["metric"] == "psnr"
    assert costs["device"].startswith("the CPU with ")
    assert costs["shape"] == [3, 16, 16]
    assert costs["rounds"] >= 3
    assert costs["memory_by"].startswith("counted: ")
    assert [one["model"] for one in costs["models"]] == ["this model", label_of(deeper), label_of(small)]
    assert all(one.keys() == FIELDS for one in costs["models"])
    assert [one["downsampling_factor"] for one in costs["models"]] == [2, 4, 4]
    rows = {row["label"]: row for row in json.loads(Path(beside["file"]).read_text())["rows"]}
    for one in costs["models"]:
        assert (one["latent_bytes"], one["score"]) == (rows[one["model"]]["bytes"], rows[one["model"]]["psnr"])
        assert one["compression"] == 3 * 16 * 16 / one["latent_bytes"]
        for way in ("encode", "decode"):
            low, high = one[f"{way}_ms_range"]
            assert 0 < low <= one[f"{way}_ms"] <= high
    assert json.loads(Path(beside["file"]).read_text())["costs"] == costs
    best = max(costs["models"], key=lambda one: one["score"])
    assert best["best_for_time"]
    assert best["best_for_bytes"]

    page = Page(Path(beside["page"]).read_text())
    assert "What to choose" in page.text
    cheapest = min(costs["models"], key=lambda one: one["latent_bytes"])
    assert any(text.startswith(f"With at most {cheapest['latent_bytes']:,} bytes a latent, ") for text in page.findings)
    assert page.row("1. this model")[1:4] == [
        costs["models"][0]["family"],
        "f2 c4",
        f"{rows['this model']['bytes']:,.0f}",
    ]
    assert page.tags["circle"] == 3
    assert page.tags["svg"] == 1

    text = run_cli(capsys, *words)[1]
    assert "best for" in text
    assert "medians over" in text
    assert json.loads(run_cli(capsys, *words, "--json")[1])["beside"] == beside


def test_costs_are_measured_once_for_these_models_on_this_device(folders, monkeypatch):
    own, deeper, small = folders
    first = commands.beside(own, tiny(), [deeper]).costs
    assert commands.beside(own, tiny(), [deeper]).costs == first
    (file,) = commands.beside(own, tiny(), [deeper]).evaluated.folder.glob("costs-*.json")
    written = file.read_bytes()
    file.write_bytes(written[:-20])  # damaged: measured again
    again = commands.beside(own, tiny(), [deeper]).costs
    assert [one.digest for one in again.models] == [one.digest for one in first.models]
    assert Costs.read(file) == again
    assert len(commands.beside(own, tiny(), [deeper, small]).costs.models) == 3
    monkeypatch.setattr(measuring_costs, "device_name", lambda device: "another device")
    assert commands.beside(own, tiny(), [deeper]).costs.device == "another device"


def test_costs_are_only_measured_if_the_user_names_another_model(folders):
    alone = commands.beside(folders[0], tiny())
    assert (alone.costs, alone.choices) == (None, [])
    assert not list(alone.evaluated.folder.glob("costs-*.json"))


def test_parameters_are_those_of_the_weights(folders):
    for folder, cost in zip(folders, measured(*folders).models, strict=True):
        model = read_snapshot(Path(folder))
        assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
        decoder = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
        assert cost.decoder_parameters == sum(parameter.numel() for parameter in decoder)
        assert cost.encoder_parameters == cost.parameters - cost.decoder_parameters


def test_memory_is_that_of_the_weights_and_of_the_tensors_that_live_at_once(tmp_path):
    """One 1x1 level: a picture passes few maps, so that the peak can be bounded by hand."""
    folder = tmp_path / "plain"
    folder.mkdir()
    config = ModelConfig(channels=(8,), num_res_blocks=1, norm_groups=1, mid_attention=False, latent_channels=2)
    write_snapshot(folder, AutoencoderKL(config), image_size=64, config="")
    small, large = (measured(folder, size=size).models[0] for size in (64, 128))
    weights = 4 * small.parameters
    for cost, side in ((small, 64), (large, 128)):
        one_map = 4 * 8 * side * side
        assert weights + 3 * one_map < cost.decode_bytes < weights + 8 * one_map
    assert 3.5 < (large.decode_bytes - weights) / (small.decode_bytes - weights) < 4.0  # weights count once


def test_each_round_takes_every_model_once_in_turn(monkeypatch, folders):
    order = []

    def encode(model, image):
        order.append(len(model.config.channels))
        return model.encode(image).mode()

    monkeypatch.setattr(measuring_costs, "_encode", encode)
    monkeypatch.setattr(measuring_costs, "SECONDS", 0.0)
    costs = measured(*folders[:2])
    assert costs.rounds == 3
    assert order == [2, 3, *[2, 3], *[3, 2], *[2, 3]]  # the first pass, and three rounds that alternate


def test_the_family_comes_from_sizes_and_factors_of_the_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring_costs, "SECONDS", 0.0)
    families = []
    for number, factors in enumerate(({}, {"scaling_factor": 0.13025})):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_snapshot(folder, build_autoencoder(ModelConfig(like="taesd")), image_size=16, config="", scaling=factors)
        families.append(measured(folder).models[0].family)
    assert families == ["taesd", "taesd"]
    assert measured(model_folder(tmp_path / "own", 0)).models[0].family == "own"


def test_a_tiny_autoencoder_is_compared_picture_by_picture(capsys, folders):
    own, _, small = folders
    status, out, err = run_cli(capsys, "evaluate", own, "--against", small, "--json")
    assert status == 0, err
    done = json.loads(out)
    metrics = done["comparison"]["metrics"]
    assert metrics["psnr"]["mean_a"] == pytest.approx(done["metrics"]["psnr"], rel=1e-12)
    assert metrics["psnr"]["mean_b"] == pytest.approx(done["against"]["metrics"]["psnr"], rel=1e-12)
    assert metrics["psnr"]["count"] == done["comparison"]["num_images"]
    assert metrics.get("kl_nats", {"count": 0})["count"] == 0  # a point has no KL
    assert Path(done["comparison"]["page"]).is_file()
    back = commands.compare_models(small, own, tiny()).comparison
    assert back.metrics["psnr"].difference == -metrics["psnr"]["difference"]
