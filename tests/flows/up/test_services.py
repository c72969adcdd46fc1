"""`pikavae up` with real servers and a real worker: schedules, forms, promotion, a crash and an orderly end."""

import json
import re
import signal
import subprocess
import sys
from datetime import datetime

import httpx
import psutil
import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling
from prefect.utilities.callables import parameter_schema

from flows.retrain import UNCHANGED
from flows.scheduling import schedules
from flows.scheduling.deployments import POOL, TRAINING_QUEUE
from pikavae.config import FOLLOWING, Config
from pikavae.errors import UserError
from pikavae.operations.upkeep.housekeeping import RECORD_NAME, HousekeepingRecord
from pikavae.presets import load_config, preset_names
from pikavae.tracker.tags import RUN_TAG, SNAPSHOT_TAG, read_version_tags
from pikavae.training.journal import read_events
from tests.conftest import TINY
from tests.support.folders import draw
from tests.support.services import OF_MLFLOW, House, wait_for

pytestmark = pytest.mark.slow


def tiny(**overrides):
    values = {name: json.loads(v) if isinstance(v, str) else [int(x) for x in v] for name, v in TINY.items()}
    return load_config("demo", {**values, **overrides}).model_dump(mode="json")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("house"))
    house.urls = house.start()
    yield house
    house.held.close()
    house.up.send_signal(signal.SIGINT)
    try:
        house.up.communicate(timeout=90)
    finally:
        for process in house.processes():
            process.kill()


@pytest.fixture(scope="module")
def scheduled(house):
    """The first flow run of a schedule that fires every minute."""
    flags = [f"--{name}={value}" for name, value in TINY.items() if isinstance(value, str)]
    lists = [word for name, value in TINY.items() if not isinstance(value, str) for word in (f"--{name}", *value)]
    status, out, err = house.cli("schedule", "demo", *flags, *lists, "--cron", "* * * * *", "--name", "tiny", "--json")
    assert status == 0, err
    (line,) = json.loads(out)["schedules"]
    assert (line["name"], line["cron"], line["active"]) == ("retrain/tiny", "* * * * *", True)
    first = min(house.scheduled_runs("retrain/tiny"), key=lambda run: run.expected_start_time)
    wait_for(lambda: house.state_of(first.id).type != StateType.SCHEDULED, "the begin of a scheduled run")
    status, out, err = house.cli("schedule", "pause", "tiny", "--json")
    assert status == 0, err
    assert [(item["name"], item["active"]) for item in json.loads(out)["schedules"]] == [("retrain/tiny", False)]
    assert not [run for run in house.scheduled_runs("retrain/tiny") if run.state.type == StateType.SCHEDULED]
    for run in house.scheduled_runs("retrain/tiny"):  # on a slow machine the next minute's may have begun too
        wait_for(lambda run=run: house.finished(run.id), "the end of a scheduled run")
    return house.finished(first.id)


def test_a_cron_line_alone_trains_and_registers(house, scheduled):
    assert (scheduled.auto_scheduled, scheduled.created_by.type) == (True, "SCHEDULE")
    assert scheduled.state.is_completed(), scheduled.state.message
    (version,) = house.mlflow().search_model_versions("name = 'pikavae'")
    run = house.mlflow().get_run(read_version_tags(version.tags)[RUN_TAG])
    assert run.data.tags["pikavae.flow_run_id"] == str(scheduled.id)
    assert f"flow-run/{scheduled.id}" in run.data.tags["mlflow.note.content"]
    assert run.info.artifact_uri.startswith((house.home / "artifacts").as_uri())
    assert house.in_flow_folders == set()
    page = f"http://127.0.0.1:{house.ports[1]}/runs/flow-run/{scheduled.id}"
    assert f" retrain/tiny began; {page}\n" in house.said.read_text()
    end = r" retrain/tiny finished after [^:\n]+: version 1: there is no champion yet; [a-z ]+\n"
    wait_for(lambda: re.search(end, house.said.read_text()), "the line of its end")


def test_a_paused_schedule_runs_when_asked_and_the_list_says_how_that_ended(house, scheduled):
    with house.as_server():
        run_id, page = schedules.run_now("tiny")
        again = wait_for(lambda: house.finished(run_id), "the end of a run that was asked for")
        (listed,) = schedules.list_schedules()
    assert again.state.message == UNCHANGED
    assert page == f"http://127.0.0.1:{house.ports[1]}/runs/flow-run/{run_id}"
    assert (listed.name, listed.active, listed.link) == ("retrain/tiny", False, page)
    assert re.fullmatch(rf"finished after [^:]+: {UNCHANGED}", listed.result)
    assert datetime.fromisoformat(listed.last) == again.start_time
    assert len(house.mlflow().search_model_versions("name = 'pikavae'")) == 1


def test_a_schedule_is_resumed_and_removed(house, scheduled):
    with house.as_server():
        schedules.set_active("retrain/tiny", active=True)
        (listed,) = schedules.list_schedules()
        assert (listed.name, listed.active) == ("retrain/tiny", True)
    status, out, err = house.cli("schedule", "remove", "tiny")
    assert (status, out) == (0, "nothing is scheduled\n"), err


def earlier_retrain(config: Config, from_champion: bool = False):
    """The parameters of `retrain` before its form was short."""


def test_a_schedule_of_an_earlier_version_runs(house, scheduled):
    with house.prefect() as client:
        given = client.read_flow_run(scheduled.id).parameters
        parameters = {name: given[name] for name in ("config", "from_champion")}
        deployment = client.create_deployment(
            client.read_flow(scheduled.flow_id).id,
            "earlier",
            parameters=parameters,
            work_pool_name=POOL,
            work_queue_name=TRAINING_QUEUE,
            tags=[schedules.SCHEDULED_TAG],
            entrypoint="flows.retrain.retrain",
            parameter_openapi_schema=parameter_schema(earlier_retrain).model_dump_for_openapi(),
            pull_steps=[],
            enforce_parameter_schema=True,
        )
        run = client.create_flow_run_from_deployment(deployment)
        ended = wait_for(lambda: house.finished(run.id), "the end of an earlier schedule's run")
        client.delete_deployment(deployment)
    assert ended.state.message == UNCHANGED
    assert ended.name.startswith("demo · ")


def test_a_poll_of_a_schedule_refuses_broken_pictures_and_the_list_says_so(house, scheduled, tmp_path):
    draw(tmp_path, range(6))
    for path in list(tmp_path.iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:60])
    words = ["when-new", "demo", "--data.source", str(tmp_path), "--at-least", "5", "--quiet-minutes", "0"]
    words += ["--cron", "0 0 1 1 *", "--name", "watched", "--data.image-size", "64", "--data.workers", "1"]
    status, _, err = house.cli("schedule", *words)
    assert status == 0, err
    with house.as_server():
        run_id, _ = schedules.run_now("watched")
    ended = wait_for(lambda: house.finished(run_id), "the end of a poll")
    assert ended.state.name == "Refused"
    assert ended.state.message.startswith("refused: 3 of 6 added files cannot be used (000")
    status, out, err = house.cli("schedule", "list", "--json")
    assert status == 0, err
    (listed,) = (item for item in json.loads(out)["schedules"] if item["name"] == "retrain-on-new-data/watched")
    assert listed["decision"] == ended.state.message
    with house.as_server():
        schedules.remove_schedule("watched")


def test_the_ui_that_runs_is_named_instead_of_a_second_one(house, scheduled):
    status, out, _ = house.cli("ui", "--json")
    assert (status, json.loads(out)["urls"]["mlflow"]) == (0, house.urls["mlflow"])
    run_id = house.mlflow().search_model_versions("name = 'pikavae'")[0].run_id
    status, out, _ = house.cli("ui", "--run", run_id)
    assert status == 0
    assert out.split()[1].startswith(f"http://127.0.0.1:{house.ports[0]}/#/experiments/")
    assert f"/runs/{run_id}" in out


def schedule_weekly(client, **fields):
    """A schedule of `retrain/retrain`, as Prefect's UI sets one, or with a slug as earlier versions did."""
    deployment = client.read_deployment_by_name("retrain/retrain")
    item = {"schedule": {"cron": "0 3 * * 1", "timezone": "UTC"}, "active": False, **fields}
    client.request("POST", "/deployments/{id}/schedules", path_params={"id": deployment.id}, json=[item])


def schedules_listed(house):
    with house.as_server():
        return [item.name for item in schedules.list_schedules()]


def test_nothing_is_scheduled_unasked_and_what_is_listed_can_be_removed(house):
    assert schedules_listed(house) == []
    with house.prefect() as client:
        schedule_weekly(client)
    assert schedules_listed(house) == ["retrain/retrain"]
    status, _, err = house.cli("schedule", "remove", "weekly")
    assert (status, err) == (2, "pikavae: schedule remove 'weekly': no such schedule; there are retrain/retrain\n")
    with house.as_server():
        with pytest.raises(UserError, match=r"^schedule run 'weekly': no such schedule; there are retrain/retrain$"):
            schedules.run_now("weekly")
        with pytest.raises(UserError, match=r"^schedule pause 'weekly': no such schedule; there are retrain/retrain$"):
            schedules.set_active("weekly", active=False)
        schedules.remove_schedule("retrain")
    assert schedules_listed(house) == []
    with house.prefect() as client:
        assert client.read_deployment_by_name("retrain/retrain").schedules == []


def test_the_form_has_every_field_and_refuses_what_is_out_of_bounds(house):
    with house.prefect() as client:
        for name in ("pipeline/pipeline", "retrain/retrain"):
            deployment = client.read_deployment_by_name(name)
            schema = deployment.parameter_openapi_schema
            assert schema["properties"]["preset"]["enum"] == preset_names()
            assert deployment.parameters["preset"] == "demo"
            for section, fields in load_config("demo").model_dump().items():
                shown = set(fields) - FOLLOWING
                parts = [d for d in schema["definitions"].values() if shown <= set(d["properties"])]
                assert len(parts) == 2, section  # of `advanced`, and of a whole configuration
                assert all(field["description"] for part in parts for field in part["properties"].values()), section
        before = len(client.read_flow_runs())
        for parameters, complaint in [
            ({"config": {"training": {"steps": 0}}}, "config.training.steps'. Failure reason: 0 is less than"),
            ({"config": {"training": {"stepz": 3}}}, "'stepz' was unexpected"),
            ({"preset": "demmo"}, "'demmo' is not one of"),
            ({"advanced": {"training": {"steps": 0}}}, "advanced.training.steps'. Failure reason: 0 is less than"),
        ]:
            with pytest.raises(PrefectHTTPStatusError, match=complaint):
                client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        assert len(client.read_flow_runs()) == before


def test_a_mistake_that_no_form_sees_fails_with_its_sentence(house):
    run = house.run_deployment("pipeline/pipeline", {"config": tiny() | {"data": {"image_size": 17}}})
    assert run.state.is_failed()
    complaint = "data.image_size 17 is not a multiple of the downsampling factor 2"
    assert complaint in run.state.message
    line = re.compile(f" pipeline/pipeline failed: .*{complaint}")  # it never began
    wait_for(lambda: line.search(house.said.read_text()), "the line of its failure")


def test_promotion_from_the_form(house, scheduled):
    refused = house.run_deployment("promote/promote", {"model": "99", "reason": "x"})
    assert "version 99 of 'pikavae': no such version" in refused.state.message
    with house.prefect() as client:
        deployment = client.read_deployment_by_name("promote/promote")
        empty = {"model": "1", "reason": ""}
        with pytest.raises(PrefectHTTPStatusError, match="field 'reason'"):
            client.create_flow_run_from_deployment(deployment.id, parameters=empty)
    assert not (house.home / "production" / "ledger.jsonl").exists()
    asked = house.run_deployment("promote/promote", {"model": "1", "reason": "the form works"})
    assert asked.state.is_completed(), asked.state.message
    done = house.run_deployment("approve/approve", {"model": 1, "reason": "seen"})
    assert done.state.is_completed(), done.state.message
    events = [json.loads(line) for line in (house.home / "production" / "ledger.jsonl").read_text().splitlines()]
    assert [(event["action"], event["state"], event["champion_after"], event["reason"]) for event in events] == [
        ("request", "done", None, "the form works"),
        ("approve", "done", None, "seen"),
        ("promote", "intent", 1, "the form works"),
        ("promote", "done", 1, "the form works"),
    ]
    with house.prefect() as client:
        table = next(found for found in client.read_artifacts() if found.key == "promotion-gates")
    assert [row["outcome"] for row in json.loads(table.data) if row["gate"] == "integrity"] == ["pass"]
    assert house.mlflow().get_model_version_by_alias("pikavae-production", "champion").version == 1


def test_retraining_from_the_champion_skips_what_the_champion_knows_and_else_begins_with_its_weights(house, scheduled):
    parameters = {"config": tiny(), "from_champion": True}
    assert house.run_deployment("retrain/retrain", parameters).state.message.startswith("skipped")
    run = house.run_deployment(
        "retrain/retrain", {"config": tiny(**{"optimizer.learning_rate": 1e-9}), "from_champion": True}
    )
    assert run.state.is_completed(), run.state.message
    versions = {int(v.version): v for v in house.mlflow().search_model_versions("name = 'pikavae'")}
    tags = {number: read_version_tags(version.tags) for number, version in versions.items()}
    assert house.mlflow().get_run(tags[2][RUN_TAG]).data.tags["pikavae.starting_weights"] == tags[1][SNAPSHOT_TAG]


def test_a_second_start_and_a_taken_port_are_refused_in_one_line(house, tmp_path):
    mlflow, prefect = map(str, house.ports)
    taken = f"--prefect-port {prefect}: taken by process "
    for home, complaint in [(house.home, "pikavae is up already"), (tmp_path, taken)]:
        done = subprocess.run(
            house.command("up", "--prefect-port", prefect, "--mlflow-port", mlflow),
            env={**house.environment, "PIKAVAE_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in {1, 2}
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_after_a_kill_a_second_start_ends_the_orphans_and_a_retry_goes_on(house, scheduled):
    config = tiny(**{"training.steps": 1500, "training.checkpoint_every": 50, "training.validate_every": 500})
    config["training"]["preview_every"] = 500
    with house.prefect() as client:
        deployment = client.read_deployment_by_name("pipeline/pipeline")
        flow_run = client.create_flow_run_from_deployment(deployment.id, parameters={"config": config})
    known = {path.name for path in (house.home / "runs").iterdir()}

    def begun():
        return next((p for p in house.home.glob("runs/*/checkpoints/step-*") if p.parts[-3] not in known), None)

    run_id = wait_for(begun, "the first checkpoint").parts[-3]
    with house.prefect() as client:
        schedule_weekly(client, slug="weekly")
    (house.home / "prefect" / "deployed.json").write_text("{}")  # of an earlier version
    orphans = [process for process in house.processes() if process.pid != house.up.pid]
    house.up.kill()
    house.up.communicate()
    assert all(process.is_running() for process in orphans)

    house.require_password()
    house.start()
    assert not any(process.is_running() for process in orphans)
    with house.prefect() as client:
        assert client.read_flow_run(flow_run.id).state.is_crashed()
        names = {deployment.name for deployment in client.read_deployments()}
    assert {"pipeline", "retrain", "promote", "approve"} <= names
    assert schedules_listed(house) == []
    with house.prefect() as client:
        of_tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])))
    assert [run.state.type.value for run in of_tasks if run.name.startswith("train ")] == ["CRASHED"]
    assert house.mlflow().get_run(run_id).info.status == "KILLED"
    done = HousekeepingRecord.read(house.home / RECORD_NAME).times[-1]
    assert done.ok, done.lines()
    assert [step.what for step in done.done if step.step == "flow runs"] == [
        "closed 0 flow runs and 1 task runs whose process was killed"
    ]
    assert f"housekeeping: {done.lines()[0]}\n" in house.said.read_text()
    assert {path.name.split("-")[0] for path in (house.home / "backups").iterdir()} == {"mlflow", "prefect"}
    address = {"PREFECT_API_URL": house.api, "PREFECT_API_AUTH_STRING": house.auth}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "flow-run", "retry", str(flow_run.id)]
    subprocess.run(command, env={**house.environment, **address}, check=True, capture_output=True)
    with house.prefect() as client:
        wait_for(lambda: not client.read_flow_run(flow_run.id).state.is_crashed(), "the retry")
    run = wait_for(lambda: house.finished(flow_run.id), "the end of the retry")
    assert run.state.is_completed(), run.state.message
    mlflow_run = house.mlflow().get_run(run_id)
    assert mlflow_run.info.status == "FINISHED"
    assert int(mlflow_run.data.tags["mlflow.pikavae.start_step"]) >= 50


OPEN_OF_PREFECT = {"/health", "/ready"}


def test_with_a_password_no_port_answers_who_has_none(house, scheduled):
    """Runs after the kill, since when the servers have a password."""
    listening = {
        one.laddr.port: process
        for process in house.processes()
        for one in process.net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN
    }
    assert set(house.ports) <= listening.keys()
    for port in listening.keys() - set(house.ports):  # what the worker's flow runs report to: never on `--host`
        assert "worker" in listening[port].cmdline()
    mlflow, prefect = (f"http://127.0.0.1:{port}" for port in house.ports)
    with httpx.Client(timeout=60) as stranger:
        listed = stranger.get(f"{prefect}/openapi.json").json()["paths"]
        asked = [(next(iter(how)).upper(), f"{house.api}{path}") for path, how in listed.items()]
        assert len(asked) > 100
        asked += [(how, mlflow + path) for path in OF_MLFLOW for how in ("GET", "POST")]
        answered = {address for how, address in asked if stranger.request(how, address).status_code != 401}
        assert answered == {f"{house.api}{path}" for path in OPEN_OF_PREFECT}
        for address in (f"{house.api}/hello", f"{mlflow}/"):
            assert stranger.get(address, auth=("me", "another-password")).status_code == 401
    user, _, password = house.auth.partition(":")
    with httpx.Client(auth=(user, password), timeout=60) as known:
        assert known.get(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=9").status_code == 200
        assert known.get(f"{house.api}/hello").status_code == 200
    assert schedules_listed(house) == []
    status, out, err = house.cli("schedule", "list", "--json")  # it finds the password by the record of `up`
    assert (status, json.loads(out)) == (0, {"schedules": []}), err


def test_a_cancelled_flow_saves_its_training(house, scheduled):
    config = tiny(**{"training.steps": 10**5, "training.checkpoint_every": 10**5, "training.validate_every": 10**5})
    config["training"]["preview_every"] = 10**5
    known = {path.name for path in (house.home / "runs").iterdir()}
    with house.prefect() as client:
        deployment = client.read_deployment_by_name("pipeline/pipeline")
        flow_run = client.create_flow_run_from_deployment(deployment.id, parameters={"config": config})

    def steps_told():
        journals = [path for path in house.home.glob("runs/*/journal.jsonl") if path.parent.name not in known]
        return [path for path in journals if len(read_events(path)[0]) >= 20]

    (journal,) = wait_for(steps_told, "the twentieth step")
    with house.prefect() as client:
        client.set_flow_run_state(flow_run.id, Cancelling())
    run = wait_for(lambda: house.finished(flow_run.id), "the end of a cancelled run")
    assert run.state.is_cancelled(), run.state
    (state,) = journal.parent.glob("checkpoints/step-*/state.json")
    assert json.loads(state.read_text())["step"] == max(event.step for event in read_events(journal)[0])
    assert house.mlflow().get_run(journal.parent.name).info.status == "KILLED"
    assert not [process for process in house.processes() if "pikavae.training.worker" in process.cmdline()]


def test_ctrl_c_ends_everything_whatever_signals_follow(house, scheduled):
    house.up.send_signal(signal.SIGINT)
    wait_for(lambda: not (house.home / "up.json").exists(), "the end to begin")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        house.up.send_signal(number)
    house.up.communicate(timeout=90)
    said = house.said.read_text()
    assert house.up.returncode == 0, said
    assert "Traceback" not in said
    assert re.search(r" pipeline/pipeline was cancelled after ", said)
    assert house.processes() == []
    assert not (house.home / "up.json").exists()
