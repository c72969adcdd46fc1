"""What runs unattended says what came out: a retraining how its candidate stands, a watch if the champion fell."""

import re

import numpy as np
import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.retrain import UNCHANGED, retrain
from flows.server.run_lines import describe_state
from flows.watch import evaluate_champion
from pikavae.notify import record
from pikavae.notify.outbox import Outbox
from pikavae.notify.settings import EVERY_EVENT, Address, Recipients
from pikavae.production.changes import promote as production
from pikavae.production.judgements.watches import Watch, watch_files
from pikavae.tracker.client import Workspace
from pikavae.workspace.home import home
from tests.support.configs import tiny
from tests.support.house import files_alone
from tests.support.promoting import promote

pytestmark = pytest.mark.slow

NOBODY = Recipients((Address("http://127.0.0.1:9/", EVERY_EVENT),), disk_free_gib=0)


def config(steps):
    return tiny(**{"data.sprites_count": 80, "data.validation_fraction": 0.4, "training.steps": steps})


def told():
    record.collect(Workspace(home()), Outbox(home()), NOBODY)
    return [event.notification for event in Outbox(home()).events()]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A home with a champion that a retraining made, and a client of a Prefect server."""
    path = tmp_path_factory.mktemp("house") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIKAVAE_HOME", str(path))
        patch.setattr(production, "smoke_test", files_alone)
        with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
            first = retrain(config=config(24), return_state=True)
            assert first.message == "version 1: there is no champion yet; proposed for promotion"
            promote("1", config(24))
            record.begin(path, Outbox(path))
            yield path, client


@pytest.fixture
def client(house, isolated, monkeypatch):
    monkeypatch.setenv("PIKAVAE_HOME", str(house[0]))
    return house[1]


def flow_run_of(client, state, key):
    """The flow run that ended in a state, and its artifact of this key."""
    (run,) = [one for one in client.read_flow_runs() if one.state.message == state.message]
    (page,) = [one.data for one in client.read_artifacts() if one.flow_run_id == run.id and one.key == key]
    return run, page


def test_a_retraining_says_how_its_candidate_stands_against_the_champion(client):
    worse = retrain(config=config(2), return_state=True)
    found = r"version 2: PSNR [\d.]+ dB worse than champion 1 \(95 %: -[\d.]+ to -[\d.]+\); not proposed"
    assert re.fullmatch(found, worse.message)
    run, page = flow_run_of(client, worse, "retrain-result")
    assert describe_state(run).endswith(f": {worse.message}")  # what `schedule list` and `up` show
    assert retrain(config=config(2), return_state=True).message == UNCHANGED
    line = worse.message.removeprefix("version 2: ")
    assert f"version 2**: {line}." in page
    assert "- regression: fail: psnr gain -" in page
    assert {event["version"] for event in production.history(home())} == {1}  # nothing was asked for
    candidate = next(one for one in told() if one.event == "candidate_ready")
    assert candidate.title == f"pikavae: version 2 of pikavae is ready: {line}"
    assert "regression: fail: psnr gain -" in candidate.message
    assert "Its promotion is not proposed" in candidate.message
    assert candidate.data["standing"]["outcome"] == "fail"
    assert (home() / candidate.data["standing"]["comparison"]).is_file()


def test_a_flow_that_watches_the_champion_says_in_its_state_that_it_fell(client, tmp_path):
    noise = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    fell = evaluate_champion(str(tmp_path), return_state=True)
    found = r"the champion fell: version 1: PSNR [\d.]+ dB worse than in its report \(95 %: .*\), on 20 fresh pictures"
    assert re.fullmatch(found, fell.message)
    run, page = flow_run_of(client, fell, "champion-watched")
    assert page.startswith("**Version 1 of pikavae fell**: PSNR ")
    (watch,) = [Watch.read(file) for file in watch_files(home())]
    tags = Workspace(home()).client.get_run(watch.run_id).data.tags
    assert (tags["pikavae.flow_run_id"], tags["pikavae.watch.fell"]) == (str(run.id), "true")
    assert "champion_fell" in [one.event for one in told()]
    failed = evaluate_champion("pictures", return_state=True)
    assert "data.source 'pictures': a relative path" in failed.message
