"""The estimate against what autograd really keeps, and the advice for a configuration that does not fit."""

import pytest
import torch

from benchmarks import memory
from pikavae.model import autoencoder, norm
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.presets import parse_config
from pikavae.training import memory as memory_of
from pikavae.training import step
from pikavae.training.losses import autoencoder_terms
from pikavae.training.memory import GIB, ROOM, choose_activations, estimate, out_of_memory_advice
from pikavae.training.optimizers import build_optimizer
from pikavae.training.peak import LiveBytes
from pikavae.training.state import TrainState
from pikavae.training.step import Stepper

from .conftest import make_config

WAYS = ("keep", "recompute", "checkpoint")


def config_of(**changes):
    return make_config(**{"model.channels": [16, 32], "data.image_size": 32, "training.device": "cpu", **changes})


def real_step(config) -> tuple[int, int]:
    """Bytes alive after the forward pass besides the weights, and at most in a step, of real tensors."""
    training, size = config.training, config.data.image_size
    with LiveBytes() as live:
        model = AutoencoderKL(config.model).train()
        model.choose_activations(training.activations)
        if training.trainable == "decoder":
            model.encoder.requires_grad_(False)
            model.quant_conv.requires_grad_(False)
        before = live.now
        images = torch.rand(training.batch_size, 3, size, size)
        if training.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.precision == "bf16"):
            reconstructions, posterior = model(images)
        terms = autoencoder_terms(config.loss, images, reconstructions, posterior, 1.0, None)
        loss = torch.stack([term.weighted for term in terms.values()]).sum()
        del reconstructions, posterior, terms
        kept = live.now - before
        loss.backward()
    return kept, live.peak


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training.batch_size": 5},
        {"training.precision": "bf16"},
        {"training.activations": "checkpoint"},
        {"training.activations": "keep", "training.precision": "bf16"},
        {"training.trainable": "decoder"},
        {"training.trainable": "decoder", "training.activations": "checkpoint"},
        {"training.channels_last": True},
        {"model.resample_shortcuts": True, "model.mid_attention": False},
    ],
    ids=str,
)
def test_estimate_is_what_a_real_step_keeps_and_needs(changes, monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    config = config_of(**{"training.activations": "recompute", **changes})
    kept, peak = real_step(config)
    memory = estimate(config)
    # Scalars of the loss take a block each, and fake norms keep half-precision moments
    assert memory.activations == pytest.approx(kept, rel=2e-3)
    assert memory.total - memory.moments == pytest.approx(peak, rel=2e-3)


MEASURED = {
    ("float32", "keep"): 6.81,
    ("float32", "recompute"): 4.45,
    ("float32", "checkpoint"): 2.95,
    ("bf16", "keep"): 4.14,
    ("bf16", "recompute"): 2.81,
    ("bf16", "checkpoint"): 2.05,
}
"""GiB at most of a step of the full model, 512 px, batch 1, AdamW, on an H200 with torch 2.11, at commit 686f7dd
(`python -m benchmarks.gpu_training --parts memory`)."""


@pytest.mark.parametrize(("precision", "activations"), MEASURED)
def test_estimate_is_within_a_tenth_of_what_an_h200_needed(precision, activations, monkeypatch):
    monkeypatch.setattr(norm, "triton_can_compile", lambda: True)
    training = {"device": "cuda", "precision": precision, "activations": activations, "batch_size": 1}
    config = parse_config({"data": {"image_size": 512}, "training": training})
    assert estimate(config).total / GIB == pytest.approx(MEASURED[precision, activations], rel=0.1)


def test_gradients_of_an_earlier_batch_count_from_the_start():
    once, twice = (estimate(config_of(**{"training.accumulation": count})) for count in (1, 2))
    assert once.total < twice.total <= once.total + once.gradients


def test_networks_of_the_loss_count():
    changes = {"data.image_size": 64, "training.batch_size": 2}
    plain = estimate(config_of(**changes)).total
    for name in ("perceptual_weight", "adversarial_weight"):
        more = estimate(config_of(**changes, **{f"loss.{name}": 1.0})).total
        assert more > plain + 4 * 2_700_000  # VGG16's convolutions and the discriminator have more weights


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
    assert memory.total >= sum((memory.weights, memory.moments, memory.ema, memory.activations))


def test_more_pictures_need_more_and_nothing_but_activations():
    memories = [estimate(config_of(**{"training.batch_size": count})) for count in (1, 2, 4, 8)]
    activations = [memory.activations for memory in memories]
    assert activations == sorted(set(activations))
    assert len({(memory.weights, memory.gradients, memory.moments, memory.ema) for memory in memories}) == 1


def test_processes_share_the_batch():
    shared = estimate(config_of(**{"training.batch_size": 5, "training.processes": 2}))
    assert shared.activations == estimate(config_of(**{"training.batch_size": 3})).activations


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_model_is_estimated_for_a_device_that_is_not_there(device, precision):
    setting = {"training.device": device, "training.precision": precision, "training.batch_size": 64}
    kept, recomputed, checkpointed = (
        estimate(config_of(**setting, **{"training.activations": way})) for way in ("keep", "recompute", "checkpoint")
    )
    assert kept.weights + kept.gradients + kept.moments == 4 * kept.weights
    assert kept.activations > recomputed.activations > checkpointed.activations
    assert kept.total > recomputed.total > checkpointed.total
    assert not torch.is_autocast_enabled(device)


def test_half_precision_keeps_about_half_of_what_float32_does():
    """One map for each convolution, in the format that it computes in, and the weights in that format."""
    setting = {"training.device": "cuda", "training.batch_size": 64, "training.activations": "recompute"}
    single, half = (estimate(config_of(**setting, **{"training.precision": name})) for name in ("float32", "bf16"))
    assert half.activations < 0.55 * single.activations + single.weights / 2


def choose(config, room, monkeypatch, caplog):
    """The choice, and what is logged, for a device with so many bytes free."""
    monkeypatch.setattr(memory_of, "_room", lambda device: room)
    with caplog.at_level("INFO"):
        return choose_activations(config, torch.device("cpu"), announces=True), caplog.messages


def test_the_fastest_way_that_fits_is_chosen_and_logged(monkeypatch, caplog):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    config = config_of(**{"training.batch_size": 16})
    needs = [estimate(config_of(**{"training.batch_size": 16, "training.activations": way})).total for way in WAYS]
    for way, needed in zip(WAYS, needs, strict=True):
        caplog.clear()
        chosen, lines = choose(config, int(ROOM * needed) + 1, monkeypatch, caplog)
        assert chosen == way
        assert len(lines) == 1
        assert lines[0].startswith(f"training.activations auto: {way} (by estimate keep ")
    assert choose(config, needs[-1], monkeypatch, caplog)[0] == "checkpoint"
    assert caplog.messages[-1].endswith("; it may not fit)")


def test_pictures_on_the_device_leave_less_room(monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    config = config_of(**{"training.batch_size": 16})
    needed = estimate(config_of(**{"training.batch_size": 16, "training.activations": "keep"})).total
    monkeypatch.setattr(memory_of, "_room", lambda device: int(ROOM * needed) + 1)
    ways = [choose_activations(config, torch.device("cpu"), pictures=count) for count in (0, 2**20)]
    assert ways == ["keep", "recompute"]


def test_processes_on_a_cpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    shared = {"training.batch_size": 32, "training.processes": 2}
    needed = estimate(config_of(**shared, **{"training.activations": "keep"})).total
    ways = []
    for room in (2 * (int(ROOM * needed) + 1), 2 * int(ROOM * needed) - 2**20):
        monkeypatch.setattr(memory_of, "_room", {torch.device("cpu"): room}.get)
        ways.append(choose_activations(config_of(**shared), torch.device("cpu")))
    assert ways == ["keep", "recompute"]


@pytest.mark.parametrize(("way", "counts"), [("resident", True), ("direct", False)])
def test_a_training_keeps_what_was_chosen_beside_its_pictures(prepared, monkeypatch, way, counts):
    asked = []
    monkeypatch.setattr(step, "choose_way", lambda *_: way)
    monkeypatch.setattr(
        step, "choose_activations", lambda *_, pictures, announces: asked.append(pictures) or "checkpoint"
    )
    config = make_config()
    state = TrainState.fresh(config, torch.device("cpu"))
    with Stepper(state, config, torch.device("cpu")).open_loader(prepared.train):
        assert asked == [prepared.train.num_bytes if counts else 0]
    chosen = [module.activations for module in state.model.modules() if hasattr(module, "activations")]
    assert set(chosen) == {"checkpoint"}


def test_nothing_is_estimated_for_small_maps_or_a_way_that_is_set(monkeypatch):
    monkeypatch.setattr(memory_of, "estimate", None)
    assert choose_activations(config_of(), torch.device("cpu")) == "keep"
    for way in WAYS:
        config = config_of(**{"training.activations": way, "training.batch_size": 1000})
        assert choose_activations(config, torch.device("cpu")) == way


LARGE = {"training.device": "cuda", "training.batch_size": 64, "training.precision": "float32"}
"""Settings of a step that needs 0.4 GiB, nearly all of it for maps."""


def test_advice_is_one_line_that_names_the_best_setting_first():
    config = config_of(**LARGE, **{"training.accumulation": 4, "training.activations": "keep"})
    line = out_of_memory_advice(config, RuntimeError("GPU 0 has a total capacity of 11.91 GiB of which"))
    assert "\n" not in line
    assert "11.91 GiB" in line
    needs = [
        line.index(f"{field}: about ")
        for field in (
            "training.precision bf16 with training.activations checkpoint",
            "; training.activations checkpoint",
            "training.batch_size 32 with training.accumulation 8",
            "training.trainable decoder",
        )
    ]
    assert needs == sorted(needs)


def test_smaller_pictures_are_advised_last():
    config = config_of(**LARGE, **{"training.activations": "checkpoint", "data.image_size": 128})
    assert out_of_memory_advice(config).rpartition("; ")[2].startswith("data.image_size 64: about ")


def test_advice_names_only_what_helps():
    """A batch of one cannot be halved; what is set already is not advised."""
    setting = LARGE | {"training.batch_size": 1, "data.image_size": 256, "training.activations": "keep"}
    line = out_of_memory_advice(config_of(**setting))
    assert "training.batch_size" not in line
    set_already = {
        "training.precision": "bf16",
        "training.activations": "checkpoint",
        "training.trainable": "decoder",
    }
    line = out_of_memory_advice(config_of(**setting | set_already))
    assert not [name for name in ("precision", "activations", "trainable") if name in line]


def test_advice_after_an_automatic_choice_is_relative_to_what_was_chosen(monkeypatch):
    monkeypatch.setattr(memory_of, "_room", lambda device: 2**40)
    config = config_of(**{"training.batch_size": 64, "training.device": "cpu"})
    assert "training.activations checkpoint: about " in out_of_memory_advice(config)


def test_advice_spells_values_as_yaml_does():
    line = out_of_memory_advice(config_of(**{"training.batch_size": 2, "training.ema_decay": 0.9}))
    assert "training.batch_size 1 with training.accumulation 2: about " in line
    assert "training.precision bf16 with training.activations checkpoint: about " in line
    assert "training.ema_decay null: about " in line


def test_advice_for_what_cannot_be_made_smaller_by_a_setting():
    config = config_of(
        **{
            "training.batch_size": 1,
            "training.precision": "bf16",
            "training.activations": "checkpoint",
            "training.trainable": "decoder",
        }
    )
    assert "model.channels" in out_of_memory_advice(config)


def test_the_table_of_estimates_has_a_row_for_each_combination():
    found = memory.rows("demo", 1, [64])
    assert len(found) == 12
    assert [name for name, _ in found[:3]] == [f"64 | float32 | all | {way}" for way in WAYS]
