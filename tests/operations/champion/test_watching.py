"""The champion watched: fresh pictures beside its report by intervals, drift, the record, MLflow, and who is told."""

import shutil

import numpy as np
import pytest
from PIL import Image

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.notify import record
from pikavae.notify.outbox import Outbox
from pikavae.notify.settings import EVERY_EVENT, Address, Recipients
from pikavae.operations import watch_champion
from pikavae.operations.champion import fresh_pictures
from pikavae.production.changes import promote as production
from pikavae.tracker.client import Workspace
from pikavae.workspace import runs
from pikavae.workspace.home import home
from tests.support import commands
from tests.support.configs import tiny
from tests.support.house import copy_home, files_alone
from tests.support.promoting import promote

pytestmark = pytest.mark.slow

NOBODY = Recipients((Address("http://127.0.0.1:9/", EVERY_EVENT),), disk_free_gib=0)


def draw(folder, count, seed, *, noise):
    """Small pictures of one hue, some of them noisy: what a small model learned, or never saw."""
    folder.mkdir(exist_ok=True, parents=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        low = generator.integers(60, 200, (2, 2, 3))
        pixels = np.asarray(Image.fromarray(low.astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC), float)
        pixels = pixels + noise * generator.standard_normal((16, 16, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{seed}-{i:03d}.png")
    return folder


def config(source):
    return tiny(
        **{"data.source": str(source), "data.validation_fraction": 0.4, "promotion.half_precision": []},
        **{"training.steps": 8, "data.near_duplicate_distance": None},
    )


@pytest.fixture(scope="module")
def watched_home(tmp_path_factory):
    """A home whose champion was trained on 70 smooth pictures, about 28 of them held out; each test has a copy."""
    path = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path / "home"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(production, "smoke_test", files_alone)
        chosen = config(draw(path / "known", 70, 0, noise=2))
        commands.run(chosen)
        promote("1", chosen)
    return path


@pytest.fixture
def known(watched_home, isolated):
    """The folder of the champion's pictures, beside a home of its own."""
    copy_home(watched_home / "home", home())
    return watched_home / "known"


def watch(source=None, **how):
    settings = {} if source is None else {"data.source": str(source)}
    return watch_champion(Workspace(home()), settings, **how)


def told():
    record.collect(Workspace(home()), Outbox(home()), NOBODY)
    return [event.notification for event in Outbox(home()).events()]


def refused(*words, **how):
    with pytest.raises(UserError) as caught:
        watch(*words, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_champion_that_fell_is_kept_shown_and_told(known, tmp_path):
    record.begin(home(), Outbox(home()))
    found = watch(draw(tmp_path / "noisy", 24, 1, noise=40))
    assert found.fell
    low, high = found.scores["metrics"]["psnr"]["interval"]
    assert low < high < 0
    assert found.findings[0].startswith("The champion fell: PSNR ")
    assert found.drift["detail"]["verdict"] == "much drift"
    assert found.drift["ratio"]["verdict"] == "no drift shown"
    assert (found.num_fresh, found.num_trained_on, found.paired) == (24, 0, None)
    page = (home() / found.page).read_text()
    assert "The champion fell: PSNR " in page
    assert "two samples" in page
    client = Workspace(home()).client
    run = client.get_run(found.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["watch/fell"] == 1
    assert run.data.metrics["difference/psnr_high"] == pytest.approx(high)
    assert run.data.metrics["drift/detail"] == pytest.approx(found.drift["detail"]["psi"])
    kept = {file.path for name in ("", "evaluation", "data") for file in client.list_artifacts(run.info.run_id, name)}
    assert {"page.html", "watch.json", "evaluation/report.html", "data/page.html"} <= kept
    (told_of,) = told()
    assert told_of.event == "champion_fell"
    assert told_of.title.startswith("pikavae: the champion fell: version 1 of pikavae: PSNR ")
    assert told_of.data["fell"] is True
    assert watch(tmp_path / "noisy", tolerance=100).fell is False  # its report is used again


def test_what_the_champion_knows_is_left_out_and_what_its_report_has_is_paired(known, tmp_path):
    shutil.copytree(known, tmp_path / "grown")
    found = watch(draw(tmp_path / "grown", 22, 2, noise=2))
    trained = len(fresh_pictures.find_champion(Workspace(home())).trained_set.train)
    assert found.num_trained_on == trained
    assert found.num_fresh == 22
    assert found.paired["count"] == 70 - trained
    assert found.paired["largest"] < 1e-3
    psnr = found.scores["metrics"]["psnr"]
    assert (psnr["count_fresh"], psnr["count_report"]) == (22, 70 - trained)
    assert "22 fresh pictures" in found.line
    complaint = refused()  # the champion's own source, where nothing is new
    assert "0 fresh pictures, and an interval needs at least 20" in complaint
    assert f"trained on {trained} of the 70 there, and {70 - trained} are in its report" in complaint


def test_a_report_that_is_gone_or_of_another_protocol_is_measured_again_or_named(known, tmp_path, monkeypatch):
    fresh = draw(tmp_path / "fresh", 21, 3, noise=2)
    other = config(known).model_dump(mode="json")
    other["evaluation"]["batch_size"] = 3
    with monkeypatch.context() as later:
        later.setattr(fresh_pictures, "config_of_snapshot", lambda _: Config.model_validate(other))
        found = watch(fresh)
    assert any("is by another protocol (protocol.batch_size 3 of one report and" in said for said in found.findings)
    own = watch(fresh)
    assert own.champion_report != found.champion_report
    shutil.rmtree(home() / "evaluations" / own.champion_report)
    assert any("own report is gone or altered, so it was measured again" in said for said in watch(fresh).findings)
    (run,) = runs.run_folders(home())
    shutil.rmtree(home() / "prepared" / run.record.inputs["prepared set"])
    complaint = refused(fresh)
    assert complaint.startswith("champion, version 1 of pikavae: its report ")
    assert "is gone or altered, and so are the pictures to measure it again; restore" in complaint


def test_what_cannot_be_watched_is_refused_in_a_line(known, tmp_path, monkeypatch):
    few = refused(draw(tmp_path / "few", 7, 4, noise=2))
    assert "few': 7 pictures, and an interval needs at least 20 fresh ones; add 13 or more" in few
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(25):
        (broken / f"{i}.png").write_bytes(b"no picture")
    assert "broken': none of its 25 pictures can be read" in refused(broken)
    assert "no such file or folder" in refused(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^watch: model\.norm_groups: the champion's own counts"):
        watch_champion(Workspace(home()), {"model.norm_groups": 4})
    assert refused(tolerance=-1).startswith("tolerance -1: expected a number of 0 or more")
    monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path / "empty"))
    home().mkdir()
    assert refused().startswith("watch: there is no champion yet; `pikavae promote VERSION --reason TEXT`")
