"""The study of a sweep, by Optuna on SQLite: what is next, what a break changes, and which trial is not worth it."""

import itertools
import sqlite3

import pytest

from pikavae.config import Config
from pikavae.errors import PikavaeError, UserError
from pikavae.operations.sweeps import trials
from pikavae.operations.sweeps.objective import objective_of
from pikavae.operations.sweeps.space import Choices, Range, Space
from pikavae.operations.sweeps.storage import SWEEPS_URL
from pikavae.operations.sweeps.trials import Trials

PSNR = objective_of("psnr", Config())
RATES = Range(1e-4, 1e-2, "log_range", is_whole=False)
GRID = Space({"optimizer.learning_rate": Choices((0.1, 0.2)), "model.channels": Choices(([8, 8], [8, 16]))})
DRAWN = Space({"optimizer.learning_rate": RATES, "model.num_res_blocks": Range(1, 3, "integers", is_whole=True)})


def opened(home, space=DRAWN, inputs=None, name="one"):
    return Trials(home, name, inputs or {"training.steps": 6}, space=space, objective=PSNR, seed=3)


def run(study, count, *, is_grid=False):
    """Run trials whose score follows from their values; return the values."""
    found = []
    for _ in range(count):
        if (trial := study.next(is_grid=is_grid)) is None:
            break
        found.append(trial.values)
        trial.complete(10.0 - 1000 * abs(trial.values["optimizer.learning_rate"] - 1e-3))
    return found


def test_a_grid_tries_every_combination_once_also_after_a_break(tmp_path):
    first = run(opened(tmp_path, GRID), 3, is_grid=True)
    rest = run(opened(tmp_path, GRID), 9, is_grid=True)
    assert [*first, *rest] == list(GRID.combinations())


def test_a_break_changes_no_value_that_is_drawn(tmp_path):
    in_one_go = run(opened(tmp_path / "a"), 14)
    with_breaks = [values for _ in range(7) for values in run(opened(tmp_path / "b"), 2)]
    assert in_one_go == with_breaks
    assert len({values["optimizer.learning_rate"] for values in in_one_go}) == 14
    assert {values["model.num_res_blocks"] for values in in_one_go} == {1, 2, 3}


def test_a_finite_space_is_exhausted_without_a_repetition(tmp_path):
    space = Space({"model.num_res_blocks": Range(1, 3, "integers", is_whole=True), "optimizer.name": Choices((1, 2))})
    study = opened(tmp_path, space)
    found = []
    while (trial := study.next(is_grid=False)) is not None:
        found.append(tuple(trial.values.values()))
        trial.complete(float(trial.values["model.num_res_blocks"]))
    assert sorted(found) == list(itertools.product((1, 2, 3), (1, 2)))


def test_a_trial_of_a_killed_process_is_begun_again_under_its_number(tmp_path):
    study = opened(tmp_path)
    run(study, 2)
    lost = study.next(is_grid=False)
    lost.report(12.0, 2, total_steps=6)
    lost.note(seconds=5.0, run_id="run")
    again = opened(tmp_path).next(is_grid=False)  # this process is another one to the study
    assert (again.number, again.values, again.seconds) == (3, lost.values, 5.0)
    assert again.report(99.0, 2, total_steps=6) is False  # it has that step already
    again.complete(11.0)
    (entry,) = [one for one in opened(tmp_path).entries() if one.number == 3]
    assert (entry.state, entry.score, entry.scores, entry.run_id) == ("complete", 11.0, {2: 12.0}, "run")


def test_a_trial_is_pruned_once_enough_others_were_better_at_its_step(tmp_path):
    study = opened(tmp_path)

    def report(scores):
        trial = study.next(is_grid=False)
        verdicts = [trial.report(score, step, total_steps=8) for step, score in scores.items()]
        trial.complete(scores[8])
        return verdicts

    for number in range(trials.PRUNE_AFTER_TRIALS):
        assert report({1: 5.0, 2: 10.0 + number, 8: 20.0}) == [False] * 3
    assert report({1: 1.0, 2: 20.0, 8: 21.0}) == [False] * 3  # the first is before a quarter of the training
    assert report({1: 1.0, 2: 2.0, 8: 21.0}) == [False, True, False]
    assert report({1: 1.0, 2: float("nan"), 8: 1.0})[1]


def test_what_failed_is_tried_again_only_if_asked_for_and_then_replaces_the_failure(tmp_path):
    study = opened(tmp_path, GRID)
    for number in range(4):
        trial = study.next(is_grid=True)
        if number == 1:
            trial.fail("no memory")
        else:
            trial.complete(1.0)
    assert study.next(is_grid=True) is None
    assert study.entries()[1].reason == "no memory"
    assert study.retry_failed() == 1
    again = study.next(is_grid=True)
    assert again.values == list(GRID.combinations())[1]
    again.complete(3.0)
    assert [one.state for one in study.entries()] == ["complete"] * 4
    assert study.retry_failed() == 0


def test_another_sweep_of_the_same_name_is_refused_with_what_differs(tmp_path):
    opened(tmp_path)
    opened(tmp_path, name="two", inputs={"training.steps": 7})
    with pytest.raises(UserError, match=r"sweep 'one': it is another sweep \(training.steps: 6 -> 7\)"):
        opened(tmp_path, inputs={"training.steps": 7})


def test_two_state_folders_share_a_study_and_neither_takes_the_others_trial(tmp_path, monkeypatch):
    monkeypatch.setenv(SWEEPS_URL, f"sqlite:///{tmp_path / 'team.db'}")
    one, other = opened(tmp_path / "a", GRID), opened(tmp_path / "b", GRID)
    numbers = [study.next(is_grid=True).number for study in (one, other, one, other)]
    assert numbers == [1, 2, 3, 4]
    assert one.next(is_grid=True) is None
    assert [entry.state for entry in one.entries()] == ["running"] * 4
    monkeypatch.setattr(trials, "ended_here", lambda mark: True)  # as if both were killed
    assert opened(tmp_path / "b", GRID).next(is_grid=True).number == 2


def test_values_that_two_machines_choose_at_the_same_time_are_tried_once(tmp_path, monkeypatch):
    monkeypatch.setenv(SWEEPS_URL, f"sqlite:///{tmp_path / 'team.db'}")
    one, other = opened(tmp_path / "a", GRID), opened(tmp_path / "b", GRID)
    first, second, *_ = GRID.combinations()
    for study in (one, other):
        study._study.enqueue_trial(study._stored(first))
    assert one.next(is_grid=True).values == first
    assert other.next(is_grid=True).values == second
    assert [entry.number for entry in other.entries()] == [1, 3]


def test_a_database_of_another_program_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
    monkeypatch.setenv(SWEEPS_URL, f"sqlite:///{path}")
    with pytest.raises(UserError, match="holds the tables of another program"):
        opened(tmp_path)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [("alembic_version",)]


@pytest.mark.parametrize(
    ("url", "said"), [("nonsense", "give an address of SQLAlchemy"), ("nodb://u:secret@h/d", "install its driver")]
)
def test_an_address_that_cannot_be_used_is_named_without_its_password(tmp_path, monkeypatch, url, said):
    monkeypatch.setenv(SWEEPS_URL, url)
    with pytest.raises(UserError, match=said) as refused:
        opened(tmp_path)
    assert "secret" not in str(refused.value)


def test_a_damaged_file_is_named_with_the_remedy(tmp_path):
    (tmp_path / "sweeps.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(PikavaeError, match=r"sweeps.db: .*restore it from .*backups, or move it away"):
        opened(tmp_path)
