"""The page of models side by side: its table, its pictures, hostile labels."""

import pytest
import torch

from pikavae.evaluation.compare.pictures import BesidePicture
from pikavae.evaluation.pages.beside_page import beside_page
from tests.evaluation.test_evaluate import model, pictures, run
from tests.support.pages import Page, assert_hostile_text_stays_text, spoiled


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("report"), model(), pictures(3))


def shown(*labels):
    images = torch.rand(1 + len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return BesidePicture(
        "a ball", images[0], [(label, image, 20.0) for label, image in zip(labels, images[1:], strict=True)]
    )


def test_the_models_come_before_the_baselines_and_the_gap_is_a_finding(report):
    other = report.model_copy(update={"metrics": {**report.metrics, "psnr": report.metrics["psnr"] - 1}})
    page = Page(beside_page(report, [("theirs", other)], [shown("ours", "theirs")]))
    assert [row[0] for row in page.rows[1:3]] == ["this model", "theirs"]
    assert page.findings[f"1.00 dB better than theirs ({other.metrics['psnr']:.2f} dB)."] == "fine"
    assert page.alts == [f"a ball, {label}" for label in ("original", "ours", "theirs")]


def test_without_pictures_there_is_no_section_of_them(report):
    page = Page(beside_page(report, []))
    assert page.tags["img"] == 0
    assert "The same pictures by every model" not in page.text


def test_hostile_text_at_every_place_stays_text(report):
    """Labels, names of pictures, verdicts of half precision."""
    broken = report.model_copy(update={"metrics": {**report.metrics, "psnr": None}})
    given = [("x", report), ("y", broken)]
    assert_hostile_text_stays_text(
        lambda text: beside_page(spoiled(report, text), spoiled(given, text), spoiled([shown("x", "y")], text))
    )
