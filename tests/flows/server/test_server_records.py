"""What is read from Prefect's server and written there: one server serves all these tests, and no run is real."""

import re
import socket
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled
from prefect.testing.utilities import prefect_test_harness

from flows.catalog.schedules import TIMED
from flows.commands.schedule import add_decisions, schedules_result
from flows.housekeeping import housekeeping
from flows.new_data import retrain_on_new_data
from flows.scheduling import schedules
from flows.scheduling.rules import cron_schedule
from flows.server import pages
from flows.server.environment import OWNER
from flows.server.late_runs import remove_late_runs
from flows.server.lost_runs import OWNER_TAG, crash_runs_without_owner, crash_tasks_without_flow, tag_of_owner
from flows.server.run_lines import RunWatch
from pikavae.data.news.record import NewDataRecord, Polling
from pikavae.errors import UserError
from pikavae.presets import load_config
from pikavae.process.marks import mark_of
from pikavae.tracker.client import Workspace
from tests.conftest import TINY
from tests.flows.server.test_environment import owner_that_is_gone
from tests.support.folders import draw

pytestmark = pytest.mark.slow

ANY = flow(name="any")(lambda: None)
LATE = Scheduled(scheduled_time=datetime.now(UTC) - timedelta(minutes=5))
DAILY = cron_schedule("0 3 * * *", "Europe/Berlin", where="--")
HOURLY = cron_schedule("0 * * * *", "UTC", where="--")


@pytest.fixture(scope="module")
def server():
    """A server of its own, and a client of it."""
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        yield client


def test_only_unfinished_runs_of_dead_processes_of_this_host_are_crashed(server, monkeypatch):
    monkeypatch.setenv(OWNER, mark_of(psutil.Process()))
    here, gone = socket.gethostname(), owner_that_is_gone()
    lost = f"{OWNER_TAG} {here} {gone}"
    cases = {
        "running": ([lost, "another"], Running()),
        "pending": ([lost], Pending()),
        "finished": ([lost], Completed()),
        "alive": ([tag_of_owner()], Running()),
        "elsewhere": ([f"{OWNER_TAG} {here}-2 {gone}"], Running()),
        "of a worker": ([], Running()),
        "of a user": ([OWNER_TAG], Running()),
    }
    made = {
        name: server.create_flow_run(ANY, name=name, tags=tags, state=state).id for name, (tags, state) in cases.items()
    }
    assert sorted(crash_runs_without_owner()) == ["pending", "running"]
    states = {name: server.read_flow_run(run).state for name, run in made.items()}
    assert crash_runs_without_owner() == []
    assert {name: state.type.value for name, state in states.items()} == {
        "running": "CRASHED",
        "pending": "CRASHED",
        "finished": "COMPLETED",
        **dict.fromkeys(("alive", "elsewhere", "of a worker", "of a user"), "RUNNING"),
    }
    assert states["running"].message == f"Process {gone.partition(':')[0]} on {here}, which ran it, was killed."


def test_unfinished_tasks_of_flow_runs_that_ended_are_crashed(server):
    cases = [
        (Crashed(), Running(), "CRASHED"),
        (Cancelled(), Pending(), "CRASHED"),
        (Crashed(), Completed(), "COMPLETED"),
        (Running(), Running(), "RUNNING"),
    ]
    tasks = []
    for i, (of_flow, of_task, _) in enumerate(cases):
        run = server.create_flow_run(ANY, state=of_flow)
        tasks.append(server.create_task_run(task(name="any")(lambda: None), run.id, dynamic_key=str(i), state=of_task))
    assert crash_tasks_without_flow() == 2
    assert crash_tasks_without_flow() == 0
    assert [server.read_task_run(run.id).state.type.value for run in tasks] == [after for _, _, after in cases]
    assert server.read_task_run(tasks[0].id).state.message == "Its flow run has ended without it."


def test_each_run_is_reported_once_as_it_begins_and_once_as_it_ends(server):
    server.create_flow_run(ANY, name="before", state=Completed())
    lines = []
    watch = RunWatch(server, lambda line: lines.append(re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d ", "", line)))
    watch.look()
    assert [line for line in lines if line.startswith("before")] == []
    run = server.create_flow_run(ANY, name="mine", state=Pending())
    watch.look()
    lines.clear()
    server.set_flow_run_state(run.id, Running(), force=True)
    for _ in range(2):
        watch.look()
    assert len(lines) == 1
    assert re.fullmatch(rf"mine began; http://.*/runs/flow-run/{run.id}", lines.pop())
    message = "Flow run encountered an exception: UserError: data.source '/a': no such file or folder"
    server.set_flow_run_state(run.id, Failed(message=message), force=True)
    short = server.create_flow_run(ANY, name="short", state=Completed(message="skipped"))
    for _ in range(2):
        watch.look()
    assert len(lines) == 2
    assert re.fullmatch(r"mine failed after \d+ s: UserError: data.source '/a': no such file or folder", min(lines)), (
        lines
    )
    assert max(lines) == "short finished: skipped"
    lines.clear()
    server.set_flow_run_state(run.id, Running(), force=True)  # a retry
    watch.look()
    assert [line.split(";")[0] for line in lines] == ["mine began"]
    assert server.read_flow_run(short.id).state.is_completed()


def test_a_server_that_does_not_answer_is_asked_again_later(server, monkeypatch):
    lines = []
    watch = RunWatch(server, lines.append)
    run = server.create_flow_run(ANY, name="late", state=Running())
    with monkeypatch.context() as away, temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: 1}):
        away.setattr(server._client, "base_url", "http://127.0.0.1:9/api/")
        watch.look()
        assert lines == []
    watch.look()
    assert [line for line in lines if " late began; " in line]
    assert server.read_flow_run(run.id).state.is_running()


def test_schedules_of_one_preset_are_listed_paused_resumed_run_and_removed_by_name(server):
    config = load_config("demo")
    for name in ("nightly", "other"):
        made = schedules.schedule_retrain(config, name, DAILY, from_champion=False)
        assert (made.name, made.active, made.last) == (f"retrain/{name}", True, "")
    assert [item.name for item in schedules.list_schedules()] == ["retrain/nightly", "retrain/other"]
    deployment = server.read_deployment_by_name("retrain/nightly")
    asked = server.create_flow_run_from_deployment(deployment.id, state=LATE).id
    run_id, page = schedules.run_now("nightly")
    assert page.endswith(f"/runs/flow-run/{run_id}")
    assert server.read_flow_run(run_id).parameters["config"]["data"]["source"] == config.data.source
    schedules.set_active("nightly", active=False)
    assert [item.active for item in schedules.list_schedules()] == [False, True]
    assert server.read_flow_run(asked).state.type == StateType.SCHEDULED  # somebody asked for it
    server.set_flow_run_state(run_id, Running(), force=True)
    server.set_flow_run_state(run_id, Failed(message="no room"), force=True)
    listed = schedules.list_schedules()
    assert re.fullmatch(r"failed after \d+ s: no room", listed[0].result)
    assert listed[0].link == page
    assert datetime.fromisoformat(listed[0].last).utcoffset() is not None
    _, text = schedules_result(listed)
    assert [line.split()[-1] for line in text.splitlines()[:2]] == ["NEXT", "paused"]
    assert f"retrain/nightly, last run {listed[0].last[:16].replace('T', ' ')}: {listed[0].result}\n{page}" in text
    schedules.set_active("retrain/nightly", active=True)
    assert [item.active for item in schedules.list_schedules()] == [True, True]
    schedules.remove_schedule("nightly")
    for act in (schedules.run_now, schedules.remove_schedule):
        with pytest.raises(UserError, match=r"'nightly': no such schedule; there are retrain/other$"):
            act("nightly")
    schedules.remove_schedule("other")
    assert schedules.list_schedules() == []


def test_schedules_of_other_programs_on_the_server_are_neither_listed_nor_removed(server, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 2)
    daily = [DeploymentScheduleCreate(schedule=DAILY)]
    others = [
        server.create_deployment(server.create_flow(ANY), name, entrypoint="theirs.py:any", schedules=daily)
        for name in ("nightly", "weekly")
    ]
    for name in ("nightly", "other"):
        schedules.schedule_retrain(load_config("demo"), name, DAILY, from_champion=False)
    assert [item.name for item in schedules.list_schedules()] == ["retrain/nightly", "retrain/other"]
    for name in ("nightly", "other"):
        schedules.remove_schedule(name)
    with pytest.raises(UserError, match=r"'weekly': no such schedule; nothing is scheduled$"):
        schedules.remove_schedule("weekly")
    assert [len(server.read_deployment(one).schedules) for one in others] == [1, 1]
    for one in others:
        server.delete_deployment(one)


def test_a_schedule_that_is_set_again_keeps_its_last_result_and_loses_the_runs_of_its_old_line(server, monkeypatch):
    config = load_config("demo")
    schedules.schedule_retrain(config, "again", DAILY, from_champion=False)
    deployment = server.read_deployment_by_name("retrain/again").id
    run_id, page = schedules.run_now("again")
    server.set_flow_run_state(run_id, Running(), force=True)
    server.set_flow_run_state(run_id, Failed(message="no room"), force=True)
    (before,) = schedules.list_schedules()
    with monkeypatch.context() as killed:
        killed.setattr(SyncPrefectClient, "create_deployment", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            schedules.schedule_retrain(config, "again", HOURLY, from_champion=False)
    assert schedules.list_schedules() == [before]
    server.pause_deployment(deployment)
    soon = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(minutes=5))
    waiting = [server.create_flow_run_from_deployment(deployment, state=state).id for state in (LATE, soon)]
    for run in waiting:
        let_be_scheduled(run)
    made = schedules.schedule_retrain(load_config("demo", {"training.seed": 1}), "again", HOURLY, from_champion=True)
    assert (made.cron, made.active, made.link, made.result) == ("0 * * * *", True, page, before.result)
    assert made.result.endswith(": no room")
    for run in waiting:
        with pytest.raises(ObjectNotFound):
            server.read_flow_run(run)
    (found,) = (one for one in server.read_deployments() if one.name == "again")
    assert (found.parameters["from_champion"], found.parameters["config"]["training"]["seed"]) == (True, 1)
    schedules.remove_schedule("again")


def test_a_watch_is_scheduled_beside_the_retrainings_and_found_by_its_name(server):
    schedules.schedule_retrain(load_config("demo"), "nightly", DAILY, from_champion=False)
    settings = {"data.source": "/new", "data.image_column": "scan"}
    made = schedules.schedule_watch(settings, "watch", DAILY, tolerance=0.5)
    assert (made.name, made.active) == ("evaluate-champion/watch", True)
    run_id, _ = schedules.run_now("watch")
    run = server.read_flow_run(run_id)
    assert run.parameters == {"source": "/new", "tolerance": 0.5, "settings": {"data.image_column": "scan"}}
    assert run.work_queue_name == "training"  # it waits for a training on the same card
    server.set_flow_run_state(run_id, Running(), force=True)
    message = "the champion fell: version 3: PSNR 1.20 dB worse than in its report"
    server.set_flow_run_state(run_id, Completed(message=message), force=True)
    results = {item.name: item.result for item in schedules.list_schedules()}
    assert re.fullmatch(rf"finished after \d+ s: {message}", results["evaluate-champion/watch"])
    assert results["retrain/nightly"] == ""
    schedules.remove_schedule("watch")
    schedules.remove_schedule("nightly")
    assert schedules.list_schedules() == []


def test_a_name_of_two_flows_is_asked_for_in_full(server, tmp_path):
    config = load_config("demo", {"data.source": str(tmp_path)})
    schedules.schedule_retrain(config, "both", DAILY, from_champion=False)
    made = schedules.schedule_new_data(config, "both", DAILY, {"at_least": "50"}, "A test.")
    assert (made.name, made.cron) == ("retrain-on-new-data/both", "0 3 * * *")
    with pytest.raises(UserError, match=r"^schedule pause 'both': there are retrain/both and "):
        schedules.set_active("both", active=False)
    schedules.remove_schedule("retrain/both")
    schedules.schedule_new_data(config, "both", DAILY, {"at_least": "60"}, "A test.")  # replaces it
    run_id, _ = schedules.run_now("both")
    assert server.read_flow_run(run_id).parameters["at_least"] == "60"
    listed = add_decisions(schedules.list_schedules(), tmp_path)
    assert [(item.name, item.decision) for item in listed] == [("retrain-on-new-data/both", "")]
    state = NewDataRecord(source="x").decided("waits", "3 new of 53, waits for 60", "2026-11-27T15:03:00+00:00")
    Polling(tmp_path, "both").save(state)
    (decided,) = add_decisions(schedules.list_schedules(), tmp_path)
    assert decided.decision == "3 new of 53, waits for 60"
    assert "decided 2026-11-27 15:03 UTC: 3 new of 53, waits for 60" in schedules_result([decided])[1]
    schedules.remove_schedule("both")
    assert schedules.list_schedules() == []


def test_deployments_of_the_file_get_a_schedule_by_a_row_of_a_table(server):
    row = TIMED["housekeeping"]
    with pytest.raises(UserError, match=r"no deployment housekeeping/housekeeping; `pikavae up` brings it"):
        schedules.schedule_deployment(row.deployment, DAILY, {})
    of_file = server.create_deployment(server.create_flow(housekeeping), "housekeeping", entrypoint="flows.x.y")
    for cron, keep in ((DAILY, 3), (HOURLY, 4)):
        schedules.schedule_deployment(row.deployment, cron, {"keep_backups": keep})
    (listed,) = schedules.list_schedules()
    assert (listed.name, listed.cron) == ("housekeeping/housekeeping", "0 * * * *")
    run_id, _ = schedules.run_now("housekeeping")
    assert server.read_flow_run(run_id).parameters["keep_backups"] == 4
    schedules.set_active("housekeeping", active=False)
    assert not schedules.list_schedules()[0].active
    schedules.remove_schedule("housekeeping")
    assert schedules.list_schedules() == []
    assert server.read_deployment(of_file).name == "housekeeping"  # it is of prefect.yaml, and stays


def test_late_polls_are_removed_and_those_to_come_stay(server, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 2)
    made = schedules.schedule_retrain(load_config("demo"), "late", DAILY, from_champion=False)
    deployment = server.read_deployment_by_name(made.name).id
    soon = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(minutes=5))
    *late, next_one, asked = (
        server.create_flow_run_from_deployment(deployment, state=state).id for state in (LATE, LATE, LATE, soon, LATE)
    )
    for run in (*late, next_one):
        let_be_scheduled(run)
    remove_late_runs(server, deployment, future=False)
    for run in late:
        with pytest.raises(ObjectNotFound):
            server.read_flow_run(run)
    assert [server.read_flow_run(run).state.type for run in (next_one, asked)] == [StateType.SCHEDULED] * 2
    schedules.remove_schedule("late")


def test_a_poll_trains_and_says_in_its_state_what_it_decided(server, tmp_path):
    """A flow as the worker runs it, with a real training."""
    draw(tmp_path / "pictures", range(24))
    tiny = load_config("demo", {**TINY, "data.source": str(tmp_path / "pictures"), "data.workers": 1})
    rule: Any = {"config": tiny, "at_least": "5", "quiet_minutes": 0, "return_state": True}
    state = retrain_on_new_data(**rule)
    assert state.name == "Retrained"
    assert state.message.startswith("retrained on 24 new of 24: version 1 of pikavae, ")
    assert state.result()["stages"]["train"]["status"] == "ran"
    state = retrain_on_new_data(**rule)
    assert (state.name, state.message) == ("NoNews", "no new pictures")
    Polling(Workspace.open().home, "retrain-on-new-data").path.unlink()  # what another run trained is known by its key
    state = retrain_on_new_data(**rule)
    assert (state.name, state.message) == ("NoNews", "no new pictures; those that are there are trained already")
    draw(tmp_path / "pictures", range(24, 26))
    state = retrain_on_new_data(**rule)
    assert (state.name, state.message) == ("Waits", "2 new of 26, waits for 5")


def let_be_scheduled(run_id):
    """Make a run one that the scheduler made, which this server has no scheduler for."""
    address = PREFECT_API_DATABASE_CONNECTION_URL.value().partition("sqlite+aiosqlite:///")[2]
    with closing(sqlite3.connect(address)) as database:
        changed = database.execute("UPDATE flow_run SET auto_scheduled = 1 WHERE id = ?", [str(run_id)]).rowcount
        database.commit()
    assert changed == 1


def test_a_pause_removes_the_late_runs_of_the_schedule_itself(server):
    schedules.schedule_retrain(load_config("demo"), "minutely", DAILY, from_champion=False)
    deployment = server.read_deployment_by_name("retrain/minutely")
    automatic, asked = (server.create_flow_run_from_deployment(deployment.id, state=LATE).id for _ in range(2))
    let_be_scheduled(automatic)
    schedules.set_active("minutely", active=False)
    with pytest.raises(ObjectNotFound):
        server.read_flow_run(automatic)
    assert server.read_flow_run(asked).state.type == StateType.SCHEDULED
    schedules.remove_schedule("minutely")
