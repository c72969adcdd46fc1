"""`pikavae up` tells what nobody sees: flows that fail, crash or are killed, with it or without it."""

import signal

import psutil
import pytest

from pikavae.process.servers import end_processes
from tests.flows.test_services import House, tiny, wait_for
from tests.support.listening import listening

SECRETS = (b"SECRETPATH", b"SECRETTOKEN", b"SECRETKEY")
ENDLESS = {"training.steps": 10**6, "training.checkpoint_every": 10**6, "training.validate_every": 10**6}

pytestmark = pytest.mark.slow


@pytest.fixture
def listener():
    with listening() as listener:
        yield listener


@pytest.fixture
def house(tmp_path, listener):
    house = House(tmp_path)
    house.home.mkdir()
    settings = house.home / "notify.yaml"
    settings.write_text("disk_free_gib: 0")  # whatever disk the tests have
    settings.chmod(0o600)
    house.environment |= {"PIKAVAE_NOTIFY_URLS": listener.url, "PIKAVAE_NOTIFY_SECRET": "SECRETKEY"}
    house.start()
    try:
        yield house
    finally:
        house.up.send_signal(signal.SIGINT)
        try:
            house.up.communicate(timeout=90)
        finally:
            end_processes(house.processes())


def begin_endless(house, seed):
    """Start a training that does not end, and return the id of its flow run once it has reported a step."""
    known = {path.name for path in (house.home / "runs").glob("*")}
    config = tiny(**ENDLESS, **{"training.seed": seed})
    config["training"]["preview_every"] = 10**6
    with house.prefect() as client:
        deployment = client.read_deployment_by_name("pipeline/pipeline")
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"config": config})

    def begun():
        return any(path.parent.name not in known for path in house.home.glob("runs/*/journal.jsonl"))

    wait_for(begun, "the first step")
    return run.id


def flow_process(house, flow_run):
    """The process that runs a flow."""
    for process in house.processes():
        try:
            if str(flow_run) in process.environ().values():
                return process
        except psutil.Error:
            continue
    return None


def test_flows_that_fail_crash_or_are_killed_with_everything_are_told_once(house, listener):
    def told(event, flow_run):
        return [one for one in listener.payloads if (one["event"], one["data"].get("flow_run_id")) == (event, flow_run)]

    run = house.run_deployment("retrain/retrain", {"config": tiny()})
    assert run.state.is_completed(), run.state.message
    assert wait_for(lambda: listener.events == ["candidate_ready"], "the news of a candidate")
    assert listener.payloads[0]["link"].startswith(f"http://127.0.0.1:{house.ports[0]}/#/experiments/")
    assert [one["filename"] for one in listener.payloads[0]["attachments"]] == ["panel.png"]

    failed = house.run_deployment("retrain/retrain", {"config": tiny(**{"data.source": "/nowhere"})})
    assert failed.state.is_failed()
    (one,) = wait_for(lambda: told("run_failed", str(failed.id)), "the news of a failure")
    assert "/nowhere" in one["message"]
    assert f"flow-run/{failed.id}" in one["link"]

    killed = begin_endless(house, 1)
    flow_process(house, killed).kill()
    wait_for(lambda: told("run_failed", str(killed)), "the news of a kill")
    wait_for(lambda: house.finished(killed), "Prefect's news of it")

    lost = begin_endless(house, 2)
    everything = house.processes()
    for process in everything:
        process.kill()
    psutil.wait_procs(everything, timeout=60)
    house.up.communicate()
    assert not told("run_failed", str(lost))
    house.start()
    wait_for(lambda: told("run_failed", str(lost)), "the news of a run that was killed with everything")

    assert sorted(listener.events) == ["candidate_ready", *["run_failed"] * 3]
    files = [path for path in house.home.rglob("*") if path.is_file()]
    found = [(path.name, secret) for path in files for secret in SECRETS if secret in path.read_bytes()]
    assert found == []
