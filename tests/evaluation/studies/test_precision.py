"""Half precision against float32: what a consumer gets who casts the weights."""

import math
from dataclasses import replace

import pytest
import torch

from pikavae.evaluation.measure.measurement import Sample
from pikavae.evaluation.metrics.similarity import psnr
from pikavae.evaluation.pages.numbers import conclusions
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.studies.precision import FORMATS, Rounding, of_format
from tests.evaluation.test_evaluate import CPU, model, pictures, reconstructions, run
from tests.support.pages import Page


def sample(subject, given):
    made, images = reconstructions(subject, given)
    return Sample([image[None] for image in images], [one[None] for one in made], CPU)


def overflowing():
    """Its decoder carries numbers beyond 65504 between norms, which take them away again."""
    subject = model()
    with torch.no_grad():
        subject.get_parameter("post_quant_conv.weight").mul_(2e3)  # no weight is beyond it
        subject.decoder.conv_in.weight *= 2e3
    return subject


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_rounding_after_each_operation_is_as_far_from_float32_as_the_format_itself(dtype):
    subject, given = model(), pictures(3)
    chosen = sample(subject, given)
    with torch.inference_mode():
        found = of_format(subject, chosen, dtype)
        cast = model().to(dtype)
        native = [cast.decode(cast.encode(image.to(dtype)).mode().to(dtype)).float() for image in chosen.images]
    expected = [psnr(one, other.clamp(-1, 1)).item() for one, other in zip(native, chosen.reconstructions, strict=True)]
    # Some convolutions of a CPU add up in the format itself, which costs them about a decibel.
    assert found.psnr_to_float32 == pytest.approx(sum(expected) / 3, abs=2.0)
    assert found.psnr_to_float32_min == pytest.approx(min(expected), abs=2.0)


@pytest.mark.parametrize("dtype", FORMATS.values())
def test_each_operation_is_rounded_to_the_format(dtype):
    x = torch.linspace(-3, 3, 1000)
    with Rounding(dtype):
        found = torch.nn.functional.silu(x * 0.7)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.nn.functional.silu((x * 0.7).to(dtype).float()).to(dtype).float())


def test_activations_beyond_fp16_fail_there_and_pass_in_bf16(tmp_path):
    report = run(tmp_path, overflowing(), pictures(3))
    assert report.metrics["non_finite_fraction"] == 0.0
    bf16, fp16 = report.precision["bf16"], report.precision["fp16"]
    assert bf16.verdict == "pass"
    assert bf16.pictures_non_finite == 0.0
    assert fp16.verdict == "fail"
    assert (fp16.latents_non_finite, fp16.pictures_non_finite) == (0.0, 1.0)
    assert fp16.psnr is fp16.psnr_to_float32 is fp16.max_difference is None
    broken = "0.00% of the latents' numbers and 100.00% of the pictures' are not finite"
    beyond = f"12 layers go beyond fp16's 65504, the first decoder.conv_in ({fp16.beyond['decoder.conv_in']:.3g})"
    assert fp16.reason == f"{broken} (on the 3 pictures tried); {beyond}"
    assert len(fp16.beyond) == 12
    assert fp16.peak == max(fp16.beyond.values()) == fp16.beyond[fp16.peak_layer]
    assert (bf16.peak, bf16.peak_layer, bf16.beyond) == (None, None, {})
    assert bf16.reason.startswith(f"{bf16.psnr:.2f} dB in bf16, ")
    assert Report.load(tmp_path) == report
    assert ("check", f"Not to be used in fp16: {fp16.reason}.") in conclusions(report)
    assert f"Not to be used in fp16: {fp16.reason}." in report.table()
    row = Page((tmp_path / "report.html").read_text()).row("fp16")
    assert row == ["-"] * 5 + [f"not to be used: {fp16.reason}"]


def test_the_numbers_are_those_of_the_same_pictures(tmp_path):
    subject, given = model(), pictures(11)
    report = run(tmp_path, subject, given)
    worst = sorted(range(11), key=lambda i: report.per_image[i].psnr)[:3]
    chosen = sorted({0, 1, 2, *worst})  # a panel shows three
    in_float32 = [report.per_image[i].psnr for i in chosen]
    for one in report.precision.values():
        assert (one.num_images, one.native, one.verdict) == (len(chosen), False, "pass")
        assert one.psnr_in_float32 == pytest.approx(sum(in_float32) / len(chosen), rel=1e-6)
        assert one.psnr == pytest.approx(one.psnr_in_float32, abs=0.1)
        assert one.psnr_min <= one.psnr
        assert one.psnr_to_float32_min <= one.psnr_to_float32
        # A mean squared error is at most the square of the largest.
        assert 10 * math.log10(4 / one.max_difference**2) <= one.psnr_to_float32_min
    assert report.precision["bf16"].psnr_to_float32 < report.precision["fp16"].psnr_to_float32


def test_the_weights_are_left_in_float32(tmp_path):
    subject, before = model(), {name: value.clone() for name, value in model().state_dict().items()}
    run(tmp_path, subject, pictures(1))
    assert all(torch.equal(value, before[name]) for name, value in subject.state_dict().items())


def test_what_a_format_costs_is_named():
    subject, given = model(), pictures(2)
    images = sample(subject, given).images
    with torch.inference_mode():
        found = of_format(subject, Sample(images, images, CPU), torch.bfloat16)  # float32 would be perfect
    assert found.verdict == "fail"
    loss = 100.0 - found.psnr
    assert found.reason.startswith(f"loses {loss:.2f} dB of 100.00 dB PSNR, over 0.5 dB; a picture is ")
    assert found.psnr_to_float32 == found.psnr


def test_a_model_that_is_broken_in_float32_fails_in_every_format():
    subject, given = model(), pictures(2)
    chosen = sample(subject, given)
    spoilt = replace(chosen, reconstructions=[torch.full_like(x, math.nan) for x in chosen.images])
    with torch.inference_mode():
        found = of_format(subject, spoilt, torch.float16)
    assert found.verdict == "fail"
    assert found.psnr_in_float32 is found.psnr_to_float32 is None
    assert "float32" in found.reason


def test_one_picture_of_one_colour_is_studied(tmp_path):
    given = pictures(1)
    given.content[:] = 255
    for one in run(tmp_path, model(), given).precision.values():
        assert one.num_images == 1
        assert one.psnr == one.psnr_min
