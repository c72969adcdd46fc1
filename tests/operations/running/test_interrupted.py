"""A stage that was killed between its result and its record is made good by the next attempt, and nothing is double."""

import pytest

from pikavae import operations
from pikavae.operations.running import pipeline
from pikavae.production.changes import promote as production
from pikavae.production.judgements.standing import Standing
from pikavae.registry import versions
from pikavae.tracker.run_log import RunLog
from pikavae.workspace.files import write_atomically
from tests.support import commands
from tests.support.commands import bare_client as client
from tests.support.configs import tiny
from tests.support.house import files_alone
from tests.support.promoting import promote


class KilledError(BaseException):
    """Stands for the end of the process at this point."""


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A home with a finished training that is not measured yet, and what its stages returned."""
    path = tmp_path_factory.mktemp("shared") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path))
        prepared = commands.prepare(tiny())
        return path, prepared, commands.train(tiny(), prepared)


@pytest.fixture
def trained(monkeypatch, isolated, shared_home):
    monkeypatch.setenv("PIKAVAE_HOME", str(shared_home[0]))
    return shared_home[1:]


def points(run_id, key):
    return sorted((point.step, point.value) for point in client().get_metric_history(run_id, key))


@pytest.mark.parametrize(("name", "panel_images"), [("log_file", 8), ("set_note", 5), ("set_tags", 4)])
def test_an_evaluation_that_was_killed_before_it_was_recorded_is_recorded_by_the_next_attempt(
    trained, monkeypatch, name, panel_images
):
    prepared, run = trained
    config, run_id = tiny(**{"evaluation.panel_images": panel_images}), run.run.run_id
    before = points(run_id, "val/psnr")

    def killed(self, *_arguments):
        self.flush()
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, name, killed)
        with pytest.raises(KilledError):
            commands.evaluate(config, prepared, run)
    done = commands.evaluate(config, prepared, run)
    kept = {file.path for file in client().list_artifacts(run_id, "evaluation")}
    assert kept >= {f"evaluation/{path.name}" for path in done.folder.iterdir() if path.is_file()}
    after = points(run_id, "val/psnr")
    assert len(after) == len(set(after)) == max(len(before), 4)  # three of the training, and one of all evaluations
    assert (6, done.report.metrics["psnr"]) in after
    assert client().get_run(run_id).data.metrics["val/psnr"] == done.report.metrics["psnr"]
    assert client().get_run(run_id).info.status == "FINISHED"
    assert commands.evaluate(config, prepared, run).reused


@pytest.mark.parametrize("moment", ["before the run names its version", "before the record"])
def test_a_registration_that_was_killed_before_it_was_recorded_is_recorded_by_the_next_attempt(
    trained, monkeypatch, moment
):
    prepared, run = trained
    name = moment.replace(" ", "-")
    config = tiny(**{"registry.model_name": name})
    evaluated = commands.evaluate(config, prepared, run)

    def record(path, content):
        if path.parent.name == "registrations":
            raise KilledError
        write_atomically(path, content)

    def register(*arguments, **named):
        whole(*arguments, **named)
        raise KilledError

    whole = versions.register
    with monkeypatch.context() as patch:
        if moment == "before the record":
            patch.setattr(pipeline, "write_atomically", record)
        else:
            patch.setattr(versions, "register", register)
        with pytest.raises(KilledError):
            commands.register(config, prepared, run, evaluated)
    plan = operations.plan(commands.workspace(), config, start=None)["register"]
    assert (plan.status, plan.reason) == ("runs", f"{name} version 1 was registered and its record is missing")
    scores = points(run.run.run_id, "val/psnr")
    done = commands.register(config, prepared, run, evaluated)
    assert (done.version.version, done.reused) == (1, False)
    assert len(client().search_model_versions(f"name = '{name}'")) == 1
    tags = client().get_run(run.run.run_id).data.tags
    assert (tags["pikavae.version"], tags["mlflow.pikavae.registered_model"]) == ("1", name)
    assert points(run.run.run_id, "val/psnr") == scores  # linking the score to the version adds no point
    assert operations.plan(commands.workspace(), config, start=None)["register"].status == "done"
    assert commands.register(config, prepared, run, evaluated).reused


def test_a_version_that_a_killed_retraining_did_not_compare_is_compared_by_the_next(trained, monkeypatch, caplog):
    monkeypatch.setattr(production, "smoke_test", files_alone)
    prepared, run = trained
    first, second = tiny(), tiny(**{"evaluation.panel_images": 6})
    for config in (first, second):
        commands.register(config, prepared, run, commands.evaluate(config, prepared, run))
    promote("1", first)
    workspace = commands.workspace()
    assert operations.find_missing_standings(workspace, second) == []  # no retraining made them
    operations.expect_standing(run.run.path)
    assert operations.find_missing_standings(workspace, tiny(**{"registry.model_name": "another"})) == []
    found = operations.find_missing_standings(workspace, second)
    assert {(one.version, one.champion) for one in found} == {(1, 1), (2, 1)}
    kept = [Standing.find(run.run.path, path.stem) for path in run.run.path.glob("registrations/*.json")]
    assert all(one in kept for one in found)
    assert operations.find_missing_standings(workspace, second) == []
    third = tiny(**{"evaluation.panel_images": 7})
    commands.register(third, prepared, run, commands.evaluate(third, prepared, run))
    client().delete_model_version("pikavae", "3")
    assert operations.find_missing_standings(workspace, third) == []  # and it stops no retraining
    assert "version 3 is not compared with the champion" in caplog.text
