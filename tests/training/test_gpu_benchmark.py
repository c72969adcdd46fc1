"""The benchmark for a GPU: its code on the CPU with a small model, and the tables that it makes of numbers."""

import json

import pytest
import torch

from benchmarks import gpu_training
from benchmarks.gpu import both
from benchmarks.gpu.kernels import by_kind, kind_of
from benchmarks.gpu.whole import share_of_bare
from benchmarks.gpu_training import compare, show


@pytest.fixture(autouse=True)
def one_thread():
    """Small models on several threads of a busy machine wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch.set_num_threads(before)


def run(capsys, *parts, minutes="6"):
    """What the benchmark prints, and its results."""
    gpu_training.main(["--device", "cpu", "--small", "--seconds", "0", "--minutes", minutes, "--parts", *parts])
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def test_parts_without_diffusers_run_on_the_cpu(capsys, monkeypatch):
    monkeypatch.setattr(both, "has_diffusers", lambda: False)
    out, results = run(capsys, "training", "decoding", "memory", "breakdown", "finite")
    assert out.startswith("## CPU, torch ")
    assert [(row["what"], row["way"]) for row in results["training"]] == [
        ("step, 16 px, batch 2", "eager"),
        ("step, 16 px, batch 2", "compiled"),
        ("step, 32 px, batch 1", "eager"),
        ("step, 32 px, batch 1", "compiled"),
    ]
    assert all(row["diffusers ms"] is None and row["ours ms"] > 0 for row in results["training"])
    assert [row["way"] for row in results["decoding"]] == ["eager", "compiled"]
    assert len(results["memory"]) == 6
    assert sum(row["share"] or 0 for row in results["breakdown"]) == pytest.approx(1)
    assert {"convolutions", "optimizer"} < {row["what"] for row in results["breakdown"]}
    assert all(row["finite"] for row in results["finite"])
    assert results["notes"] == ["diffusers is not installed: its columns are left out"]


@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")  # diffusers under torch.compile
def test_both_models_are_measured_in_turn(capsys):
    pytest.importorskip("diffusers")
    _, results = run(capsys, "training")
    assert all(row["diffusers ms"] > 0 and row["ours ms"] > 0 for row in results["training"])
    assert all(row["diffusers / ours"] > 0 for row in results["training"])


@pytest.mark.slow
def test_a_whole_training_is_measured_against_its_bare_step(capsys):
    _, results = run(capsys, "whole")
    assert [row["share of bare"] > 0 for row in results["whole"]] == [True] * 3
    assert results["whole"][0]["share of bare"] == pytest.approx(1)


def test_what_the_time_does_not_suffice_for_is_named(capsys):
    out, results = run(capsys, "training", "memory", minutes="0")
    assert results.keys() == {"device", "torch", "notes"}
    assert "- Training steps in bf16: left out, the time is over" in out


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolutions"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float>(...)", "changes of layout"),
        ("_measure_parts", "norm"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNN", "products of matrices"),
        ("fmha_cutlassB_bf16_aligned_64x64_k65536_sm80", "attention"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("triton_poi_fused__to_copy_convolution_3", "element by element"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add>", "element by element"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("void at::native::reduce_kernel<512, 1>", "reductions"),
        ("void at::native::(anonymous namespace)::upsample_nearest2d_nhwc_out_frame", "upsampling and pooling"),
        ("something", "other"),
    ],
)
def test_kernels_have_a_kind(name, kind):
    assert kind_of(name) == kind


def test_a_breakdown_sums_kernels_and_gives_the_rate_of_convolutions():
    kernels = [("wgrad_one", 3000.0), ("dgrad | two", 6000.0), ("nvjet", 1000.0)]
    first, second = by_kind(kernels, steps=2, flops_of_convolutions=9e12)
    assert (first["what"], first["ms a step"], first["share"]) == ("convolutions", 4.5, 0.9)
    assert first["TFLOP/s"] == pytest.approx(2000)
    assert first["longest kernel"] == "dgrad / two"
    assert (second["what"], second["TFLOP/s"]) == ("products of matrices", None)


def test_rows_compare_with_the_other_model_and_with_its_best():
    seconds = {"ours, eager": 0.2, "ours, compiled": 0.1, "diffusers, eager": 0.3, "diffusers, compiled": 0.15}
    eager, compiled = compare("step", 16, seconds, {"ours, compiled": 20.0, "diffusers, compiled": 55.4})
    assert (eager["diffusers / ours"], eager["diffusers' best / ours"]) == pytest.approx((1.5, 0.75))
    assert (compiled["diffusers' best / ours"], compiled["ours, pictures/s"]) == pytest.approx((1.5, 160))
    assert compiled["seconds to compile, diffusers / ours"] == "55 / 20"
    assert eager["seconds to compile, diffusers / ours"] is None


def test_the_share_of_the_bare_step_is_that_of_the_median_block():
    ends = [0.0, 20.0, 22.0, 24.0, 26.0, 36.0, 38.0]  # one of the second half has a validation in it
    bare, steps, whole = share_of_bare(0.16, ends, 10, 50.0, 16)
    assert (bare["pictures/s"], bare["share of bare"]) == pytest.approx((100, 1))
    assert (steps["pictures/s"], steps["share of bare"]) == pytest.approx((80, 0.8))
    assert (whole["pictures/s"], whole["share of bare"]) == pytest.approx((50, 0.5))


def test_a_table_is_markdown(capsys):
    rows = [{"a": 1.23456, "b": None, "c": "x"}]
    assert show("Title", iter(rows)) == rows
    assert capsys.readouterr().out.splitlines() == [
        "### Title",
        "",
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1.23 | - | x |",
        "",
    ]
