"""A tiny autoencoder is trained from a version: the same keys, records and files as any other run."""

import json
import shutil

import pytest

from pikavae.errors import UserError
from pikavae.operations.stages import keys
from pikavae.operations.stages.training_pictures import trace_training_pictures
from pikavae.operations.upkeep.references import references_in_home
from pikavae.weights.published import read_published
from pikavae.workspace.runs import run_folder
from tests.support import commands
from tests.support.configs import tiny_on_cpu as tiny

KIND = {
    "model.kind": "tiny",
    "model.resample_shortcuts": False,
    "model.zero_init_residuals": False,
    "model.initial_logvar": None,
}


@pytest.mark.slow
def test_a_version_teaches_a_tiny_autoencoder(tmp_path):
    taught_by = commands.run(tiny())
    for changed, said in (
        (
            {"model.latent_channels": 3},
            "a latent cell of 4 numbers for 2 pixels, .* has 3 for 2; set --model.latent-channels 4$",
        ),
        ({"model.channels": [8] * 3}, "and section model has 4 for 4; set --model.channels 8 8$"),
        ({"training.teacher": "7"}, "training.teacher '7': version 7 of 'pikavae': no such version"),
    ):
        with pytest.raises(UserError, match=said):
            commands.starting_weights(tiny(**{**KIND, "training.teacher": "1", **changed}))

    config = tiny(**KIND, **{"training.teacher": "1"})
    assert commands.plan(config)["train"].status == "runs"
    done = commands.run(config)
    assert done["metrics"]["psnr"] is not None
    assert done["metrics"]["kl_nats_per_image"] is None
    assert {stage.status for stage in commands.plan(config).values()} == {"done"}

    here = commands.workspace()
    run, digest = run_folder(here.home, done["run_id"]), commands.resolve("1", config).digest
    assert run.record.inputs[keys.TEACHER] == digest
    exported = json.loads((commands.export_model("1", tmp_path / "larger", tiny()) / "config.json").read_text())
    told = json.loads((run.path / "job.json").read_text())["teacher"]
    assert {name: told[name] for name in ("scaling_factor", "shift_factor")} == {
        name: exported[name] for name in ("scaling_factor", "shift_factor")
    }
    assert told["scaling_factor"] != 0.18215
    assert f"run {run.run_id} learned from it" in {one.who for one in references_in_home(here) if one.digest == digest}

    version = str(done["version"])
    folder = commands.export_model(version, tmp_path / "tiny", config)
    assert "from new weights, with the latents of 1 to learn" in (folder / "README.md").read_text()
    commands.export_model(version, tmp_path / "preview_decoder.safetensors", config)
    assert read_published(tmp_path / "preview_encoder.safetensors").config == config.model

    pictures = commands.prepare(config).prepared_set
    found = trace_training_pictures(here, commands.show_model(done["version"], config), "it", pictures.validation)
    assert (found.leaked, found.unknown) == ((), ())
    shutil.rmtree(here.home / "runs" / taught_by["run_id"])
    found = trace_training_pictures(here, commands.show_model(done["version"], config), "it", pictures.train)
    assert found.leaked
    assert found.unknown == (f"the folder of run {taught_by['run_id']} is not there any more",)
