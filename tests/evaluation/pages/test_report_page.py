"""The report as a page: what it shows, its manners with hostile text, its bounds."""

import base64
import io
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from pikavae.evaluation.measure.chosen import Chooser, ChosenPicture
from pikavae.evaluation.measure.latent_statistics import LatentStatistics
from pikavae.evaluation.pages import report_page as page
from pikavae.evaluation.pages.lineage import MOMENTS_BYTES, About
from pikavae.evaluation.pages.numbers import conclusions, psnr_chart
from pikavae.evaluation.pages.report_page import PAGE_NAME, report_page
from pikavae.evaluation.report.panels import mosaic, to_uint8
from pikavae.evaluation.report.report import ImageScore
from pikavae.evaluation.studies.latent_view import view_latents
from pikavae.html.images import PICTURES_BYTES
from pikavae.model.posterior import DiagonalGaussian
from tests.evaluation.test_evaluate import BrokenOnDark, model, pictures, run
from tests.support.pages import Page, assert_hostile_text_stays_text, spoiled

FIELDS = [field.name for field in fields(ImageScore)]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("report"), model(), pictures())


def shown(caption="a ball", name="0.png", psnr=20.0, side=16):
    generator = torch.Generator().manual_seed(0)
    original, reconstruction = torch.randint(0, 256, (2, 3, side, side), generator=generator) / 127.5 - 1.0
    return ChosenPicture(name, caption, psnr, original, reconstruction)


def view(count=1, side=16):
    """Of posteriors and a decoder that are noise."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(count, 1, 4, side, side, generator=generator)
    statistics = LatentStatistics(4)
    posteriors = [DiagonalGaussian(mean, torch.zeros_like(mean)) for mean in means]
    for posterior in posteriors:
        statistics.update(posterior)
    return view_latents(lambda _: torch.randn(1, 3, side, side, generator=generator), posteriors, statistics)


def page_of(report, *chosen):
    return report_page(report, {"first": chosen, "worst": chosen[:1], "best": chosen[:1]}, view(len(chosen)))


def images_of(document):
    """Every picture of a page, as it is shown."""
    found = re.findall(r'src="data:image/webp;base64,([^"]+)"', document)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")) for content in found]


def test_small_pictures_are_exact_and_the_error_is_four_times_theirs(report):
    one = shown()
    original, reconstruction, error, *_ = images_of(page_of(report, one))
    as_bytes = [((image + 1) * 127.5).round().byte().permute(1, 2, 0) for image in (one.original, one.reconstruction)]
    assert np.array_equal(original, as_bytes[0])
    assert np.array_equal(reconstruction, as_bytes[1])
    difference = np.abs(original.astype(int) - reconstruction)
    assert np.abs(error - np.minimum(4 * difference, 255)).max() <= 1


def moments(count, side=16):
    generator = torch.Generator().manual_seed(2)
    names = [*(f"step {10 * number}" for number in range(count - 1)), "original"]
    return [(name, torch.rand(4, 3, side, side, generator=generator) * 2 - 1) for name in names]


@pytest.mark.parametrize(("count", "side"), [(2, 16), (17, 64), (17, 300)])
def test_the_training_is_shown_as_figures_that_wrap_each_with_its_moment(report, count, side):
    chosen = {"first": [shown()], "worst": [], "best": []}
    document = report_page(report, chosen, view(), About(moments=moments(count, side)))
    (section,) = re.findall(r'<section id="training".*?</section>', document, flags=re.S)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", section) == [name for name, _ in moments(count)]
    sides = {image.shape for image in images_of(section)}
    assert sides == {(min(2 * side, 256), min(2 * side, 256), 3)}
    without = report_page(report, chosen, view())
    assert "moments of the training" not in Page(without).text
    assert len(document) - len(without) < 4 / 3 * MOMENTS_BYTES + 10_000


def test_a_mosaic_has_up_to_four_pictures_in_their_places():
    for count, shape in ((1, (8, 8, 3)), (2, (8, 16, 3)), (3, (16, 16, 3)), (4, (16, 16, 3)), (9, (16, 16, 3))):
        pictures = torch.linspace(-1, 1, count)[:, None, None, None].expand(count, 3, 8, 8)
        made = mosaic(pictures)
        assert made.shape == shape
        for number in range(min(count, 4)):
            top, left = number // 2 * 8, number % 2 * 8
            assert (made[top : top + 8, left : left + 8] == to_uint8(pictures)[number, 0, 0, 0].item()).all()


def test_the_configuration_and_the_lineage_of_a_model_are_told(report):
    settings = {"training.steps": 800, "loss.kl_weight": 1e-8, "data.source": "sprites"}
    about = About(
        lineage={"steps taken in all": 550, "source": "<b>sprites"},
        settings=settings,
        defaults={**settings, "training.steps": 1000},
    )
    page = Page(report_page(report, {"first": [shown()], "worst": [], "best": []}, view(), about))
    assert "setting of 3 differs from the defaults." in page.text
    rows = [row for row in page.rows if len(row) == 2]
    assert ["steps taken in all", "550"] in rows
    assert ["source", "<b>sprites"] in rows
    assert [row for row in rows if row[0] == "training.steps"] == [["training.steps", "800"]] * 2
    assert [row for row in rows if row[0] == "loss.kl_weight"] == [["loss.kl_weight", "1e-08"]]
    without = Page(report_page(report, {"first": [shown()], "worst": [], "best": []}, view()))
    assert "This model came without a configuration of pikavae." in without.text


def test_large_pictures_are_shown_at_256_pixels(report):
    assert {image.shape for image in images_of(page_of(report, shown(side=300)))[:3]} == {(256, 256, 3)}


def test_the_first_and_the_worst_and_the_best_are_shown_in_their_order(tmp_path):
    report = run(tmp_path, model(), pictures())
    page = Page((tmp_path / PAGE_NAME).read_text())
    ranked = sorted(report.per_image, key=lambda image: image.psnr)
    expected = [*report.per_image[:3], *ranked[:3], *reversed(ranked[-3:])]
    said = [text for text in page.texts if re.fullmatch(r"\d+\.\d\d dB", text)]
    assert said == [f"{image.psnr:.2f} dB" for image in expected]


def test_the_table_has_the_model_first_and_the_best_baseline_next(report):
    rows = Page(page_of(report, shown())).rows[: 1 + 6]
    assert rows[0][:4] == ["reconstruction", "PSNR dB", "worst tenth", "SSIM"]
    metrics = report.metrics
    own = [f"{metrics['psnr']:.2f}", f"{metrics['psnr_worst_tenth']:.2f}", f"{metrics['ssim']:.4f}"]
    assert rows[1][:4] == ["this model", *own]
    assert {row[0].split()[0] for row in rows[2:]} == {"JPEG", "WebP", "bicubic,", "constant,", "the"}
    assert [float(row[1]) for row in rows[2:]] == sorted((float(row[1]) for row in rows[2:]), reverse=True)


def test_it_is_said_what_the_model_is_better_and_worse_than(report):
    better = report.model_copy(update={"metrics": {**report.metrics, "psnr": 30.0}})
    assert {level for level, _ in conclusions(better)[:3]} == {"fine"}
    bicubic = report.baselines["bicubic"].psnr
    worse = report.model_copy(update={"metrics": {**report.metrics, "psnr": bicubic - 1.0}})
    assert conclusions(worse)[0][0] == "check"
    assert conclusions(worse)[0][1].startswith("1.00 dB worse than scaling")
    lost = sum(image.psnr < image.bicubic_psnr for image in report.per_image)
    assert lost > 0
    assert conclusions(report)[-1] == (
        "note",
        f"{lost} pictures of 11 came out worse than by bicubic scaling.".replace(
            f"{lost} pictures", f"{lost}\u00a0pictures"
        ),
    )


def test_a_model_that_breaks_down_is_called_broken_and_shows_no_number_for_it(tmp_path):
    given = pictures(3)
    given.content[1] = 0
    report = run(tmp_path, model(BrokenOnDark), given)
    text = Page((tmp_path / PAGE_NAME).read_text()).text
    assert "are not finite: this model is broken" in text
    assert "1 of 3 pictures holds numbers that are not finite (first '1.png')" in text
    assert "nan" not in text.lower()
    assert report.metrics["psnr"] is None


@pytest.mark.parametrize(
    ("scores", "bars"),
    [
        ([20.0], 1),
        ([20.0, 20.05, 22.0], 21),
        ([0.0, 100.0], 21),
        ([21.3, 24.9], 15),
    ],
)
def test_every_picture_stands_in_one_bar_and_there_are_few(report, scores, bars):
    per_image = [ImageScore(**{**dict.fromkeys(FIELDS), "name": "a", "caption": "", "psnr": score}) for score in scores]
    chart = psnr_chart(report.model_copy(update={"per_image": per_image}))
    assert sum(bar.value for bar in chart.bars) == len(scores)
    assert len(chart.bars) == bars
    for score in scores:
        (bar,) = [bar for bar in chart.bars if bar.start <= score < bar.end]
        assert bar.value > 0


@pytest.mark.parametrize("text", ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202egpj"])
def test_hostile_text_stays_text(report, text):
    calm = page_of(report, shown("calm", "calm"))
    hostile = report_page(
        report.model_copy(update={"provenance": {text: text, "run": text}}),
        {name: [shown(text, text)] for name in ("first", "worst", "best")},
        view(),
    )
    page, reference = Page(hostile), Page(calm)
    for tag in ("script", "style", "img", "b", "a", "input"):
        assert page.tags[tag] == reference.tags[tag], tag
    assert {name for _, name, _ in page.attributes} <= {name for _, name, _ in reference.attributes}
    assert "\u202e" not in hostile


def test_hostile_text_at_every_place_stays_text(report):
    """Names and captions, reasons, protocol, provenance and lineage, settings, moments, labels of codecs."""
    half = report.precision["fp16"].model_copy(update={"verdict": "fail"})
    given = report.model_copy(
        update={
            "provenance": {"x": "x", "run": "x"},
            "reasons": {**report.reasons, "ssim": "x"},
            "precision": {**report.precision, "fp16": half},
        }
    )
    about = About(moments=moments(2), lineage={"y": "x"}, settings={"z": "x", "x": "x"}, defaults={"z": "y"})
    chosen = {"first": [shown(), shown()], "worst": [shown()], "best": [shown(caption="")]}

    def draw(text):
        report_of_text, about_of_text = (
            spoiled(one, text, keys={"lineage", "settings", "defaults"}) for one in (given, about)
        )
        return report_page(report_of_text, spoiled(chosen, text), view(2), about_of_text)

    assert_hostile_text_stays_text(draw)


def test_the_page_is_the_same_again_and_asks_nothing_of_the_network(report):
    document = page_of(report, shown(), shown(psnr=None))
    assert document == page_of(report, shown(), shown(psnr=None))
    parsed = Page(document)
    for _, attribute, value in parsed.attributes:
        if attribute in {"src", "href"}:
            assert value.startswith(("data:image/webp;base64,", "#"))
        assert not attribute.startswith("on")
        assert attribute != "style"
    ids = [value for _, attribute, value in parsed.attributes if attribute == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, attribute, value in parsed.attributes if attribute == "href"} <= set(ids)
    assert "url(" not in document
    assert "http://" not in document
    assert "https://" not in document


def test_noise_at_every_place_stays_within_the_pages_bytes(report, monkeypatch):
    monkeypatch.setattr(page, "PICTURES_BYTES", PICTURES_BYTES // 16)  # for a sixteenth of the most pictures
    noise = [shown(side=256)] * 4
    document = report_page(report, {"first": noise, "worst": noise, "best": noise}, view(4, side=256))
    assert len(document.encode()) < 10e6 / 16


def test_the_chooser_holds_no_more_than_it_shows():
    chooser = Chooser(2)
    scores = torch.tensor([5.0, 1.0, float("nan"), 9.0, 7.0, 3.0])
    for start in range(0, 6, 2):
        chooser.add(range(start, start + 2), torch.zeros(2, 3, 8, 8) + start, scores[start : start + 2])
    assert chooser.indices() == {"first": [0, 1], "worst": [2, 1], "best": [3, 4]}
    assert set(chooser.kept) == {0, 1, 2, 3, 4}
