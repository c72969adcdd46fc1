import pytest
import torch

from pikavae.evaluation.studies.decoding import between, decode_each, draws, noise_latents, normal, pairs_of_one_shape
from pikavae.model.posterior import DiagonalGaussian


def test_a_line_has_exact_ends_and_even_steps():
    first, second = torch.randn(2, 1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    line = between(first, second, 5)
    assert torch.equal(line[0], first)
    assert torch.equal(line[-1], second)
    for place, latent in enumerate(line):
        torch.testing.assert_close(latent, first + (second - first) * place / 4)


def test_draws_have_the_posteriors_mean_and_deviation():
    mean, logvar = torch.full((1, 2, 2, 2), 3.0), torch.full((1, 2, 2, 2), -2.0)
    drawn = torch.stack(draws(DiagonalGaussian(mean, logvar), 4000, seed=0))
    assert drawn.shape == (4000, 1, 2, 2, 2)
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.01)
    assert drawn.std().item() == pytest.approx(torch.e**-1, rel=0.02)


def test_noise_has_its_mean_and_deviation_and_a_seed_repeats_it():
    noise = noise_latents((1, 4, 20, 20), 5, mean=-2.0, std=3.0, seed=7)
    together = torch.stack(noise)
    assert together.mean().item() == pytest.approx(-2.0, abs=0.15)
    assert together.std().item() == pytest.approx(3.0, rel=0.05)
    assert torch.equal(together[:2], torch.stack(noise_latents((1, 4, 20, 20), 2, mean=-2.0, std=3.0, seed=7)))
    assert not torch.equal(together, torch.stack(noise_latents((1, 4, 20, 20), 5, mean=-2.0, std=3.0, seed=8)))
    assert not torch.equal(noise[0], noise[1])


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    normal((3, 3), 2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_pairs_are_of_one_shape_and_no_latent_is_in_two():
    tall, wide = torch.zeros(1, 4, 6, 2), torch.zeros(1, 4, 2, 6)
    latents = [tall, wide, wide, tall, tall, wide, tall]
    assert pairs_of_one_shape(latents, 9) == [(0, 3), (1, 2), (4, 6)]
    assert pairs_of_one_shape(latents, 2) == [(0, 3), (1, 2)]
    assert pairs_of_one_shape([tall, wide], 2) == []
    assert pairs_of_one_shape([tall], 2) == []


def test_a_picture_does_not_depend_on_what_is_decoded_beside_it():
    sizes = []

    def decode(latents):
        sizes.append(len(latents))
        return latents[:, :3]

    latents = list(torch.randn(3, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0)))
    decoded = decode_each(decode, latents)
    assert sizes == [1, 1, 1]
    assert all(torch.equal(one, latent[0, :3]) for one, latent in zip(decoded, latents, strict=True))
