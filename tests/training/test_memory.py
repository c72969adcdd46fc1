"""The estimate against what autograd really keeps, and the advice for a configuration that does not fit."""

import json

import pytest
import torch
import torch.nn.functional as F

from benchmarks import gpu_training, memory
from pikavae.model import autoencoder
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.presets import load_config
from pikavae.training.memory import estimate, out_of_memory_advice, saved_bytes, saved_for_backward
from pikavae.training.optimizers import build_optimizer

from .conftest import make_config


def config_of(**changes):
    return make_config(**{"model.channels": [16, 32], "data.image_size": 32, "training.device": "cpu", **changes})


def really_saved(config) -> int:
    """Bytes that a real forward pass keeps, the pictures included."""
    model = AutoencoderKL(config.model).train()
    model.gradient_checkpointing = config.training.gradient_checkpointing
    if config.training.trainable == "decoder":
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    size, bf16 = config.data.image_size, config.training.precision == "bf16"
    images = torch.rand(config.training.batch_size, 3, size, size) * 2 - 1
    if config.training.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with saved_for_backward() as held:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            reconstructions, posterior = model(images)
        loss = F.mse_loss(reconstructions.float(), images) + posterior.kl().mean()
    kept = saved_bytes(held, model)
    loss.backward()  # what was wrapped can be used
    return kept


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training.batch_size": 5},
        {"training.precision": "bf16"},
        {"training.gradient_checkpointing": True},
        {"training.gradient_checkpointing": True, "training.precision": "bf16"},
        {"training.trainable": "decoder"},
        {"training.trainable": "decoder", "training.gradient_checkpointing": True},
        {"training.channels_last": True},
        {"model.resample_shortcuts": True, "model.mid_attention": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("recompute_above", [0, 2**20])
def test_estimate_is_what_a_real_forward_pass_keeps(changes, recompute_above, monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", recompute_above)
    config = config_of(**changes)
    # Under bf16 a real GroupNorm keeps its means and deviations in float32, a fake one in bf16: 2 bytes for each group.
    tolerance = 1e-3 if config.training.precision == "bf16" else 0
    assert estimate(config).activations == pytest.approx(really_saved(config), rel=tolerance, abs=0)


def test_what_is_saved_is_counted_once_without_parameters_and_while_it_is_needed():
    """A convolution keeps its input, SiLU and sigmoid what enters or leaves them, an addition nothing."""
    model = torch.nn.Conv2d(2, 4, 3, padding=1)
    x = torch.rand(3, 2, 8, 8)
    map_bytes = 3 * 4 * 8 * 8 * 4
    with saved_for_backward() as held:
        y = model(x)
        z = F.silu(y) + y * y  # y is saved three times
        assert saved_bytes(held, model) == x.nbytes + map_bytes
        w = z.sigmoid()
        assert saved_bytes(held, model) == x.nbytes + 2 * map_bytes
        del y, z, w
        assert saved_bytes(held, model) == 0


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("trainable", ["all", "decoder"])
def test_weights_gradients_and_moments_are_those_of_a_real_step(name, trainable):
    config = config_of(**{"optimizer.name": name, "training.trainable": trainable, "training.ema_decay": 0.9})
    model = AutoencoderKL(config.model).train()
    if trainable == "decoder":
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    optimizer = build_optimizer(model, config.optimizer)
    reconstructions, posterior = model(torch.rand(1, 3, 32, 32))
    (reconstructions.square().mean() + posterior.kl().mean()).backward()
    optimizer.step()
    memory = estimate(config)
    assert memory.weights == memory.ema == sum(p.nbytes for p in model.parameters())
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert memory.moments == sum(value.nbytes for value in moments if value.ndim)  # a step's count is no moment
    assert memory.total == sum((memory.weights, memory.gradients, memory.moments, memory.ema, memory.activations))


def test_more_pictures_need_more_and_nothing_but_activations():
    memories = [estimate(config_of(**{"training.batch_size": count})) for count in (1, 2, 4, 8)]
    activations = [memory.activations for memory in memories]
    assert activations == sorted(set(activations))
    assert len({memory.total - memory.activations for memory in memories}) == 1


def test_processes_share_the_batch():
    shared = estimate(config_of(**{"training.batch_size": 5, "training.processes": 2}))
    assert shared == estimate(config_of(**{"training.batch_size": 3}))


def full_model(device, precision):
    """What the tutorial's model keeps, as it is and with checkpointing."""
    setting = {"training.device": device, "training.precision": precision}
    return [
        estimate(load_config("tutorial", {**setting, "training.gradient_checkpointing": again}))
        for again in (False, True)
    ]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_the_full_model_is_estimated_for_a_device_that_is_not_there(device, precision):
    plain, checkpointed = full_model(device, precision)
    assert plain.weights + plain.gradients + plain.moments == 16 * 83_653_863
    assert checkpointed.activations < 0.45 * plain.activations
    assert not torch.is_autocast_enabled(device)


@pytest.mark.parametrize(("precision", "bounds"), [("float32", (5.2e9, 2.8e9)), ("bf16", (3.4e9, 2.1e9))])
def test_the_tutorials_model_keeps_its_bounds(precision, bounds):
    """At 512 pixels, batch 1, with about 0.9 GB of passing buffers on top: 7 GB, and 3.5 GB with checkpointing."""
    plain, checkpointed = full_model("cuda", precision)
    assert plain.total < bounds[0]
    assert checkpointed.total < bounds[1]


def test_half_precision_keeps_about_half_of_what_float32_does():
    """One map for each convolution, in the format that it computes in, and the weights in that format."""
    single, half = (full_model("cuda", precision)[0] for precision in ("float32", "bf16"))
    assert half.activations < 0.5 * single.activations + single.weights / 2


def test_advice_is_one_line_that_names_the_best_setting_first():
    config = load_config("tutorial", {"training.device": "cuda", "training.batch_size": 8, "training.accumulation": 4})
    line = out_of_memory_advice(config, RuntimeError("GPU 0 has a total capacity of 11.91 GiB of which"))
    assert "\n" not in line
    assert "11.91 GiB" in line
    needs = [
        line.index(f"{field}: about ")
        for field in (
            "training.precision bf16 with training.gradient_checkpointing true",
            "; training.gradient_checkpointing true",
            "training.batch_size 4 with training.accumulation 8",
            "training.trainable decoder",
            "data.image_size 256",
        )
    ]
    assert needs == sorted(needs)


def test_advice_names_only_what_helps():
    """A batch of one cannot be halved; what is set already is not advised."""
    line = out_of_memory_advice(load_config("tutorial", {"training.device": "cuda"}))
    assert "training.batch_size" not in line
    set_already = {
        "training.precision": "bf16",
        "training.gradient_checkpointing": True,
        "training.trainable": "decoder",
    }
    line = out_of_memory_advice(load_config("tutorial", {"training.device": "cuda", **set_already}))
    assert not [name for name in ("precision", "gradient_checkpointing", "trainable") if name in line]


def test_advice_spells_values_as_yaml_does():
    line = out_of_memory_advice(config_of(**{"training.batch_size": 2, "training.ema_decay": 0.9}))
    assert "training.batch_size 1 with training.accumulation 2: about " in line
    assert "training.precision bf16 with training.gradient_checkpointing true: about " in line
    assert "training.ema_decay null: about " in line


def test_advice_tells_what_it_did_not_count():
    line = out_of_memory_advice(config_of(**{"loss.perceptual_weight": 1.0, "loss.adversarial_weight": 0.5}))
    assert "(not counting loss.perceptual_weight and loss.adversarial_weight)" in line


def test_advice_for_what_cannot_be_made_smaller_by_a_setting():
    config = config_of(
        **{
            "training.batch_size": 1,
            "training.precision": "bf16",
            "training.gradient_checkpointing": True,
            "training.trainable": "decoder",
        }
    )
    assert "model.channels" in out_of_memory_advice(config)


@pytest.fixture
def one_thread():
    """Small models on several threads of a busy machine wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")  # diffusers under torch.compile
def test_the_benchmark_for_gpus_runs_on_the_cpu(capsys, one_thread):
    gpu_training.main(["--device", "cpu", "--tiny", "--seconds", "0", "--parts", "memory", "training", "finite"])
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["way"] for row in results["memory"]} == {"as written", "default", "checkpointing"}
    assert [(row["size"], row["way"]) for row in results["training"]] == [
        (16, "plain"),
        (16, "compiled"),
        (32, "plain"),
        (32, "compiled"),
    ]
    assert all(row["finite"] for row in results["finite"])


def test_the_benchmark_for_gpus_says_what_it_leaves_out(capsys, monkeypatch):
    monkeypatch.setattr(gpu_training.importlib.util, "find_spec", lambda name: None)
    gpu_training.main(["--device", "cpu", "--tiny", "--seconds", "0", "--parts", "training", "inference"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("left out, diffusers is not installed")] != []
    assert "training" not in json.loads(lines[-1])


def test_the_table_of_estimates_has_a_row_for_each_combination():
    found = memory.rows("demo", 1, [64])
    assert len(found) == 8
    assert all(counted.total <= plain.total for _, counted, plain in found)
