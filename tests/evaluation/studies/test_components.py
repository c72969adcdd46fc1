import numpy as np
import pytest
import torch

from pikavae.evaluation.studies.latent_view import principal_components


def correlated(channels, shapes=((6, 5), (5, 6), (6, 5)), seed=0):
    """Latents whose channels mix: (Z, h, w) each."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) + 3 * torch.eye(channels)
    mixing *= torch.linspace(2.0, 0.3, channels)
    shift = torch.randn(channels, 1, 1, generator=generator)
    return [
        torch.einsum("ij,jhw->ihw", mixing, torch.randn(channels, *shape, generator=generator)) + shift
        for shape in shapes
    ]


@pytest.mark.parametrize("channels", [3, 4, 16])
def test_colours_and_shares_are_those_of_a_singular_value_decomposition(channels):
    latents = correlated(channels)
    positions = torch.cat([latent.flatten(1) for latent in latents], dim=1).double().numpy().T  # (P, Z)
    centred = positions - positions.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    scores = centred @ axes[:3].T / (2.5 * singular[:3] / np.sqrt(len(centred)))
    scores *= np.sign(axes[range(3), np.abs(axes[:3]).argmax(axis=1)])
    found = principal_components(latents)
    assert found.shares == pytest.approx((singular**2 / (singular**2).sum())[:3].tolist(), rel=1e-9)
    shown = torch.cat([picture.flatten(1) for picture in found.images], dim=1).numpy()
    assert [picture.shape for picture in found.images] == [(3, *latent.shape[1:]) for latent in latents]
    assert np.abs(shown - scores.T.clip(-1, 1)).max() < 1e-6


def test_the_sign_and_the_bytes_do_not_depend_on_the_sign_of_the_latents():
    latents = correlated(4)
    found, again = principal_components(latents), principal_components([latent.clone() for latent in latents])
    turned = principal_components([-latent for latent in latents])
    for one, two, other in zip(found.images, again.images, turned.images, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(other, -one, rtol=0, atol=1e-6)


def test_one_channel_is_grey_and_two_leave_the_blue_in_the_middle():
    (grey, *_), shares = (found := principal_components(correlated(1))).images, found.shares
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    assert shares == [pytest.approx(1.0)]
    assert grey.std() > 0.1
    two = principal_components(correlated(2))
    assert len(two.shares) == 2
    assert sum(two.shares) == pytest.approx(1.0)
    assert all(torch.equal(picture[2], torch.zeros_like(picture[2])) for picture in two.images)


@pytest.mark.parametrize("value", [0.0, 0.7, -1e4])
def test_latents_that_do_not_vary_are_mid_grey(value):
    found = principal_components([torch.full((4, 3, 3), value)] * 2)
    assert found.shares == []
    assert all(torch.equal(picture, torch.zeros(3, 3, 3)) for picture in found.images)


def test_a_direction_without_variance_is_mid_grey_beside_those_that_vary():
    line = torch.tensor([1.0, 2.0, -1.0, 0.5]).view(4, 1, 1) * torch.randn(
        1, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    found = principal_components([line])
    assert found.shares == [pytest.approx(1.0)]
    assert torch.equal(found.images[0][1:], torch.zeros(2, 8, 8))


def test_a_latent_that_is_not_finite_leaves_the_others_alone():
    latents = correlated(4)
    broken = [latents[0], torch.full_like(latents[1], torch.nan), latents[2]]
    found, without = principal_components(broken), principal_components([latents[0], latents[2]])
    assert found.shares == without.shares
    assert torch.equal(found.images[0], without.images[0])
    assert found.images[1].isnan().all()
    nothing = principal_components(broken[1:2])
    assert nothing.shares == []
    assert nothing.images[0].isnan().all()
