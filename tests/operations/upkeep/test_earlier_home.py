"""A home that an earlier version made opens: records are read, production continues, `plan` says what changed."""

import pytest

from flows.cli import main
from pikavae.workspace.runs import run_folder
from tests.support import commands
from tests.support.configs import tiny
from tests.support.earlier_home import COMMIT, has_commit, make_earlier_home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_commit(), reason=f"git's history is needed back to commit {COMMIT[:7]}"),
]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The home, and the id of its unfinished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return make_earlier_home(tmp_path_factory.mktemp("earlier"))


@pytest.fixture(autouse=True)
def opened(earlier, isolated, monkeypatch):
    monkeypatch.setenv("PIKAVAE_HOME", str(earlier[0]))


SHOWN = {
    "models list": "candidate",
    "models show 1": "champion",
    "models lineage 1": "prepared set",
    "models history": "the second",
    "models verify": "everything agrees",
    "doctor": "",
    "prune --dry-run": "",
}


@pytest.mark.parametrize("words", SHOWN)
def test_every_command_that_reads_opens_it(words, capsys):
    assert main(words.split()) == 0
    assert SHOWN[words] in capsys.readouterr().out


def test_an_unfinished_run_begins_anew_because_the_code_is_another(earlier):
    home, run_id = earlier
    assert run_folder(home, run_id).record.inputs["training.seed"] == 1
    plan = commands.plan(tiny(**{"training.seed": 1}))["train"]
    assert plan.status == "runs"
    assert "code of the training: an earlier version of pikavae" in plan.reason
    assert "training.seed" not in plan.reason
    assert "code of pikavae/" not in plan.reason  # whose hashes of folders cannot show what changed


def test_its_pending_request_is_approved_and_rolled_back():
    """Last in the file: it changes the home. The smoke test runs the earlier package for real."""
    approved = commands.approve(2, tiny(), reason="seen")
    assert (approved.champion, approved.previous, approved.changed) == (2, 1, True)
    back = commands.rollback(reason="worse")
    assert (back.champion, back.changed) == (1, True)
    assert main(["models", "verify"]) == 0
