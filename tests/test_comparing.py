"""`pikavae evaluate A --against B` on two models."""

import json
from pathlib import Path

import pytest
import torch

from flows.cli import main
from pikavae.config import load_config
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from tests.test_pipeline import tiny


@pytest.fixture
def snapshots(tmp_path):
    """Two snapshot folders of new models."""
    config = tiny()
    for seed in range(2):
        torch.manual_seed(seed)
        (tmp_path / str(seed)).mkdir()
        write_snapshot(
            tmp_path / str(seed),
            AutoencoderKL(config.model),
            image_size=config.data.image_size,
            settings=config.to_yaml(),
        )
    return str(tmp_path / "0"), str(tmp_path / "1")


def evaluated(capsys, *words):
    status = main(["evaluate", *words, "--json"])
    out = capsys.readouterr().out
    return status, json.loads(out.splitlines()[-1]) if out else None


def test_two_models_are_compared_in_one_command(capsys, snapshots):
    ours, theirs = snapshots
    status, result = evaluated(capsys, ours, "--against", theirs)
    assert status == 0
    alone = [evaluated(capsys, one)[1]["metrics"]["psnr"] for one in snapshots]
    psnr = result["comparison"]["metrics"]["psnr"]
    assert [psnr["candidate"], psnr["reference"]] == pytest.approx(alone)
    assert psnr["difference"]["mean"] == pytest.approx(alone[0] - alone[1])
    assert psnr["wins"] + psnr["losses"] + psnr["ties"] == result["comparison"]["num_images"]
    assert evaluated(capsys, ours, "--against", theirs)[1] == result  # to the last digit
    turned = evaluated(capsys, theirs, "--against", ours)[1]["comparison"]["metrics"]["psnr"]
    assert (turned["wins"], turned["losses"]) == (psnr["losses"], psnr["wins"])


def test_a_reference_that_is_not_there_is_told_by_name(capsys, snapshots):
    assert main(["evaluate", snapshots[0], "--against", "champion"]) == 2
    assert "nothing is in production yet" in capsys.readouterr().err


def test_the_first_models_data_is_used_for_both(capsys, snapshots):
    assert load_config(f"{snapshots[0]}/pikavae.yaml").data.image_size == 16
    status, result = evaluated(capsys, *snapshots[:1], "--against", snapshots[1], "--data.image_size", "32")
    assert status == 0
    reports = [json.loads(Path(result[which], "report.json").read_text()) for which in ("report", "against")]
    assert [report["image_size"] for report in reports] == [32, 32]
