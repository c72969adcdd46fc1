"""A training seen from beside it, and its page in Prefect, which may fail without disturbing the training."""

import base64
import re
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tasks.live
from pikavae.operations.running.training_view import TrainingView
from pikavae.tracker.overview import CELL, LARGE_CELL, overview, two_rows
from pikavae.training.journal import Journal
from pikavae.workspace.runs import RunFolder
from tests.support.prepared_sets import make_prepared
from tests.support.waiting import wait_for

COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250))


@pytest.fixture
def validation(tmp_path):
    pictures = [np.full((16, 16, 3), colour, np.uint8) for colour in COLOURS]
    return make_prepared(tmp_path / "set", pictures[:1], pictures, image_size=16).validation


@pytest.fixture
def view(tmp_path, validation):
    (tmp_path / "run").mkdir()
    return TrainingView(RunFolder(tmp_path / "run"), validation, 3, name="a *name*", url=None)


def pictures_in(markdown):
    (found,) = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", markdown)
    return np.asarray(Image.open(BytesIO(base64.b64decode(found))))


def test_a_training_is_described_as_far_as_it_is(tmp_path, view):
    assert view.look() is None
    assert "not begun" in view.markdown(None)
    assert r"a \*name\*" in view.markdown(None)
    journal = Journal(tmp_path / "run")
    journal.on_start(0)
    first = view.look()
    assert (first.line, first.picture) == ("step 0, 0%", None)
    journal.preview(torch.zeros(3, 3, 16, 16), 2)
    for step in range(1, 12):
        journal.log({"val/psnr": 10.0 + step, "train/loss": 0.5}, step)
    journal._show(12, 0.6, 0.25)
    now = view.look()
    assert now.line == "step 12, 60%, loss 0.2500, 21.00 dB on validation pictures"
    text = view.markdown(now)
    assert "reconstructions at step 2:" in text
    assert [int(step) for step in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(range(11, 3, -1))
    shown = pictures_in(text)
    assert shown.shape == (2 * LARGE_CELL, 3 * LARGE_CELL, 3)
    assert np.allclose(shown[LARGE_CELL // 2, LARGE_CELL // 2 :: LARGE_CELL], np.array(COLOURS), atol=12)
    assert np.allclose(shown[LARGE_CELL + LARGE_CELL // 2], 128, atol=12)
    assert view.look() == now
    (tmp_path / "run" / "previews" / "step-00000012.png").write_bytes(b"cut short")
    assert view.look() == now


def test_an_overview_has_pairs_as_wide_as_the_page_and_two_rows_have_at_most_twelve():
    wide, tall, fewer = torch.zeros(20, 3, 8, 16), torch.zeros(4, 3, 512, 256), torch.zeros(2, 3, 512, 256)
    assert overview(wide, wide).size == (2 * (4 * CELL + 8) + 4 * CELL, CELL)
    assert overview(tall, fewer).size == (2 * CELL + 8, CELL)
    assert two_rows(wide, wide).size == (12 * 2 * LARGE_CELL, 2 * LARGE_CELL)
    assert two_rows(tall, fewer).size == (LARGE_CELL, 2 * LARGE_CELL)
    drawn = np.asarray(overview(torch.full((2, 3, 64, 64), -1.0), torch.ones(2, 3, 64, 64) * 0.0))
    assert [int(drawn[9, x, 0]) for x in (10, CELL + 10, 2 * CELL + 2, 2 * CELL + 18)] == [0, 128, 255, 0]


def test_a_server_that_is_away_disturbs_no_training(monkeypatch, view, caplog):
    def fail(*_, **__):
        raise OSError("no answer")

    monkeypatch.setattr(tasks.live, "create_progress_artifact", fail)
    with tasks.live.live_page(view):
        worked = True
    assert worked
    assert "is not shown in Prefect while it works: no answer" in caplog.text


def test_a_page_is_written_again_when_something_is_new_and_at_the_end(monkeypatch, tmp_path, view, caplog):
    """The server's part is replaced by a list; the real one is in the test of the pipeline."""
    written: list[Any] = []

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update_artifact(self, artifact_id, update):
            if len(written) == 1:
                written.append("failed")
                raise OSError("away")
            written.append((artifact_id, update.data, update.description))

    monkeypatch.setattr(tasks.live, "create_progress_artifact", lambda *_, **__: "progress")
    monkeypatch.setattr(tasks.live, "create_markdown_artifact", lambda *_, **__: "text")
    monkeypatch.setattr(tasks.live, "get_client", lambda **_: Client())
    monkeypatch.setattr(tasks.live, "SECONDS_BETWEEN_UPDATES", 0.01)
    with tasks.live.live_page(view):
        journal = Journal(tmp_path / "run")
        journal._show(6, 0.5, 0.5)
        wait_for(lambda: len(written) >= 4)
        journal._show(12, 1.0, 0.25)
    assert written[1] == "failed"
    assert [item[:2] for item in (written[0], written[2], written[4])] == [("progress", p) for p in (50.0, 50.0, 100.0)]
    assert "step 12, 100%, loss 0.2500" in written[5][1]
    assert len(written) == 6
    assert caplog.text.count("is not up to date: away") == 1
