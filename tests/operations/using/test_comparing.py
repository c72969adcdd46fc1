"""`pikavae evaluate A --against B`: two models on one frozen set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pikavae.evaluation.report.report import Report
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from tests.support import commands
from tests.support.commands import run_cli
from tests.support.configs import tiny_on_cpu as tiny

METRICS = ("psnr", "ssim", "mse", "kl_nats")
"""Those that every picture has."""


@pytest.fixture
def folders(tmp_path):
    """Two model folders that were never trained."""
    made = []
    for seed in range(2):
        folder = tmp_path / f"model-{seed}"
        folder.mkdir()
        torch.manual_seed(seed)
        write_snapshot(folder, AutoencoderKL(tiny().model), image_size=16, config=tiny().to_yaml())
        made.append(str(folder))
    return made


def test_two_models_are_measured_and_compared_by_one_command(capsys, folders):
    a, b = folders
    status, out, err = run_cli(capsys, "evaluate", a, "--against", b, "--json")
    assert status == 0, err
    done = json.loads(out)
    assert done.keys() == {"metrics", "report", "beside", "comparison", "against"}
    psnr = done["comparison"]["metrics"]["psnr"]
    assert psnr["mean_a"] == pytest.approx(done["metrics"]["psnr"], rel=1e-12)
    assert psnr["mean_b"] == pytest.approx(done["against"]["metrics"]["psnr"], rel=1e-12)
    assert done["against"]["model"] == b
    ours, theirs = (Report.load(Path(one["report"])) for one in (done, done["against"]))
    gains = [one.psnr - other.psnr for one, other in zip(ours.per_image, theirs.per_image, strict=True)]
    assert psnr["difference"] == pytest.approx(np.mean(gains), rel=1e-12)
    assert psnr["wins"] == sum(gain > 0 for gain in gains)

    file = Path(done["comparison"]["file"])
    written = file.read_bytes()
    assert file == Path(done["report"]) / f"comparison-{Path(done['against']['report']).name}.json"
    kept = json.loads(written)
    assert kept.pop("models") == {"a": ours.provenance["model"], "b": theirs.provenance["model"]}
    page = file.with_suffix(".html")
    assert {**kept, "file": str(file), "page": str(page)} == done["comparison"]
    drawn = page.read_bytes()

    assert commands.evaluate_model(a, tiny()).reused
    assert json.loads(run_cli(capsys, "evaluate", a, "--against", b, "--json")[1]) == done
    assert file.read_bytes() == written
    assert page.read_bytes() == drawn


def test_the_other_way_round_every_difference_is_the_opposite(folders):
    there = commands.compare_models(folders[0], folders[1], tiny()).comparison
    back = commands.compare_models(folders[1], folders[0], tiny()).comparison
    for name in METRICS:
        one = there.metrics[name]
        assert back.metrics[name].difference == -one.difference
        assert (back.metrics[name].wins, back.metrics[name].losses) == (one.losses, one.wins)
    assert [one.name for one in back.most_lost] == [one.name for one in there.most_won]


def test_a_person_is_shown_both_tables(capsys, folders):
    a, b = folders
    status, out, err = run_cli(capsys, "evaluate", a, "--against", b)
    assert status == 0, err
    assert "this model" in out
    assert f"A is {a}, B is {b}: " in out
    assert "wins/ties/losses" in out
    assert Path(out.splitlines()[-1].removeprefix("Comparison with pictures: ")).is_file()


def test_a_model_of_another_downsampling_factor_is_compared(folders, tmp_path):
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    model = AutoencoderKL(tiny(**{"model.channels": [8, 8, 8]}).model)
    write_snapshot(deeper, model, image_size=16, config="")
    found = commands.compare_models(str(deeper), folders[0], tiny())
    assert found.evaluated.report.downsampling_factor != found.other.report.downsampling_factor
    assert found.comparison.metrics["psnr"].count == found.comparison.num_images


def test_a_model_against_itself_shows_no_difference(folders):
    metrics = commands.compare_models(folders[0], folders[0], tiny()).comparison.metrics
    assert {one.verdict for one in metrics.values()} == {"no difference shown"}
    assert {metrics[name].interval for name in METRICS} == {(0.0, 0.0)}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--against", "no/such/folder"], "model 'no/such/folder'"),
        (["--against", "champion"], "nothing is in production yet"),
        (["--against"], "--against"),
        (["--agianst", "3"], "--agianst: no such flag; did you mean --against?"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(capsys, folders, tmp_path, words, complaint):
    status, out, err = run_cli(capsys, "evaluate", folders[0], *words)
    assert (status, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "home" / "evaluations").exists()
