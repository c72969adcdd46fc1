"""A team's set-up as docs/guide/team.md has it: PostgreSQL below both servers, accounts, workers on two machines."""

import json
import shutil
import urllib.error

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate

from flows.cli import main
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.record import ledger
from tests.flows.scheduling.test_work_pools import FILES
from tests.flows.up.test_services import tiny
from tests.support.team import ADMIN, DATABASES, PASSWORDS, Team, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CADENCE = {"training.steps": 40, **{f"training.{name}_every": 40 for name in ("preview", "validate", "checkpoint")}}


def acting(team, monkeypatch, capsys, home, who):
    """A way to run commands as somebody at a machine: status, what it said."""

    def run(*words):
        with monkeypatch.context() as patch:
            for name, value in team.environment(home, who).items():
                if name.startswith(("MLFLOW_", "PIKAVAE_", "PREFECT_")):
                    patch.setenv(name, value)
            status = main(list(words))
        told = capsys.readouterr()
        return status, told.out + told.err

    return run


def actions(home):
    return [(event.action, event.state, event.actor) for event in ledger.read(ledger_path(home))]


def test_a_team_trains_approves_and_restores(tmp_path, monkeypatch, capsys):
    team, second = Team(tmp_path), None
    production, training = tmp_path / "production-home", tmp_path / "training-home"
    for home in (production, training):
        home.mkdir()
    try:
        team.cluster.start()
        team.make_databases()
        team.start_mlflow()
        team.start_prefect()
        team.wait_until_up()
        for who in ("zoe", "max"):
            team.mlflow_api("POST", "users/create", ADMIN, {"username": who, "password": PASSWORDS[who]})
        with SyncPrefectClient(team.api, auth_string=team.prefect_auth) as client:
            train_through_a_kill_of_postgresql(team, client, production, training)
        zoe, max_ = (acting(team, monkeypatch, capsys, production, who) for who in ("zoe", "max"))
        elsewhere = acting(team, monkeypatch, capsys, training, "max")
        approve_by_another(production, zoe, max_, elsewhere)
        rotate(team, zoe)
        status, told = max_("models", "verify", "--all")
        assert (status, "everything agrees" in told) == (0, True), told
        second = restored(team, tmp_path / "second", production)
        again = acting(second, monkeypatch, capsys, second.folder / "home", "max")
        status, told = again("models", "verify", "--all")
        assert (status, "everything agrees" in told) == (0, True), told
        assert again("models", "show", "champion")[0] == 0
    finally:
        for one in filter(None, (team, second)):
            one.close()


def train_through_a_kill_of_postgresql(team, client, production, training):
    """Two machines work, each for a queue; PostgreSQL is killed while one trains, and nothing is lost."""
    client.create_work_pool(WorkPoolCreate(name="pikavae", type="process"))
    for name, path in FILES.items():  # as the server takes them
        template = json.loads(path.read_text())
        client.create_work_pool(WorkPoolCreate(name=f"pikavae-{name}", type=name, base_job_template=template))
    team.prefect(production, "deploy", "--name", "pipeline")
    team.start_worker("production", production, "zoe", "default")
    team.start_worker("training", training, "max", "training")
    deployment = client.read_deployment_by_name("pipeline/pipeline")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"config": tiny(**CADENCE)})
    begun = [team.running["training"]]
    wait_for(lambda: [*training.glob("runs/*/journal.jsonl")], "the begin of the training", begun)
    team.cluster.kill()
    team.cluster.start()
    ended = wait_for(lambda: (found := client.read_flow_run(run.id)).state.is_final() and found, "the end of it", begun)
    assert ended.state.is_completed(), ended.state
    assert not [*production.glob("runs/*")]
    assert client.read_work_queue_by_name("training", work_pool_name="pikavae").concurrency_limit is None


def approve_by_another(production, zoe, max_, elsewhere):
    """Who asks may not approve, from no machine; another approves."""
    promote = ("promote", "1", "--reason", "the first", "--force")
    approve = ("approve", "1", "--reason", "seen")
    names = ("--approver", "mlflow:zoe", "--approver", "mlflow:max")
    status, told = zoe("rules", "set", *names, "--two-people", "--request-days", "7", "--reason", "as agreed")
    assert (status, "you are       mlflow:zoe" in told) == (0, True), told
    status, told = zoe(*promote)
    assert (status, "The rules: by another person than you, mlflow:max, mlflow:zoe within 7 days." in told) == (3, True)
    status, told = zoe(*approve)
    assert (status, "mlflow:zoe asked for it, and the rules want another person" in told) == (3, True), told
    assert elsewhere(*approve)[0] != 0  # the other machine's home does not keep production
    status, told = elsewhere(*promote)
    assert (status != 0, "is kept by the home" in told) == (True, True), told
    assert max_(*approve)[0] == 0
    assert actions(production) == [
        ("rules", "done", "mlflow:zoe"),
        ("request", "done", "mlflow:zoe"),
        ("approve", "done", "mlflow:max"),
        ("promote", "intent", "mlflow:max"),
        ("promote", "done", "mlflow:max"),
    ]


def rotate(team, zoe):
    """Give an account, and MLflow's role in PostgreSQL, other passwords."""
    before, PASSWORDS["zoe"] = PASSWORDS["zoe"], "another-of-zoe"
    try:
        team.mlflow_api("PATCH", "users/update-password", ADMIN, {"username": "zoe", "password": "another-of-zoe"})
        assert team.mlflow_api("GET", "users/current", "zoe")["user"]["username"] == "zoe"
        PASSWORDS["zoe"] = before
        with pytest.raises(urllib.error.HTTPError, match="401"):
            team.mlflow_api("GET", "users/current", "zoe")
    finally:
        PASSWORDS["zoe"] = before
    team.passwords["mlflow"] = "another-for-mlflow"
    team.cluster.sql("ALTER ROLE mlflow PASSWORD 'another-for-mlflow'")
    team.end("mlflow")
    team.start_mlflow()
    team.wait_until_up()


def restored(team, folder, home):
    """Back up databases, artifacts and the home of production, in this order, and restore them elsewhere."""
    folder.mkdir()
    for name in DATABASES:
        team.cluster.run("pg_dump", "-Fc", "-d", name, "-f", team.cluster.folder / f"{name}.dump")
    shutil.copytree(team.artifacts, folder / "artifacts")
    shutil.copytree(home, folder / "home", symlinks=True)
    team.end()
    team.cluster.stop()
    shutil.rmtree(home)
    shutil.rmtree(team.artifacts)
    second = Team(folder)
    second.cluster.start()
    second.make_databases()
    for name in DATABASES:
        dump = second.cluster.take(team.cluster.folder / f"{name}.dump")
        second.cluster.run("pg_restore", "--no-owner", f"--role={name}", "--exit-on-error", "-d", name, dump)
    second.start_mlflow()
    second.start_prefect()
    second.wait_until_up()
    with SyncPrefectClient(second.api, auth_string=second.prefect_auth) as client:
        assert [run.state.is_completed() for run in client.read_flow_runs()] == [True]
    return second
