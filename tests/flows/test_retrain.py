"""A retraining says how its candidate stands against the champion: in its state, on its page, and to who is told."""

import re

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.retrain import UNCHANGED, retrain
from flows.run_lines import describe_state
from pikavae.notify import record
from pikavae.notify.outbox import Outbox
from pikavae.notify.settings import EVERY_EVENT, Address, Recipients
from pikavae.production import promote as production
from pikavae.tracker.client import Workspace
from pikavae.workspace.home import home
from tests.support.configs import tiny
from tests.support.house import files_alone
from tests.support.promoting import promote

pytestmark = pytest.mark.slow

NOBODY = Recipients((Address("http://127.0.0.1:9/", EVERY_EVENT),), disk_free_gib=0)


def config(steps):
    return tiny(**{"data.sprites_count": 60, "data.validation_fraction": 0.4, "training.steps": steps})


def told():
    record.collect(Workspace(home()), Outbox(home()), NOBODY)
    return [event.notification for event in Outbox(home()).events()]


def test_a_retraining_says_how_its_candidate_stands_against_the_champion(monkeypatch):
    monkeypatch.setattr(production, "smoke_test", files_alone)
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        first = retrain(config(24), return_state=True)
        assert first.message == "version 1: there is no champion yet; proposed for promotion"
        promote("1", config(24))
        record.begin(home(), Outbox(home()))
        worse = retrain(config(2), return_state=True)
        found = r"version 2: PSNR [\d.]+ dB worse than champion 1 \(95 %: -[\d.]+ to -[\d.]+\); not proposed"
        assert re.fullmatch(found, worse.message)
        (run,) = [one for one in client.read_flow_runs() if one.state.message == worse.message]
        assert describe_state(run).endswith(f": {worse.message}")  # what `schedule list` and `up` show
        of_run = [one for one in client.read_artifacts() if one.flow_run_id == run.id]
        (page,) = [one.data for one in of_run if one.key == "retrain-result"]
        assert retrain(config(2), return_state=True).message == UNCHANGED
    line = worse.message.removeprefix("version 2: ")
    assert f"version 2**: {line}." in page
    assert "- regression: fail: psnr gain -" in page
    assert {event["version"] for event in production.history(home())} == {1}  # nothing was asked for
    (candidate,) = told()
    assert candidate.title == f"pikavae: version 2 of pikavae is ready: {line}"
    assert "regression: fail: psnr gain -" in candidate.message
    assert "Its promotion is not proposed" in candidate.message
    assert candidate.data["standing"]["outcome"] == "fail"
    assert (home() / candidate.data["standing"]["comparison"]).is_file()
