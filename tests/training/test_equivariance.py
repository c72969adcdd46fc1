"""Latents and pictures scaled and turned alike."""

from collections import Counter

import pytest
import torch

from pikavae.config import LossConfig, ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training.equivariance import Transform, transform_at
from pikavae.training.losses import autoencoder_terms


def random(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_same_size_and_no_turn_is_the_identity():
    latent, picture = random(2, 4, 6, 9), random(2, 3, 24, 36)
    transform = Transform(6, 9, 0)
    assert torch.equal(transform.of_latent(latent), latent)
    assert torch.equal(transform.of_picture(picture, 4), picture)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("sides", [(3, 5), (8, 12), (2, 3)])
def test_a_constant_stays_constant(sides, turns):
    height, width = sides
    transform = Transform(height, width, turns)
    torch.testing.assert_close(
        transform.of_latent(torch.full((1, 4, 8, 12), 0.7)),
        torch.full((1, 4, *(sides[::-1] if turns % 2 else sides)), 0.7),
    )


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_pictures_sides_are_the_latents_times_the_factor(turns):
    transform = Transform(3, 5, turns)
    height, width = transform.of_latent(random(1, 4, 8, 12)).shape[2:]
    assert {height, width} == {3, 5}
    assert transform.of_picture(random(1, 3, 64, 96), 8).shape == (1, 3, 8 * height, 8 * width)


def test_one_turn_brings_the_last_column_to_the_first_row():
    latent = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert Transform(2, 3, 1).of_latent(latent).tolist() == [[[[2.0, 5.0], [1.0, 4.0], [0.0, 3.0]]]]


@pytest.mark.parametrize("first", [0, 1, 2, 3])
@pytest.mark.parametrize("second", [0, 1, 2, 3])
def test_turns_add_up_and_commute(first, second):
    latent = random(1, 4, 8, 8)

    def turn(x, turns):
        return Transform(8, 8, turns).of_latent(x)

    assert torch.equal(turn(turn(latent, first), second), turn(latent, (first + second) % 4))
    assert torch.equal(turn(turn(latent, first), second), turn(turn(latent, second), first))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turning_before_the_resize_gives_what_turning_after_it_gives(turns):
    picture = random(1, 3, 16, 24)
    height, width = (8, 4) if turns % 2 else (4, 8)
    after = Transform(4, 8, turns).of_picture(picture, 2)
    before = Transform(height, width, 0).of_picture(torch.rot90(picture, turns, dims=(2, 3)), 2)
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


def test_half_the_size_of_a_ramp_is_the_ramp_at_the_new_pixels_centres():
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    half = Transform(16, 16, 0).of_latent(ramp)
    expected = 2 * torch.arange(16.0) + 0.5
    torch.testing.assert_close(half[0, 0, 5, 1:-1], expected[1:-1])  # the border has a cut filter


def test_stripes_finer_than_the_new_pixels_fade_instead_of_aliasing():
    # bilinear samples alone would lie between two dark columns each, and all be 0
    stripes = torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(8).expand(1, 1, 32, 32)
    quarter = Transform(8, 8, 0).of_latent(stripes)
    assert (quarter[..., 1:-1] - 0.5).abs().max() < 0.01


def test_the_same_position_and_seed_give_the_same_transform():
    before = torch.random.get_rng_state()
    drawn = [[transform_at(i, (8, 12), share=0.5, seed=seed) for i in range(40)] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_transforms_is_the_one_asked_for(share):
    drawn = [transform_at(i, (8, 8), share=share, seed=0) for i in range(2000)]
    assert sum(transform is not None for transform in drawn) / 2000 == pytest.approx(share, abs=0.03)


def test_a_larger_share_keeps_the_transforms_of_a_smaller_one():
    for i in range(100):
        few, many = (transform_at(i, (8, 8), share=share, seed=0) for share in (0.3, 0.6))
        assert few is None or few == many


def test_sides_and_turns_are_each_equally_likely():
    drawn = [transform_at(i, (16, 16), share=1.0, seed=0) for i in range(4000)]
    sides = Counter(transform.height for transform in drawn)
    turns = Counter(transform.quarter_turns for transform in drawn)
    assert sorted(sides) == list(range(4, 17))
    assert all(count == pytest.approx(4000 / 13, rel=0.25) for count in sides.values())
    assert sorted(turns) == [0, 1, 2, 3]
    assert all(count == pytest.approx(1000, rel=0.1) for count in turns.values())


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 7), (8, 12), (12, 8), (4, 9), (3, 64), (16, 16), (9, 10)])
def test_sides_keep_the_aspect_as_near_as_whole_numbers_allow(shape):
    for i in range(200):
        transform = transform_at(i, shape, share=1.0, seed=0)
        new = (transform.height, transform.width)
        assert all(max(1, side / 4) <= new_side <= side for side, new_side in zip(shape, new, strict=True))
        scale = min(new) / min(shape)
        assert abs(max(new) - scale * max(shape)) <= max(0.5, -(-max(shape) // 4) - scale * max(shape))
        assert (new[0] <= new[1]) == (shape[0] <= shape[1]) or new[0] == new[1]


def test_no_side_falls_below_the_smallest():
    drawn = [transform_at(i, (8, 12), share=1.0, seed=0, smallest=6) for i in range(200)]
    assert {min(transform.height, transform.width) for transform in drawn} == {6, 7, 8}
    assert {
        (t.height, t.width) for t in (transform_at(i, (8, 12), share=1.0, seed=0, smallest=8) for i in range(9))
    } == {(8, 12)}


def test_the_decoder_learns_through_the_transformed_latent_what_the_transformed_picture_is():
    torch.manual_seed(0)
    model = AutoencoderKL(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4))
    images, transform = random(1, 3, 16, 24), Transform(4, 6, 1)
    posterior = model.encode(images)
    reconstructions = model.decode(transform.of_latent(posterior.sample(noise=torch.zeros(1, 4, 8, 12))))
    target = transform.of_picture(images, 2)
    assert reconstructions.shape == target.shape == (1, 3, 12, 8)
    terms = autoencoder_terms(LossConfig(), target, reconstructions, posterior, 0.0, None)
    terms["mse"].weighted.backward()
    parts = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad.any()}
    assert parts == {"encoder", "quant_conv", "post_quant_conv", "decoder"}
