"""The use case `encode` and its flow."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import datasets
import pytest
import torch

from flows.cli import main
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.weights.published import read_snapshot
from pikavae.workspace.home import home
from pikavae.workspace.runs import snapshot_digest
from tests.support import commands
from tests.support.configs import tiny_on_cpu as tiny
from tests.support.places import ROOT


@pytest.fixture
def snapshot(tmp_path):
    """A model folder that was never trained."""
    folder = tmp_path / "step-00000006"
    folder.mkdir()
    torch.manual_seed(0)
    write_snapshot(folder, AutoencoderKL(tiny().model), image_size=16, config=tiny().to_yaml())
    return folder


@torch.inference_mode()
def test_both_sides_are_encoded_with_what_names_their_origin(snapshot, tmp_path):
    done = commands.encode(str(snapshot), tiny(), tmp_path / "latents", logvar=True)
    pictures = commands.prepare(tiny()).prepared_set
    assert done["path"] == str(tmp_path / "latents")
    assert done["num_images"] == len(pictures.train) + len(pictures.validation) == 24
    record = json.loads((tmp_path / "latents" / "latents.json").read_text())
    assert record["model"] == snapshot_digest(snapshot)
    assert (record["snapshot"], record["prepared_set"]) == ("step-00000006", pictures.fingerprint)
    assert record["scaling_factor"] == done["scaling_factor"]
    for side in ("train", "validation"):
        rows = datasets.load_dataset(done["path"], split=side, cache_dir=str(tmp_path / "cache"))
        given = getattr(pictures, side)
        assert rows["caption"][:] == given.captions
        expected = read_snapshot(snapshot).encode(given.batch(range(len(given)))["pixel_values"])
        stored = rows.with_format("torch")[:]
        torch.testing.assert_close(stored["latent"], expected.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stored["logvar"], expected.logvar, rtol=1e-5, atol=1e-5)


def test_the_token_ids_are_read_back_by_the_tokenizer_in_the_folder(snapshot, tmp_path):
    from transformers import CLIPTokenizer

    done = commands.encode(str(snapshot), tiny(), tmp_path / "latents", logvar=False)
    row = datasets.load_dataset(done["path"], split="train", cache_dir=str(tmp_path / "cache"))[0]
    tokenizer = CLIPTokenizer.from_pretrained(Path(done["path"]) / "tokenizer")
    said = tokenizer.decode(row["input_ids"], skip_special_tokens=True)
    assert "".join(said.split()) == "".join(row["caption"].lower().split())


def test_without_a_folder_latents_lie_below_the_home_and_are_found_again(snapshot):
    first = commands.encode(str(snapshot), tiny(), None, logvar=False)
    assert Path(first["path"]).parent == home() / "latents"
    record = Path(first["path"]) / "latents.json"
    before = record.stat().st_mtime_ns
    assert commands.encode(str(snapshot), tiny(), None, logvar=False) == first
    assert record.stat().st_mtime_ns == before
    others = [
        commands.encode(str(snapshot), tiny(), None, logvar=True),
        commands.encode(str(snapshot), tiny(**{"data.sprites_seed": 1}), None, logvar=False),
        commands.encode(str(snapshot), tiny(**{"evaluation.batch_size": 5}), None, logvar=False),
        commands.encode(str(snapshot), tiny(), None, logvar=False, precision="bf16"),
    ]
    assert len({first["path"], *(other["path"] for other in others)}) == 5
    assert others[-1]["distance"].startswith("bf16: ")
    assert "distance" not in first


def test_a_run_names_its_step_and_a_version_its_number(tmp_path):
    finished = commands.run(tiny())
    names = []
    for model in (f"run:{finished['run_id'][:8]}@4", str(finished["version"])):
        done = commands.encode(model, tiny(), tmp_path / model, logvar=False)
        names.append(json.loads((Path(done["path"]) / "latents.json").read_text())["snapshot"])
    assert names == [f"run:{finished['run_id']}@4", f"pikavae version {finished['version']}"]


def test_a_relative_folder_is_told_in_full(snapshot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.encode(str(snapshot), tiny(), Path("latents"), logvar=False)["path"] == str(tmp_path / "latents")


@pytest.mark.parametrize("name", ["x.parquet", "x.SAFETENSORS", "x.png", "x.arrow", "taken"])
def test_the_name_of_a_file_is_refused_before_anything_is_encoded(snapshot, tmp_path, name, capsys):
    (tmp_path / "taken").write_text("a file")
    assert main(["encode", str(snapshot), "--out", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    said = "the name of a file, and latents are several files; name a folder"
    assert error == f"pikavae: --out {tmp_path / name}: {said}\n"
    assert not home().exists()
    assert (tmp_path / name).exists() == (name == "taken")


def test_another_model_does_not_write_into_the_folder(snapshot, tmp_path):
    commands.encode(str(snapshot), tiny(), tmp_path / "latents", logvar=False)
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(1)
    write_snapshot(other, AutoencoderKL(tiny().model), image_size=16, config="")
    with pytest.raises(UserError, match=f"model is '{snapshot_digest(snapshot)}', not '{snapshot_digest(other)}'"):
        commands.encode(str(other), tiny(), tmp_path / "latents", logvar=False)


FLOW = """
import json, sys
from pathlib import Path
from flows.server.environment import set_up_prefect
from pikavae.errors import UserError
set_up_prefect(Path(sys.argv[2]))
from flows.latents import latents
for out in ("latents", "./a/b", "../latents"):
    try:
        latents.fn(sys.argv[1], out=out)
    except UserError as error:
        print(json.dumps(str(error)))
print(json.dumps(latents(sys.argv[1])))
print(json.dumps(latents(sys.argv[1], out=sys.argv[3], logvar=True)))
"""


@pytest.mark.slow
def test_the_flow_writes_below_the_home_or_to_an_absolute_folder(snapshot, tmp_path):
    """As a worker does it, which runs in a temporary folder."""
    worker = tmp_path / "worker"
    worker.mkdir()
    command = [sys.executable, "-c", FLOW, str(snapshot), str(home()), str(tmp_path / "named")]
    environment = {"PATH": "/usr/bin:/bin", "PIKAVAE_HOME": str(home()), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=worker, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *refused, by_default, named = map(json.loads, done.stdout.splitlines())
    assert refused == [
        f"out {out!r}: a relative path, and a worker runs in a temporary folder; give an absolute path"
        for out in ("latents", "./a/b", "../latents")
    ]
    assert Path(by_default["path"]).parent == home() / "latents"
    assert named["path"] == str(tmp_path / "named")
    assert by_default["num_images"] == named["num_images"] == 24
    assert list(worker.iterdir()) == []
    assert not (tmp_path / "latents").exists()
    with closing(sqlite3.connect(home() / "prefect" / "prefect.db")) as database:
        assert database.execute("select key from artifact where type='markdown'").fetchall() == [("latents",)] * 2
