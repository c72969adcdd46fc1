"""The main job on real parts: the four stages with MLflow on SQLite, without Prefect and with it."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.commands.stages import closing_lines
from pikavae import operations
from pikavae.data.prepared.dataset import open_prepared
from pikavae.errors import NonFiniteLossError
from pikavae.evaluation.report.report import Report
from pikavae.operations.stages import keys
from pikavae.operations.stages.accounting import METRICS
from pikavae.operations.stages.describing import OVERVIEW_TEXT, evaluation_note
from pikavae.presets import load_config
from pikavae.tracker.client import Workspace
from pikavae.tracker.run_log import RunLog
from pikavae.workspace.files import exclusive
from pikavae.workspace.home import home
from pikavae.workspace.runs import run_folder
from tests.support import commands
from tests.support.commands import bare_client as client
from tests.support.configs import tiny
from tests.support.places import ROOT


def statuses(plans):
    return {name: plan.status for name, plan in plans.items()}


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A home with one finished run, for tests that only look, and what the run returned."""
    path = tmp_path_factory.mktemp("shared") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path))
        return path, commands.run(tiny())


@pytest.fixture
def finished(monkeypatch, isolated, shared_home):
    path, result = shared_home
    monkeypatch.setenv("PIKAVAE_HOME", str(path))
    return result


def test_a_run_is_recorded_whole(finished):
    run = client().get_run(finished["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps"] == "6"
    assert run.data.params["preset"] == "demo"
    assert "optimizer.name" not in run.data.params  # as in the preset
    assert {name.split("/")[0] for name in run.data.metrics} == {"train", "val", "weighted", "system"}
    charts = {name for name in run.data.metrics if name.startswith("system/")}  # MLflow shows them apart
    assert charts == {f"{METRICS}{name}" for name in ("cpu_hours", "gpu_hours", "disk_megabytes")}
    assert not any("baseline" in name for name in run.data.metrics)
    assert run.data.metrics["val/psnr"] == pytest.approx(finished["metrics"]["psnr"], abs=1e-4)
    assert run.data.tags["pikavae.fingerprint"] == finished["fingerprint"]
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert {i.dataset.digest for i in run.inputs.dataset_inputs} != set()
    note = run.data.tags["mlflow.note.content"]
    assert f"PSNR {finished['metrics']['psnr']:.2f} dB" in note
    assert "artifacts/evaluation/report.html" in note
    log = RunLog.resume(client(), finished["run_id"])
    report = operations.Report.load(Path(finished["report"]))
    assert evaluation_note(log, report, "evaluation") == note  # again, it takes its place
    config = client().download_artifacts(finished["run_id"], "config.yaml")
    assert load_config(config) == tiny(**{"training.precision": "float32"})
    images = {file.path for file in client().list_artifacts(finished["run_id"], "images")}
    assert any("reconstructions" in path for path in images)
    assert any("filmstrip" in path for path in images)
    counts = json.loads(Path(client().download_artifacts(finished["run_id"], "data/counts.json")).read_text())
    assert counts["num_images"] == 24
    with Image.open(client().download_artifacts(finished["run_id"], "overview.png")) as picture:
        assert picture.size == (7 * (2 * 48 + 8) - 8, 48)
    assert note.startswith(f"![{OVERVIEW_TEXT}](get-artifact?path=overview.png&run_uuid={finished['run_id']})\n\n")
    version = client().get_model_version(finished["model"], str(finished["version"]))
    panel = f"get-artifact?path=evaluation/panel.png&run_uuid={finished['run_id']}"
    assert panel in version.description
    assert not any(name.startswith("pikavae.score") for name in version.tags)
    assert "moments of the training" in Path(finished["report"], "report.html").read_text()
    assert set(finished["stages"]) == set(keys.STAGES)
    assert all(stage["status"] == "ran" for stage in finished["stages"].values())


def test_kept_checkpoints_are_logged_models_ranked_by_their_score(finished):
    experiment = client().get_run(finished["run_id"]).info.experiment_id
    models = client().search_logged_models(
        [experiment], order_by=[{"field_name": "metrics.val/psnr", "ascending": False}]
    )
    checkpoints = [model for model in models if model.model_type == "checkpoint"]
    assert {model.name for model in checkpoints} == {"step-00000002", "step-00000004", "step-00000006"}
    scores = [next(m.value for m in model.metrics if m.key == "val/psnr") for model in checkpoints]
    assert scores == sorted(scores, reverse=True)


def test_a_run_ends_with_the_data_page_and_the_warnings_of_its_pictures(finished):
    lines = closing_lines(finished).splitlines()
    assert finished["warnings"]
    assert all(f"Warning: {warning}" in lines for warning in finished["warnings"])
    assert f"Data page:             {finished['page']}" in lines
    assert Path(finished["page"]).is_file()


def test_a_second_run_is_a_reuse(finished):
    again = commands.run(tiny())
    assert {name: stage["status"] for name, stage in again["stages"].items()} == dict.fromkeys(keys.STAGES, "reused")
    assert (again["run_id"], again["version"]) == (finished["run_id"], finished["version"])
    assert set(statuses(commands.plan(tiny())).values()) == {"done"}


def test_fresh_trains_again_in_a_run_of_its_own():
    finished = commands.run(tiny())
    again = commands.run(tiny(), fresh=True)
    assert again["run_id"] != finished["run_id"]
    assert again["version"] == finished["version"] + 1
    assert again["metrics"] == finished["metrics"]


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "prepare": ({"data.background": [0, 0, 0]}, "data.background: [255, 255, 255] -> [0, 0, 0]"),
    "train": ({"optimizer.learning_rate": 0.001}, "optimizer.learning_rate: 0.005 -> 0.001"),
    "evaluate": ({"evaluation.panel_images": 2}, "evaluation.panel_images: 8 -> 2"),
    "register": ({"registry.model_name": "other"}, "registry.model_name: 'pikavae' -> 'other'"),
}


def test_a_changed_field_is_named_for_the_stage_that_it_concerns(finished):
    for stage, (override, reason) in CHANGES.items():
        plans = commands.plan(tiny(**override))
        first = next(name for name in keys.STAGES if plans[name].status == "runs")
        assert first == stage
        assert plans[stage].reason == reason


@pytest.mark.parametrize(
    ("file", "stage", "reason"),
    [
        ("data/split/sides.py", "prepare", "code of the prepared set: 1 changed (data/split/sides.py)"),
        ("data/pictures/decode.py", "prepare", "code of the shards: 1 changed (data/pictures/decode.py)"),
        ("training/loop.py", "train", "code of the training: 1 changed (training/loop.py)"),
        ("evaluation/evaluate.py", "evaluate", "code of the evaluation: 1 changed (evaluation/evaluate.py)"),
        ("registry/serving.py", "register", "code of the registration: 1 changed (registry/serving.py)"),
    ],
)
def test_changed_code_is_named_for_the_stage_that_it_concerns(finished, monkeypatch, file, stage, reason):
    from pikavae.workspace import provenance

    real = provenance._syntax_hash
    monkeypatch.setattr(provenance, "_syntax_hash", lambda path: real(path) + "+" * path.as_posix().endswith(file))
    plans = commands.plan(tiny())
    first = next(name for name in keys.STAGES if plans[name].status == "runs")
    assert first == stage
    assert plans[stage].reason == reason
    later = keys.STAGES[keys.STAGES.index(stage) + 1 :]
    assert all(plans[name].status == "runs" for name in later)


def test_a_changed_picture_is_named(folder_of_pictures):
    config = tiny(**{"data.source": str(folder_of_pictures)})
    commands.run(config)
    (folder_of_pictures / "03.png").write_bytes((folder_of_pictures / "04.png").read_bytes())
    plans = commands.plan(config)
    assert plans["prepare"].status == "runs"
    assert "1 changed (03.png)" in plans["prepare"].reason


def test_a_killed_training_is_started_again_and_ends_with_the_same_numbers(monkeypatch, tmp_path, disturb, caplog):
    undisturbed = commands.run(tiny())
    expected = points(undisturbed["run_id"])
    monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path / "other"))
    disturb("kill", 5)
    disturbed = commands.run(tiny())
    assert "training ended with signal 9" in caplog.text
    assert "it resumes from step-00000004" in caplog.text
    assert "training resumes from the checkpoint of step 4" in caplog.text
    assert disturbed["metrics"] == undisturbed["metrics"]
    assert points(disturbed["run_id"]) == expected
    assert client().get_run(disturbed["run_id"]).info.status == "FINISHED"


def test_a_killed_run_goes_on_in_the_same_mlflow_run_and_ends_with_the_same_numbers(monkeypatch, tmp_path, disturb):
    undisturbed = commands.run(tiny())
    expected = points(undisturbed["run_id"])

    monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path / "other"))
    folder = disturb("kill everything", 5)
    died = subprocess.run(
        [sys.executable, "-c", "from tests.operations.running.test_pipeline import *; commands.run(tiny())"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        check=False,
    )
    assert died.returncode == -9, died.stderr.decode()
    (unfinished,) = client().search_runs([e.experiment_id for e in client().search_experiments()])
    assert unfinished.info.status == "RUNNING"
    assert commands.plan(tiny())["train"].status == "resumes"

    resumed = commands.run(tiny())
    run = client().get_run(resumed["run_id"])
    assert run.info.run_id == unfinished.info.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.pikavae.start_step"] == "4"
    assert resumed["metrics"] == undisturbed["metrics"]
    assert points(resumed["run_id"]) == expected


TIMED = ("per_second", "wait_fraction")


def points(run_id):
    """Every point of the curves that do not measure time, as (step, value); none twice."""
    found = client().get_run(run_id).data.metrics
    names = [name for name in found if not name.endswith(TIMED) and not name.startswith(METRICS)]
    return {
        name: sorted((point.step, point.value) for point in client().get_metric_history(run_id, name)) for name in names
    }


def test_a_failing_training_leaves_a_failed_run_that_says_why(disturb):
    disturb("raise", 3)
    config = tiny()
    with pytest.raises(NonFiniteLossError, match="loss nan"):
        commands.run(config)
    (run,) = client().search_runs([e.experiment_id for e in client().search_experiments()])
    assert run.info.status == "FAILED"
    assert run.data.tags["pikavae.error"] == "step 3: loss nan"


def test_the_same_training_waits_while_another_process_does_it(caplog):
    config = tiny(**{"training.precision": "float32"})
    prepared = commands.prepare(config)
    key = keys.key_of(keys.train_inputs(config, prepared.prepared_set.fingerprint))
    held, release = threading.Event(), threading.Event()

    def hold():
        with exclusive(home() / "runs" / f"{key}.lock"):
            held.set()
            release.wait(60)
            assert not list((home() / "runs").glob("*/run.json"))

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    threading.Timer(2.0, release.set).start()
    trained = commands.train(config, prepared)
    holder.join()
    assert "under way in another process; waiting for its result" in caplog.text
    assert trained.result.steps == 6


def test_an_altered_snapshot_is_not_used_again():
    finished = commands.run(tiny())
    snapshot = home() / "runs" / finished["run_id"] / "snapshots" / "step-00000006" / "config.json"
    snapshot.write_text(snapshot.read_text() + " ")
    assert commands.plan(tiny())["train"].status == "runs"


FRESH_PROCESS = """
import importlib.util, json, os, sys
found = importlib.util.find_spec("pikavae")
assert found is None or found.origin is None  # an editable install leaves a folder of that name, without code
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
images = np.load(sys.argv[3])
out = np.concatenate([model.predict(images[i:i + 5]) for i in range(0, len(images), 5)])
np.save(sys.argv[4], out)
"""


def test_a_fresh_process_without_pikavae_gets_the_reports_scores_from_the_registered_model(finished, tmp_path):
    pictures = open_prepared(home() / "prepared" / finished["fingerprint"]).validation
    images = pictures.batch(list(range(len(pictures))))["pixel_values"].numpy()
    np.save(tmp_path / "in.npy", images)
    model = f"models:/{finished['model']}/{finished['version']}"
    # An installed editable pikavae is a path on sys.path or an import hook of site-packages: -S leaves both out.
    site = [p for p in sys.path if p.endswith("site-packages")]
    code = f"import sys; sys.path[:0] = {site!r}\n{FRESH_PROCESS}"
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            code,
            Workspace(home()).tracking_uri,
            model,
            tmp_path / "in.npy",
            tmp_path / "out.npy",
        ],
        cwd=tmp_path,
        env={
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    error = ((np.load(tmp_path / "out.npy").astype(np.float64) - images) ** 2).mean(axis=(1, 2, 3))
    report = Report.load(Path(finished["report"]))
    for measured, row in zip(10 * np.log10(4 / error), report.per_image, strict=True):
        assert measured == pytest.approx(row.psnr, abs=0.001)


def test_the_registered_version_carries_its_lineage(finished):
    version = commands.show_model(finished["version"], tiny())
    assert version.run_id == finished["run_id"]
    for tag in ("fingerprint", "run_id", "config_hash", "snapshot", "report", "evaluation_set"):
        assert version.tags[f"pikavae.{tag}"]
    assert version.metrics["val/psnr"] == pytest.approx(finished["metrics"]["psnr"], abs=1e-6)


def test_any_kept_snapshot_is_evaluated_and_registered():
    finished = commands.run(tiny())
    made = set()
    for suffix in ("", "@2", "@best"):
        model = f"run:{finished['run_id']}{suffix}"
        config = commands.config_of_model(model)
        assert config == tiny(**{"training.precision": "float32"})
        report = commands.evaluate_model(model, config).report
        version = commands.register_model(model, config).version
        assert version.metrics["val/psnr"] == pytest.approx(report.metrics["psnr"], abs=1e-6)
        made.add(version.version)
        if suffix == "":
            assert version.version == finished["version"]
    best_step = run_folder(home(), finished["run_id"]).result.best_step
    assert len(made) == len({2, 6, best_step})
