"""A longer training begins where a finished one ended, with all its state, and ends where one in one go does."""

import json
from contextlib import closing
from datetime import UTC, datetime

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from pikavae.errors import UserError
from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.operations.stages import keys
from pikavae.operations.stages.extending import Extension, begin_with, find_extension
from pikavae.operations.stages.runtime import record_of, repair_records
from pikavae.tracker.client import Workspace
from pikavae.training.journal import Journal
from pikavae.training.loop import train
from pikavae.workspace import runs
from pikavae.workspace.files import sha256_of
from pikavae.workspace.home import home
from pikavae.workspace.run_record import ExtendedRun, TrainingResult
from pikavae.workspace.runs import create_run_folder
from tests.support import commands
from tests.support.configs import tiny
from tests.support.prepared_sets import make_prepared, random_pictures
from tests.training.conftest import make_config

CONSTANT = {"optimizer.schedule": "constant", "optimizer.warmup_steps": 2, "training.ema_decay": 0.9}
DECLARED = {
    "optimizer.schedule": "cosine",
    "optimizer.schedule_steps": 14,
    "training.ema_decay": 0.9,
    "training.precision": "float32",  # what `auto` stands for here, as in the keys
}
DISCRIMINATOR = {"loss.adversarial_weight": 0.5, "loss.adversarial_start": 0.2, "loss.adversarial_warmup": 0.2}
BY_THE_CLOCK = {"train/images_per_second", "train/data_wait_fraction"}


def points(folder):
    """What the journal tells that does not depend on the clock."""
    told = {}
    for line in (folder / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        values = {name: value for name, value in event.get("values", {}).items() if name not in BY_THE_CLOCK}
        told[event["event"], event["step"], tuple(sorted(values))] = values
    return told


def train_here(config, pictures, folder):
    """Train in this process, with the journal that a process of its own would write."""
    folder.mkdir(parents=True, exist_ok=True)
    with closing(Journal(folder)) as journal:
        return train(config, pictures, folder, torch.device("cpu"), journal)


def assert_same_training(folder, whole, *, step):
    name = f"step-{step:08d}"
    ours, theirs = (load_file(one / "snapshots" / name / WEIGHTS_NAME) for one in (folder, whole))
    assert all(ours[weight].equal(value) for weight, value in theirs.items())
    assert points(folder) == points(whole)
    files = {path.name for path in (whole / "checkpoints" / name).iterdir()} - {"state.json", "config.yaml"}
    assert {"model.safetensors", "optimizer.pt"} < files
    for file in files:
        assert sha256_of(folder / "checkpoints" / name / file) == sha256_of(whole / "checkpoints" / name / file), file


def test_an_extended_training_is_one_in_one_go_bit_for_bit(tmp_path):
    config, longer = tiny(**DECLARED), tiny(**DECLARED, **{"training.steps": 10})
    prepared = commands.prepare(config)
    first = commands.train(config, prepared)
    plan = commands.plan(longer)["train"]
    assert plan.status == "extends"
    assert plan.reason.startswith(f"extends run {first.run.run_id} from step 6 to 10")
    before = {path: sha256_of(path) for path in first.run.path.rglob("*") if path.is_file()}
    second = commands.train(longer, prepared)
    assert {path: sha256_of(path) for path in first.run.path.rglob("*") if path.is_file()} == before
    assert (second.result.start_step, second.result.steps) == (6, 10)
    extends = ExtendedRun(run=first.run.run_id, step=6)
    assert second.run.record.extends == extends
    whole = train_here(longer, prepared.prepared_set, tmp_path / "whole")
    assert_same_training(second.run.path, tmp_path / "whole", step=10)
    assert (second.result.images_seen, second.result.best_step) == (whole.images_seen, whole.best_step)

    client = MlflowClient(Workspace(home()).tracking_uri)
    assert client.get_run(second.run.run_id).data.tags["pikavae.extends"] == f"{first.run.run_id}@6"
    assert [point.step for point in client.get_metric_history(second.run.run_id, "val/psnr")] == [2, 4, 6, 8, 10]
    assert client.get_run(first.run.run_id).data.params["training.steps"] == "6"

    # A record that was lost says again what the run extends
    (second.run.path / runs.RUN_NAME).unlink()
    assert commands.train(longer, prepared).reused
    assert second.run.record.extends == extends

    # What prune leaves is enough to go on from
    assert commands.prune(keep=1)
    for steps, run in ((8, first), (12, second)):
        said = commands.plan(tiny(**DECLARED, **{"training.steps": steps}))["train"].reason
        assert said.startswith(f"extends run {run.run.run_id} from step {run.result.steps} to {steps}")
    more = tiny(**DECLARED, **{"training.steps": 12})
    inputs = keys.train_inputs(more, prepared.prepared_set.fingerprint)
    here = commands.workspace()
    extension = find_extension(here, more, inputs, len(prepared.prepared_set.train))
    assert isinstance(extension, Extension)
    begin_with(here, extension, tmp_path / "more")
    assert train_here(more, prepared.prepared_set, tmp_path / "more").start_step == 10

    # One that was killed before it had all that it begins with is no run: it is begun again
    (second.run.path / runs.RUN_NAME).unlink()
    for state in (second.run.path / "checkpoints").iterdir():
        state.rename(tmp_path / state.name)
    repair_records(commands.workspace(), longer, keys.train_inputs(longer, prepared.prepared_set.fingerprint))
    assert not second.run.has_record


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures of 32 px to train on, which a discriminator can see, and two to validate."""
    drawn = random_pictures(8, (32, 32))
    return make_prepared(tmp_path_factory.mktemp("pictures") / "set", drawn[:6], drawn[6:], image_size=32)


def finished_run(config):
    """The folder of a finished run of six steps."""
    record = record_of(config, keys.train_inputs(config, "a set"), datetime.now(UTC))
    run = create_run_folder(home(), "finished", record)
    run.finish(TrainingResult(snapshot="", start_step=0, steps=6, best_step=0, snapshot_sha256={}))
    return run


def extension(config):
    return find_extension(commands.workspace(), config, keys.train_inputs(config, "a set"), num_images=6)


@pytest.mark.parametrize(
    ("shared", "declared", "longer"),
    [
        ({"loss.kl_weight": 1e-3, "loss.kl_warmup": 0.9}, 8, {}),
        ({**DISCRIMINATOR, "training.accumulation": 2}, 8, {"optimizer.schedule_steps": 8}),
        (
            {"loss.adversarial_weight": 0.5, "loss.adversarial_start": 0, "loss.adversarial_warmup": 0, **CONSTANT},
            0,
            {},
        ),
        ({}, 10, {"optimizer.schedule_steps": 10, "training.minutes": 60}),
    ],
    ids=["a KL that rises", "a discriminator that begins later", "nothing that goes by shares", "at most minutes"],
)
def test_each_state_and_schedule_goes_on_bit_for_bit(pictures, tmp_path, shared, declared, longer):
    shared = {"data.image_size": 32, "optimizer.schedule": "cosine", "training.ema_decay": 0.9, **shared}
    config = make_config(**shared, **({"optimizer.schedule_steps": declared} if declared else {}))
    longer = make_config(**shared, **longer, **{"training.steps": 8})
    train_here(config, pictures, finished_run(config).path)
    begin_with(commands.workspace(), extension(longer), tmp_path / "longer")
    assert train_here(longer, pictures, tmp_path / "longer").start_step == 6
    train_here(longer, pictures, tmp_path / "whole")
    assert_same_training(tmp_path / "longer", tmp_path / "whole", step=8)


PHASES = {**CONSTANT, "loss.adversarial_weight": 0.5}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"optimizer.schedule": "cosine"}, {}, "optimizer.schedule came to its end with it; only one begun with "),
        ({"loss.kl_warmup": 0.5}, {}, "loss.kl_warmup came to its end with it"),
        ({"loss.adversarial_weight": 0.5}, {}, "loss.adversarial_start, loss.adversarial_warmup came to their end"),
        (
            {"optimizer.schedule": "cosine", "optimizer.schedule_steps": 20},
            {"optimizer.schedule_steps": 8},
            "optimizer.schedule: counted over 20 steps there; give optimizer.schedule_steps 20 here too",
        ),
        ({"optimizer.schedule": "cosine", "training.minutes": 5}, {}, "optimizer.schedule came to its end with it"),
        ({"training.patience": 3}, {}, "training.patience counts checkpoints"),
        ({"training.preview_images": 3}, {"training.preview_images": 4}, "training.preview_images: not as in that run"),
        ({}, {}, "its last state to resume from is gone or damaged"),
    ],
    ids=str,
)
def test_what_cannot_go_on_is_trained_anew_and_says_why(before, now, said):
    finished_run(tiny(**{**CONSTANT, **before}))
    told = extension(tiny(**{**CONSTANT, **before, **now, "training.steps": 8}))
    assert told.startswith(f"run finished of 6 steps is not extended, and training starts from the beginning: {said}")


def test_what_ended_with_its_run_says_how_the_next_one_can_be_extended():
    finished_run(tiny())
    assert extension(tiny(**{"training.steps": 8})).endswith(
        "only one begun with optimizer.schedule_steps 8 could go on"
    )


@pytest.mark.parametrize(
    "changes", [{"training.steps": 4}, {"training.steps": 6}, {"training.steps": 8, "training.seed": 1}], ids=str
)
def test_a_run_that_is_no_shorter_or_differs_elsewhere_is_none_to_extend(changes):
    finished_run(tiny(**CONSTANT))
    assert extension(tiny(**{**CONSTANT, **changes})) is None


@pytest.mark.parametrize(
    ("changes", "is_input"),
    [
        ({"optimizer.schedule": "cosine"}, True),
        ({**CONSTANT, "loss.kl_warmup": 0.5}, True),
        (PHASES, True),
        (CONSTANT, False),
        ({**PHASES, "loss.adversarial_start": 0, "loss.adversarial_warmup": 0}, False),
        ({"optimizer.schedule": "cosine", "training.steps": 20}, False),
        ({"optimizer.schedule": "cosine", "training.steps": 20, "training.minutes": 5}, True),
    ],
    ids=str,
)
def test_a_declared_schedule_is_an_input_where_it_changes_the_weights(changes, is_input):
    plain, declared = (
        keys.train_inputs(tiny(**changes, **more), "a set") for more in ({}, {"optimizer.schedule_steps": 20})
    )
    assert keys.SCHEDULE_STEPS not in plain
    assert (keys.key_of(declared) != keys.key_of(plain)) is is_input


def test_a_schedule_that_is_over_before_its_training_is_refused():
    with pytest.raises(UserError, match=r"optimizer\.schedule_steps 4: the learning rate would be 0 from there to "):
        tiny(**{"optimizer.schedule_steps": 4})
    assert tiny(**{"optimizer.schedule_steps": 4, "optimizer.final_fraction": 0.1}).optimizer.schedule_steps == 4
