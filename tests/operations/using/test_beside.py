"""`pikavae evaluate A --beside B --beside C`: several models in one table."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from pikavae.evaluation.metrics.similarity import psnr
from pikavae.evaluation.report.report import Report
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.weights.published import read_snapshot
from tests.support import commands
from tests.support.commands import run_cli
from tests.support.configs import tiny_on_cpu as tiny
from tests.support.pages import Page


def model_folder(folder, seed, **overrides):
    folder.mkdir()
    torch.manual_seed(seed)
    write_snapshot(folder, AutoencoderKL(tiny(**overrides).model), image_size=16, config=tiny().to_yaml())
    return str(folder)


def label_of(path):
    """What the table calls a model of this path."""
    return path if len(path) <= 50 else f"...{path[-47:]}"


def tiny_autoencoder(folder):
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    blocks = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    model = AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1), latent_channels=3)
    model.save_pretrained(folder)
    return model.eval()


def test_models_are_set_beside_one_by_one_command(capsys, tmp_path):
    a, b = (model_folder(tmp_path / name, seed) for seed, name in enumerate("ab"))
    c = model_folder(tmp_path / "c", 2, **{"model.channels": [8, 8, 8]})
    status, out, err = run_cli(capsys, "evaluate", a, "--beside", b, "--beside", c, "--json")
    assert status == 0, err
    done = json.loads(out)
    labels = [label_of(b), label_of(c)]
    assert [one["model"] for one in done["beside"]["models"]] == labels
    reports = [Report.load(Path(one["report"])) for one in (done, *done["beside"]["models"])]
    kept = json.loads(Path(done["beside"]["file"]).read_text())
    assert [row["label"] for row in kept["rows"]][:3] == ["this model", *labels]
    for row, report in zip(kept["rows"], reports, strict=False):
        for name in ("psnr", "ssim", "ms_ssim", "psnr_worst_tenth", "scaling_factor"):
            assert row[name] == report.metrics[name]
        assert row["bytes"] == report.latents.bytes
    assert len({report.evaluation_set for report in reports}) == 1
    rows = Page(Path(done["beside"]["page"]).read_text()).rows
    assert [row[0] for row in rows[1:4]] == ["this model", *labels]
    document = Path(done["beside"]["page"]).read_text()
    (section,) = re.findall(r'<section id="pictures".*?</section>', document, flags=re.S)
    captions = re.findall(r"<figcaption><bdi>(.*?)</bdi>(?:<b>(.*?)</b>)?</figcaption>", section)
    each = 1 + len(reports)
    assert len(captions) == section.count('src="data:image/webp;base64,') > each
    for start in range(0, len(captions), each):
        assert [label for label, _ in captions[start : start + each]] == ["original", "this model", *labels]
    told = [f"{report.per_image[0].psnr:.2f} dB" for report in reports]
    assert [words for _, words in captions[:each]] == ["", *told]

    written = [Path(done["beside"][name]).read_bytes() for name in ("file", "page")]
    before = (Path(done["report"]) / "report.json").read_bytes()
    assert json.loads(run_cli(capsys, "evaluate", a, "--beside", b, "--beside", c, "--json")[1]) == done
    assert [Path(done["beside"][name]).read_bytes() for name in ("file", "page")] == written
    alone = commands.beside(a, tiny())
    assert (alone.evaluated.reused, alone.others, alone.file, alone.summary()) == (True, (), None, {})
    assert (alone.evaluated.folder / "report.json").read_bytes() == before


def test_a_person_is_shown_one_table_and_where_its_page_is(capsys, tmp_path):
    a, b = (model_folder(tmp_path / name, seed) for seed, name in enumerate("ab"))
    status, out, err = run_cli(capsys, "evaluate", a, "--beside", b)
    assert status == 0, err
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["this model", label_of(b)]
    assert lines[3].startswith("JPEG")
    assert Path(lines[-1].removeprefix("Side by side: ")).is_file()


def test_a_model_that_is_not_there_is_told_before_anything_is_measured(capsys, tmp_path):
    a = model_folder(tmp_path / "a", 0)
    status, out, err = run_cli(capsys, "evaluate", a, "--beside", a, "--beside", "no/such")
    assert (status, out) == (2, "")
    assert "model 'no/such'" in err
    assert not (tmp_path / "home" / "evaluations").exists()


def test_a_tiny_autoencoder_of_diffusers_is_measured_as_diffusers_uses_it(tmp_path):
    a = model_folder(tmp_path / "a", 0)
    reference = tiny_autoencoder(tmp_path / "tiny")
    beside = commands.beside(a, tiny(), [str(tmp_path / "tiny")])
    report = beside.others[0][1].report
    pictures = commands.prepare(tiny()).prepared_set.validation
    images = pictures.pixels(range(len(pictures))).float() / 127.5 - 1
    with torch.inference_mode():
        latents = reference.encode(images).latents
        expected = psnr(reference.decode(latents).sample, images)
    assert report.metrics["psnr"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert report.metrics["scaling_factor"] == pytest.approx(1 / latents.double().std(correction=0).item(), rel=1e-5)
    assert (report.downsampling_factor, report.latents.bytes) == (4, 2 * 3 * 4 * 4)
    assert report.metrics["kl_nats_per_image"] is None
    assert report.reasons["kl_nats_per_image"] == "the latent is a point and no distribution, so that it has no KL"
    assert report.latents.non_finite_fraction == 0.0
    assert {one.verdict for one in report.precision.values()} == {"pass"}


def test_a_tiny_autoencoder_is_measured_without_diffusers(capsys, tmp_path, monkeypatch):
    a = model_folder(tmp_path / "a", 0)
    tiny_autoencoder(tmp_path / "tiny")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    status, _, err = run_cli(capsys, "evaluate", a, "--beside", str(tmp_path / "tiny"))
    assert status == 0, err


def test_a_damaged_tiny_autoencoder_is_the_users_mistake(tmp_path):
    from pikavae.errors import UserError

    tiny_autoencoder(tmp_path / "tiny")
    (tmp_path / "tiny" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="damaged safetensors file") as caught:
        read_snapshot(tmp_path / "tiny")
    assert "\n" not in str(caught.value)
