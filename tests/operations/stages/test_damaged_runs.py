"""Small files of a run, damaged or gone: what can be made again is, what cannot is named, and the run goes on."""

import json
import shutil

import pytest
import torch
from PIL import Image

from pikavae.errors import DamagedFileError, PikavaeError
from pikavae.tracker.delivery import read_preview
from pikavae.tracker.tags import GAPS_TAG
from pikavae.training.journal import Event, gaps, read_events
from pikavae.workspace import records, runs
from pikavae.workspace.home import home
from tests.operations.running.test_pipeline import points
from tests.support import commands
from tests.support.commands import bare_client as client
from tests.support.configs import tiny

GARBAGE = {
    "empty": b"",
    "cut short": b'{"key": "12',
    "no object": b"[1, 2]",
    "no keys": b"{}",
    "other types": b'{"key": 1, "inputs": [], "created": null, "config": 3, "snapshot": {}, "steps": "x"}',
    "no text": b"\xff\xfe\x00\x01",
    "deeply nested": b'{"a":' * 20_000,
}
HARD = ["no keys", "cut short"]
"""Two kinds of damage, for what takes long."""


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch):
    monkeypatch.setattr(records, "_warned", set())


@pytest.fixture(scope="module")
def stopped_home(tmp_path_factory):
    """A home with a run that is trained, but of which nothing was evaluated."""
    path = tmp_path_factory.mktemp("stopped") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path))
        trained = commands.train(tiny(), commands.prepare(tiny()))
        return path, trained.run.run_id


@pytest.fixture
def run(monkeypatch, isolated, stopped_home):
    """That run's folder; what a test does to its small files is undone."""
    path, run_id = stopped_home
    monkeypatch.setenv("PIKAVAE_HOME", str(path))
    folder = runs.RunFolder(path / "runs" / run_id)
    kept = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    yield folder
    for file, content in kept.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def train():
    return commands.train(tiny(), commands.prepare(tiny()))


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((runs.RUN_NAME, damage) for damage in [*GARBAGE, "gone"]), *((runs.TRAIN_NAME, damage) for damage in HARD)],
)
def test_the_records_of_a_run_are_made_again(run, caplog, name, damage):
    path, before = run.path / name, json.loads((run.path / name).read_text())
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(GARBAGE[damage])
        assert [found.run_id for found in runs.run_folders(home())] == ([] if name == runs.RUN_NAME else [run.run_id])
        assert f"{path}: damaged" in caplog.text or name == runs.TRAIN_NAME
    trained = train()
    assert trained.run == run
    after = json.loads(path.read_text())
    if name == runs.RUN_NAME:
        assert trained.reused
        assert {**after, "created": ""} == {**before, "created": ""}
    else:
        assert {**after, "images_per_second": 0, "start_step": 0} == {**before, "images_per_second": 0, "start_step": 0}
        assert client().get_run(run.run_id).info.status == "FINISHED"
    if damage != "gone":
        assert f"{path}: damaged" in caplog.text or "was missing or damaged" in caplog.text


def test_a_run_whose_record_cannot_be_read_is_named_and_keeps_its_snapshots(run):
    (run.path / runs.RUN_NAME).write_bytes(GARBAGE["cut short"])
    with pytest.raises(DamagedFileError, match=r"run\.json is missing or damaged; the command that trained it"):
        runs.run_folder(home(), run.run_id)
    snapshots = sorted((run.path / "snapshots").iterdir())
    commands.plan(tiny())
    train()
    assert sorted((run.path / "snapshots").iterdir()) == snapshots


@pytest.mark.parametrize("place", ["prepared/*/inputs.json", "runs/*/outcome.json"])
@pytest.mark.parametrize("damage", HARD)
def test_other_small_files_that_are_damaged_stop_nothing(run, place, damage):
    (path,) = home().glob(place)
    whole = path.read_bytes()
    path.write_bytes(GARBAGE[damage])
    try:
        commands.plan(tiny())
        assert train().run == run
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(whole)


def unfinish(run):
    """Make the run look as if it had been killed before its result was written."""
    (run.path / runs.TRAIN_NAME).unlink()


def lines(run):
    return (run.path / "journal.jsonl").read_bytes().split(b"\n")[:-1]


def write(run, kept):
    (run.path / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in kept))


DAMAGES = {
    "a garbage line in the middle": lambda kept: [*kept[:3], b"\0\xff garbage", *kept[4:]],
    "a line torn in the middle": lambda kept: [*kept[:3], kept[3][:9] + kept[4], *kept[5:]],
    "lines taken out": lambda kept: [*kept[:3], *kept[5:]],
    "its end cut off": lambda kept: kept[: len(kept) // 2],
    "gone": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_told_and_the_run_goes_on(run, caplog, damage):
    unfinish(run)
    journal = run.path / "journal.jsonl"
    if DAMAGES[damage] is None:
        journal.unlink()
    else:
        write(run, DAMAGES[damage](lines(run)))
    before = points(run.run_id)["val/psnr"]
    trained = train()
    assert trained.run == run
    assert f"{journal}: " in caplog.text
    found = client().get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert str(journal) in found.data.tags[GAPS_TAG]
    assert points(run.run_id)["val/psnr"] == before


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"event": "metrics", "step": "x", "time": 0}',
        b'{"event": "metrics", "step": 1, "time": 0, "values": {"a": []}}',
        b'{"event": "metrics", "step": -1, "time": 0}',
        b'{"event": 7, "step": 1, "time": 0}',
        b"[" * 10**5,
    ],
)
def test_any_garbage_in_a_journal_is_passed_over_and_found(run, line):
    journal = run.path / "journal.jsonl"
    events, _ = read_events(journal)
    kept = lines(run)
    write(run, [*kept[:3], line, *kept[3:]])
    assert read_events(journal)[0] == events
    assert gaps(journal, 6)[0] == f"{journal}: line 4 is damaged"
    write(run, [])
    assert gaps(journal, 6) == [f"{journal}: the events between steps 0 and 6 are missing"]


def test_a_whole_journal_has_no_gaps(run):
    assert gaps(run.path / "journal.jsonl", 6) == []
    events, _ = read_events(run.path / "journal.jsonl")
    assert [event.step for event in events if event.kind == "saved"] == [2, 4, 6]


@pytest.mark.parametrize("damage", ["gone", "no picture", "cut short", "another picture", "a folder"])
def test_a_damaged_preview_is_named(run, damage):
    path = sorted((run.path / "previews").glob("*.png"))[1]
    content, originals = path.read_bytes(), torch.zeros(4, 3, 16, 16)
    assert read_preview(path, originals).shape[1:] == originals.shape[1:]
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "another picture":
        Image.new("RGB", (7, 5)).save(path)
    elif damage != "gone":
        path.write_bytes(b"no picture" if damage == "no picture" else content[: len(content) // 2])
    try:
        with pytest.raises(DamagedFileError, match=f"{path}: (gone|damaged)"):
            read_preview(path, originals)
    finally:
        if damage == "a folder":
            path.rmdir()


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_damaged_preview_is_left_out_and_the_run_ends(run, caplog, damage):
    unfinish(run)
    previews = sorted((run.path / "previews").glob("*.png"))
    path, content = previews[1], previews[1].read_bytes()
    path.unlink()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    shutil.rmtree(home() / "artifacts", ignore_errors=True)  # so that it would have to be delivered again
    assert train().run == run
    assert client().get_run(run.run_id).info.status == "FINISHED"
    assert f"{path}: " in caplog.text


def test_without_any_preview_the_filmstrip_is_of_the_originals(run):
    unfinish(run)
    shutil.rmtree(run.path / "previews")
    assert train().run == run
    assert (run.path / "filmstrip.png").is_file()


def test_an_event_that_was_cut_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "kept", "time": 1, "step": 4, "values": {"val/psnr": 2.5}}\n{"event": "kept", "ti')
    events, offset = read_events(path)
    assert events == [Event("kept", 4, 1, {"val/psnr": 2.5})]
    with path.open("ab") as file:
        file.write(b'me": 2, "step": 8}\n')
    assert read_events(path, offset)[0] == [Event("kept", 8, 2)]
    path.write_bytes(b'{"event": "kept", "time": 3, "step": 9}\n')  # another file, shorter than what was read
    assert read_events(path, offset)[0] == [Event("kept", 9, 3)]


@pytest.mark.parametrize("moment", ["training begins", "MLflow has every point"])
def test_the_database_removed_while_a_run_is_made_is_no_finished_run(run, monkeypatch, moment):
    unfinish(run)
    from pikavae.operations.running import pipeline
    from pikavae.operations.running.supervision import train_apart
    from pikavae.operations.stages.runtime import find_gaps

    moments = iter(["before training", "MLflow has every point"])  # when the curves are searched for gaps
    away = home() / "away.db"

    def train_while_it_goes(*arguments):
        if moment == "training begins":
            (home() / "mlflow.db").rename(away)
        return train_apart(*arguments)

    def search_while_it_goes(*arguments):
        find_gaps(*arguments)
        if next(moments) == moment:
            (home() / "mlflow.db").rename(away)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_apart", train_while_it_goes)
        patch.setattr(pipeline, "find_gaps", search_while_it_goes)
        with pytest.raises(PikavaeError, match=r"mlflow\.db: gone since this command opened it; restore it"):
            train()
    (home() / "mlflow.db").unlink(missing_ok=True)
    away.rename(home() / "mlflow.db")
    assert train().run == run
    assert client().get_run(run.run_id).info.status == "FINISHED"
