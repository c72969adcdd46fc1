"""Rescaled weights: every map that can be brought into fp16's range is, and the outputs remain the same."""

import pytest
import torch
from torch import nn

from pikavae.config import ModelConfig
from pikavae.evaluation.studies.peaks import beyond, measure_peaks
from pikavae.model.autoencoder import NORM_EPS
from pikavae.model.norm import GroupNorm
from pikavae.weights.rescale import places_of, rescale
from tests.model.test_autoencoder import CONFIGS, SMALL, with_random_weights

BOUND = 2.0**14
FACTOR = 2.0**20


def pictures(side=16):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def without_eps(model):
    """A norm's epsilon is the only thing that a scale changes: without it, equality can be asked bit for bit."""
    for module in model.modules():
        if isinstance(module, GroupNorm):
            module.eps = 0.0
    return model


@torch.no_grad()
def enlarged(model, place, factor=FACTOR, channels=slice(None)):
    """Make the map of a place too large, and what reads it smaller by as much."""
    for name in place.writers:
        for parameter in model.get_submodule(name).parameters():
            parameter[channels] *= factor
    for name in place.against:
        for parameter in model.get_submodule(name).parameters():
            parameter[channels] /= factor
    for name in place.readers:
        model.get_submodule(name).weight[:, channels] /= factor
    return model


@torch.inference_mode()
def outputs(model, images):
    posterior = model.encode(images)
    return posterior.mean, posterior.logvar, model.decode(posterior.mode())


PLACES = list(enumerate(places_of(with_random_weights(SMALL))))


@pytest.mark.parametrize(("number", "place"), PLACES, ids=[place.writers[0] for _, place in PLACES])
def test_a_map_that_is_too_large_is_rescaled_and_the_outputs_keep_their_bits(number, place):
    plain, images = without_eps(with_random_weights(SMALL)), pictures()
    model = enlarged(without_eps(with_random_weights(SMALL)), places_of(plain)[number])
    large = measure_peaks(model, [images])
    assert max(beyond(large, BOUND).values()) > 16 * BOUND
    copy, scales = rescale(model, large, BOUND)
    assert beyond(measure_peaks(copy, [images]), BOUND) == {}
    assert set(place.writers) <= scales.keys()
    for made, given, small in zip(outputs(copy, images), outputs(model, images), outputs(plain, images), strict=True):
        assert torch.equal(made, given)
        assert torch.equal(given, small)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_all_maps_at_once_are_rescaled_in_every_architecture(config):
    model, images = without_eps(with_random_weights(config)), pictures()
    for place in places_of(model):
        enlarged(model, place)
    copy, _ = rescale(model, measure_peaks(model, [images]), BOUND)
    assert beyond(measure_peaks(copy, [images]), BOUND) == {}
    assert all(torch.equal(*pair) for pair in zip(outputs(copy, images), outputs(model, images), strict=True))


def test_every_layer_but_the_last_and_what_an_activation_reads_belongs_to_a_place():
    model = with_random_weights(SMALL)
    layers = {name for place in places_of(model) for name in (*place.writers, *place.against)}
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert convolutions - layers == {"quant_conv", "decoder.conv_out"}


def test_only_the_groups_that_are_too_large_are_rescaled():
    model, images = with_random_weights(SMALL), pictures()
    place = next(place for place in places_of(model) if place.writers[0] == "decoder.conv_in")
    enlarged(model, place, channels=slice(6, 12))  # the second of four groups of six channels
    copy, scales = rescale(model, measure_peaks(model, [images]), BOUND)
    ratio = (model.decoder.conv_in.weight / copy.decoder.conv_in.weight).detach().flatten(1)
    assert torch.equal(ratio[:6], torch.ones_like(ratio[:6]))
    assert torch.equal(ratio[12:], torch.ones_like(ratio[12:]))
    assert torch.equal(ratio[6:12], torch.full_like(ratio[6:12], scales["decoder.conv_in"]))


def test_with_its_epsilon_a_norm_moves_the_outputs_by_no_more_than_rounding_would():
    model, images = with_random_weights(SMALL), pictures()
    for place in places_of(model):
        enlarged(model, place)
    copy, _ = rescale(model, measure_peaks(model, [images]), BOUND)
    for made, given in zip(outputs(copy, images), outputs(model, images), strict=True):
        torch.testing.assert_close(made, given, rtol=1e-5, atol=1e-5)


def test_nothing_changes_where_nothing_is_too_large():
    model, images = with_random_weights(SMALL), pictures()
    copy, scales = rescale(model, measure_peaks(model, [images]), BOUND)
    assert scales == {}
    assert all(torch.equal(value, copy.state_dict()[name]) for name, value in model.state_dict().items())


def test_what_an_activation_reads_cannot_be_rescaled():
    model, images = with_random_weights(SMALL), pictures()
    with torch.no_grad():
        model.get_parameter("decoder.up_blocks.0.resnets.0.norm2.weight").mul_(FACTOR)
        model.get_parameter("decoder.up_blocks.0.resnets.0.conv2.weight").div_(FACTOR)
    copy, _ = rescale(model, measure_peaks(model, [images]), BOUND)
    assert set(beyond(measure_peaks(copy, [images]), BOUND)) == {"decoder.up_blocks.0.resnets.0.norm2"}


def test_peaks_are_the_largest_magnitudes_of_each_channel_over_all_pictures():
    model = with_random_weights(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4))
    images = [pictures(16), pictures(24)[:1]]
    found = measure_peaks(model, images)
    with torch.inference_mode():
        first = [model.encoder.conv_in(image) for image in images]
        weight, bias = (
            model.get_parameter(f"encoder.down_blocks.0.resnets.0.norm1.{name}") for name in ("weight", "bias")
        )
        normal = [nn.functional.group_norm(x, 4, weight, bias, NORM_EPS) for x in first]
    for name, expected in (("encoder.conv_in", first), ("encoder.down_blocks.0.resnets.0.norm1", normal)):
        largest = torch.stack([x.abs().amax(dim=(0, 2, 3)) for x in expected]).amax(dim=0)
        torch.testing.assert_close(found[name], largest.double())
    assert next(iter(found)) == "encoder.conv_in"
    assert [*found][-1] == "decoder.conv_out"
    assert not any(module._forward_hooks for module in model.modules())
