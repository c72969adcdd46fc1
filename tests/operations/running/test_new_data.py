"""A folder that grows is polled: what is new, what is refused, what is trained, and what a kill leaves."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pikavae.data.news import survey
from pikavae.data.news.judge import Amount, Limits
from pikavae.data.news.record import Polling
from pikavae.errors import PikavaeError, PreemptedError, UserError
from pikavae.notify import record
from pikavae.notify.outbox import Outbox
from pikavae.notify.settings import read_recipients
from pikavae.operations.running.new_data import NewDataRule, check_new_data, retrain_on_new_data
from pikavae.presets import parse_config
from pikavae.tracker.client import Workspace
from tests.support.folders import draw
from tests.support.places import ROOT

RULE = NewDataRule(Amount(5), quiet_minutes=0)


class Polls:
    """Polls a folder, with a training that notes what it was asked for."""

    def __init__(self, folder, home):
        self.folder, self.workspace, self.rule = folder, Workspace(home), RULE
        self.trained, self.error = [], None

    def train(self, retraining):
        assert retraining.has_news
        self.trained.append(len(list(self.folder.rglob("*.png"))))
        if self.error is not None:
            raise self.error
        return {"model": "pikavae", "version": len(self.trained)}

    def poll(self, **arguments):
        data = {"source": str(self.folder), "image_size": 16, "workers": 1}
        config = parse_config({"data": data, "model": {"channels": [8, 8], "norm_groups": 4}})
        return retrain_on_new_data(self.workspace, config, "mine", self.rule, self.train, **arguments)

    def words(self, **arguments):
        return self.poll(**arguments).words

    @property
    def record(self):
        return Polling(self.workspace.home, "mine").read()


@pytest.fixture
def decoded(monkeypatch):
    """The number of pictures of each part that is decoded; decoding is done in this process."""
    seen = []

    def here(function, parts, **_):
        for part in parts:
            seen.append(len(part.keys))
            yield function(part)

    monkeypatch.setattr(survey, "map_in_processes", here)
    return seen


@pytest.fixture
def polls(tmp_path, decoded):
    return Polls(tmp_path / "pictures", tmp_path / "home")


@pytest.fixture
def trained(polls):
    """Polls whose twelve pictures were trained on."""
    draw(polls.folder, range(12))
    assert polls.poll().what == "retrained"
    return polls


def test_a_folder_that_grows_is_trained_on_when_enough_is_new(polls, decoded):
    draw(polls.folder, range(8))
    polled = polls.poll()
    assert (polled.what, polled.words) == ("retrained", "retrained on 8 new of 8: version 1 of pikavae")
    assert polled.result == {"model": "pikavae", "version": 1}
    assert polls.words() == "no new pictures"
    draw(polls.folder, range(8, 11))
    assert [polls.words() for _ in range(3)] == ["3 new of 11, waits for 5"] * 3
    assert sum(decoded) == 8  # what is too little is not decoded
    draw(polls.folder / "more", range(11, 13))
    assert polls.words() == "retrained on 5 new of 13: version 2 of pikavae"
    assert (sum(decoded), polls.trained) == (13, [8, 13])
    waited = [(one.what, one.polls) for one in polls.record.decisions]
    assert waited == [("trains", 1), ("retrained", 1), ("none", 1), ("waits", 3), ("trains", 1), ("retrained", 1)]


def test_pictures_that_are_moved_touched_or_saved_again_are_not_new(trained):
    (trained.folder / "0000.png").rename(trained.folder / "renamed.png")
    (trained.folder / "sub").mkdir()
    for number in range(1, 4):
        (trained.folder / f"{number:04d}.png").rename(trained.folder / "sub" / f"{number:04d}.png")
    (trained.folder / "0004.png").touch()
    for number in range(5, 12):
        path = trained.folder / f"{number:04d}.png"
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    assert trained.words() == "no new pictures"
    assert trained.trained == [12]


def test_a_share_of_the_trained_pictures_may_be_asked_for(trained):
    trained.rule = NewDataRule.of("50%", quiet_minutes=0, tries=1)
    draw(trained.folder, range(12, 17))
    assert trained.words() == "5 new of 17, waits for 6"
    draw(trained.folder, [17])
    assert trained.poll().what == "retrained"


def test_nothing_is_read_while_files_are_copied(polls, decoded, monkeypatch):
    clock, shift = time.time, [5.0]
    monkeypatch.setattr("pikavae.operations.running.new_data.time.time", lambda: clock() + shift[0])
    polls.rule = NewDataRule(Amount(5), quiet_minutes=10)
    draw(polls.folder, range(8))
    assert polls.words().startswith("waits: files still change, the last ")
    shift[0] = 601
    draw(polls.folder, [8])
    os.utime(polls.folder / "0000.png", (0, 0))  # as a copy that keeps the time of the content
    shift[0] = 300
    assert polls.words() == "waits: files still change, the last 5 min ago"
    assert decoded == []
    shift[0] = 900
    assert polls.poll().what == "retrained"
    (polls.folder / "0008.png").unlink()
    draw(polls.folder, range(9, 20))
    shift[0] = 900 - 3600  # the server of a share is an hour ahead
    assert polls.words() == "waits: a file is dated in the future, so the next look must find the same files"
    assert polls.words() == "retrained on 11 new of 19: version 2 of pikavae"


def test_a_change_between_the_look_and_the_decision_is_waited_for(polls, monkeypatch):
    draw(polls.folder, range(8))
    real = survey.Survey.decode

    def decode(*arguments):
        draw(polls.folder, [8])
        return real(*arguments)

    monkeypatch.setattr(survey.Survey, "decode", decode)
    assert polls.words() == "waits: files changed while they were read"
    assert polls.trained == []


def cut(folder):
    draw(folder, range(20, 26))
    for path in list(folder.glob("002*.png"))[:4]:
        path.write_bytes(path.read_bytes()[:60])


def copy(folder):
    for number in range(8):
        shutil.copyfile(folder / f"{number:04d}.png", folder / f"copy{number}.png")
    draw(folder, [30])


def nearly_copy(folder):
    for number in range(8):
        pixels = np.asarray(Image.open(folder / f"{number:04d}.png")).copy()
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(folder / f"near{number}.png")


def empty_most(folder):
    for number in range(9):
        (folder / f"{number:04d}.png").unlink()


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (cut, "unreadable", "4 of 6 added files cannot be used (002"),
        (copy, "alike", "8 of 9 added pictures are copies or look like another, and 50% may"),
        (nearly_copy, "alike", "8 of 8 added pictures are copies or look like another, and 50% may"),
        (lambda folder: draw(folder, range(20, 26), high=20), "brightness", "mean brightness is 0.0"),
        (lambda folder: draw(folder, range(20, 26), size=128), "size", "mean side is 128 px, the trained ones' 16 px"),
        (empty_most, "gone", "only 3 of the 12 trained pictures are left, and 50% may be gone"),
    ],
)
def test_worse_pictures_are_refused_told_once_and_trained_when_they_are_put_right(
    trained, change, reason, words, monkeypatch
):
    monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", "json://127.0.0.1:9")
    outbox, recipients = Outbox(trained.workspace.home), read_recipients(trained.workspace.home)
    record.begin(trained.workspace.home, outbox)
    kept = trained.folder.with_name("kept")
    shutil.copytree(trained.folder, kept)
    change(trained.folder)
    for _ in range(2):
        polled = trained.poll()
        assert polled.what == "refused"
        assert words in polled.words
        record.collect(trained.workspace, outbox, recipients)
    (trained.folder / "notes.txt").touch()  # another listing, the same pictures
    assert trained.poll().what == "refused"
    record.collect(trained.workspace, outbox, recipients)
    (event,) = outbox.events()
    assert (event.notification.event, event.notification.data["reason"]) == ("data_refused", reason)
    assert words in event.notification.message
    assert trained.trained == [12]
    shutil.rmtree(trained.folder)
    kept.rename(trained.folder)
    draw(trained.folder, range(40, 45))
    assert trained.poll().what == "retrained"


def test_limits_that_are_raised_let_the_same_pictures_in(trained):
    draw(trained.folder, range(20, 26), size=128)
    assert trained.poll().what == "refused"
    trained.rule = NewDataRule(Amount(5), quiet_minutes=0, limits=Limits(size=10))
    assert trained.words() == "retrained on 6 new of 18: version 2 of pikavae"


def test_a_source_that_is_gone_is_refused_and_forgets_nothing(trained):
    away = trained.folder.with_name("away")
    trained.folder.rename(away)
    assert trained.words().endswith(
        "no such file or folder; if it is on another disk or machine, see that it is connected"
    )
    trained.folder.mkdir()  # as the place of a disk that is not mounted
    assert trained.words().endswith("holds no files; if it is on another disk or machine, see that it is connected")
    assert [refusal.reason for refusal in trained.record.refusals] == ["source"]
    trained.folder.rmdir()
    trained.folder.touch()
    assert trained.poll().what == "refused"
    trained.folder.unlink()
    away.rename(trained.folder)
    assert trained.words() == "no new pictures"
    assert trained.trained == [12]


def test_a_disk_that_answers_with_an_error_is_refused(trained, monkeypatch):
    def stale(*_, **__):
        raise OSError(116, "Stale file handle", str(trained.folder))

    monkeypatch.setattr("pikavae.data.news.look.list_folder", stale)
    assert "cannot be read: [Errno 116] Stale file handle" in trained.words()


def test_a_training_that_fails_is_tried_again_so_often_and_on_request(trained, caplog):
    draw(trained.folder, range(12, 17))
    trained.error = PikavaeError("the disk is full")
    for number in (1, 2, 3):
        with pytest.raises(PikavaeError, match="the disk is full"):
            trained.poll()
        assert f"5 new of 17: the training failed, try {number} of 3: the disk is full; " in caplog.messages[-1]
    for _ in range(2):
        assert trained.poll().what == "gave up"
    assert trained.words().startswith("5 new of 17: gave up after 3 tries: the disk is full; it is tried again when")
    assert len(trained.trained) == 4
    trained.error = PreemptedError("told to stop")
    with pytest.raises(PreemptedError):
        trained.poll(asked=True)
    with pytest.raises(PreemptedError):
        trained.poll()
    assert (trained.record.tries, trained.record.decisions[-1].what) == (0, "stopped")
    trained.error = None
    assert trained.words() == "retrained on 5 new of 17: version 7 of pikavae"


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.operations.running import test_new_data as tests

polls = tests.Polls(Path(sys.argv[1]), Path(sys.argv[2]))
polls.train = lambda _: os.kill(os.getpid(), signal.SIGKILL)
polls.poll()
"""


def test_a_kill_between_decision_and_training_is_made_good_by_the_next_poll(polls, tmp_path):
    draw(polls.folder, range(8))
    command = [sys.executable, "-c", KILLED, str(polls.folder), str(polls.workspace.home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (polls.record.decisions[-1].words, polls.record.tries) == ("trains on 8 new of 8", 1)
    assert polls.words() == "retrained on 8 new of 8: version 1 of pikavae"
    before = polls.record.decisions[-2].words
    assert before == "trains on 8 new of 8, try 2 of 3; before: its process was killed, or the machine stopped"
    assert polls.words() == "no new pictures"


def test_a_second_poll_at_once_waits(trained):
    with Polling(trained.workspace.home, "mine").lock():
        assert trained.words() == "another poll of mine, or the training that it began, is at work"


def test_a_damaged_state_is_kept_aside_and_the_polls_begin_anew(trained, caplog):
    polling = Polling(trained.workspace.home, "mine")
    polling.path.write_text("{")
    assert trained.poll().what == "retrained"
    assert polling.path.with_suffix(".damaged").read_text() == "{"
    (polling.folder / trained.record.trained).write_bytes(b"")
    draw(trained.folder, range(12, 17))
    with caplog.at_level(logging.WARNING):
        assert trained.words() == "retrained on 17 new of 17: version 3 of pikavae"
    assert "all pictures count as new" in caplog.text
    assert len(list(polling.folder.glob("*.npz"))) == 1


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("sprites", "drawn by pikavae and always the same, so it has no new pictures; name a folder, files"),
        (f"hub:me/set@{'a' * 40}", "one commit of the hub, which never changes, so it has no new pictures"),
        ("/no/such/folder", "no such file or folder; if it is on another disk or machine"),
        ("/no/such/*.parquet", "no such file or folder; if it is on another disk or machine"),
    ],
)
def test_a_source_that_cannot_be_polled_is_refused_beforehand(source, complaint):
    with pytest.raises(UserError) as refused:
        check_new_data(parse_config({"data": {"source": source}}))
    assert str(refused.value).startswith(f"data.source {source!r}: {complaint}")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"at_least": "-3"}, "at_least '-3': expected a number of pictures from 1, such as 50, or a share such as 10%"),
        ({"at_least": "0"}, "at_least '0': "),
        ({"at_least": "2.5"}, "at_least '2.5': "),
        ({"at_least": "0%"}, "at_least '0%': "),
        ({"at_least": "many"}, "at_least 'many': "),
        ({"quiet_minutes": -1.0}, "quiet_minutes -1: expected a number of minutes from 0"),
        ({"quiet_minutes": float("nan")}, "quiet_minutes nan: "),
        ({"tries": 0}, "tries 0: a training is tried at least once; give 1 or more"),
    ],
)
def test_a_rule_that_can_never_be_met_is_refused(values, complaint):
    with pytest.raises(UserError) as refused:
        NewDataRule.of(**{"at_least": "1", "quiet_minutes": 0.0, "tries": 1, **values})
    assert str(refused.value).startswith(complaint)
