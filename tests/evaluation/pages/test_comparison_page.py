"""The comparison as a page: what it says, the pictures of both models, its manners and bounds."""

import re
from dataclasses import replace

import pytest
import torch

from pikavae.evaluation.compare.comparison import PictureChange, compare, picture_changes
from pikavae.evaluation.compare.pictures import ComparedPicture, reconstruct_by_both
from pikavae.evaluation.compare.slices import slices_of
from pikavae.evaluation.pages import comparison_page as page_module
from pikavae.evaluation.pages.comparison_page import comparison_page, conclusions
from pikavae.html.images import PICTURES_BYTES
from pikavae.model.autoencoder import AutoencoderKL
from tests.evaluation.pages.test_report_page import images_of
from tests.evaluation.test_evaluate import CPU, TINY, pictures, run
from tests.support.pages import Page, assert_hostile_text_stays_text, spoiled


def other_model():
    torch.manual_seed(1)
    return AutoencoderKL(TINY)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two models that were never trained: their comparison, the changes, the pictures shown."""
    torch.manual_seed(0)
    models, given = (AutoencoderKL(TINY), other_model()), pictures(11)
    reports = [run(tmp_path_factory.mktemp("report"), model, given) for model in models]
    found, changes = compare(*reports, slices=slices_of(given, 4)), picture_changes(*reports)
    return found, changes, reconstruct_by_both(models, given, found, changes, first=3, device=CPU), models, given


def page_of(compared, a="3", b="champion"):
    found, changes, shown, *_ = compared
    return comparison_page(found, changes, shown, a=a, b=b)


def test_each_picture_is_shown_as_both_models_make_it(compared):
    found, _, shown, models, given = compared
    assert [one.change.name for one in shown["first"]] == ["0.png", "1.png", "2.png"]
    assert [one.change for one in shown["lost"]] == found.most_lost
    assert [one.change for one in shown["won"]] == found.most_won
    one = shown["first"][1]
    with torch.inference_mode():
        image = given.pixels([1]).float() / 127.5 - 1
        expected = [model.decode(model.encode(image).mode())[0] for model in models]
    assert torch.equal(one.original, image[0])
    torch.testing.assert_close(one.a, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(one.b, expected[1], rtol=0, atol=0)
    errors = ((one.a - image[0]).square().mean().item(), (one.b - image[0]).square().mean().item())
    assert (errors[0] < errors[1]) == (one.change.difference > 0)


def test_the_page_has_every_metric_and_slice_with_its_interval(compared):
    found, *_ = compared
    page = Page(page_of(compared))
    psnr = found.metrics["psnr"]
    assert page.row("psnr")[:2] == [f"{psnr.mean_a:#.5g}", f"{psnr.mean_b:#.5g}"]
    assert page.row("psnr")[-1] == psnr.verdict
    assert {row[0] for row in page.rows} >= {"all", *found.slices, "|colour_shift_red|"}
    assert page.row("all")[0] == str(psnr.count)
    assert "A is 3 , B is champion" in page.text
    assert page.definitions["won / tied / lost"] == f"{psnr.wins} / {psnr.ties} / {psnr.losses}"
    assert page.tags["img"] == 6 * sum(map(len, compared[2].values()))


def test_it_is_said_what_got_better_and_what_got_worse(compared):
    found, *_ = compared
    better = replace(found.metrics["psnr"], verdict="better", difference=0.5)
    worse = replace(found.metrics["ssim"], verdict="worse")
    said = conclusions(replace(found, metrics={**found.metrics, "psnr": better, "ssim": worse}))
    assert said[0] == ("fine", "A is better by psnr: +0.500.")
    (lost,) = [text for level, text in said if level == "check"]
    assert lost.startswith("A is worse by ")
    assert "ssim" in lost.removeprefix("A is worse by ").rstrip(".").split(", ")
    level, text = conclusions(replace(found, metrics={**found.metrics, "psnr": replace(better, verdict="")}))[0]
    assert (level, text[:13]) == ("note", "No difference")


def test_every_difference_stands_in_the_histogram(compared):
    changes = compared[1]
    page = Page(page_of(compared))
    counts = [int(row[1]) for row in page.rows if len(row) == 2 and re.fullmatch(r"-?[\d.]+ to -?[\d.]+", row[0])]
    assert sum(counts) == len(changes)


def test_a_model_against_itself_has_nothing_to_show_but_the_pictures(tmp_path):
    model, given = other_model(), pictures(1)
    report = run(tmp_path, model, given)
    found, changes = compare(report, report), picture_changes(report, report)
    shown = reconstruct_by_both((model, model), given, found, changes, first=3, device=CPU)
    document = comparison_page(found, changes, shown, a="x", b="x")
    assert shown["lost"] == shown["won"] == []
    assert document.count("There is no such picture.") == 2
    original, reconstruction, _, again, same, _ = images_of(document)
    assert (original == again).all()
    assert (reconstruction == same).all()


def test_hostile_names_stay_text_and_nothing_is_asked_of_the_network(compared):
    found, changes, shown, *_ = compared
    hostile = '</script><img src=x onerror=alert(1)>"'
    change = PictureChange(hostile, hostile, 1.0, 2.0, -1.0)
    pictures_shown = {**shown, "lost": [replace(one, change=change) for one in shown["lost"]]}
    document = comparison_page(found, changes, pictures_shown, a=hostile, b=hostile)
    calm = Page(page_of(compared))
    parsed = Page(document)
    assert (parsed.tags["img"], parsed.tags["script"]) == (calm.tags["img"], calm.tags["script"])
    for _, attribute, value in parsed.attributes:
        if attribute in {"src", "href"}:
            assert value.startswith(("data:image/webp;base64,", "#"))
        assert not attribute.startswith("on")
    assert "http" not in document.replace("http-equiv", "")


def test_hostile_text_at_every_place_stays_text(compared):
    """Names of models and slices, captions, reasons and verdicts."""
    found, changes, chosen, *_ = compared
    assert_hostile_text_stays_text(
        lambda text: comparison_page(
            spoiled(found, text, keys={"slices"}), spoiled(changes, text), spoiled(chosen, text), a=text, b=text
        )
    )


def test_noise_at_every_place_stays_within_the_pages_bytes(compared, monkeypatch):
    found, changes, *_ = compared
    monkeypatch.setattr(page_module, "PICTURES_BYTES", PICTURES_BYTES // 16)
    noise = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one = ComparedPicture(changes[0], *noise)
    document = comparison_page(found, changes, {"first": [one] * 4, "lost": [one], "won": [one]}, a="a", b="b")
    assert len(document.encode()) < 10e6 / 16
