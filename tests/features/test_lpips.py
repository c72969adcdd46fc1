"""LPIPS against torchmetrics' network with the same weights, and the file those weights come from."""

import os

import pytest
import torch
from torch import nn
from torchmetrics.functional.image import lpips as reference_lpips
from torchvision.models.vgg import cfgs, make_layers

from pikavae.config import LossConfig, ModelConfig
from pikavae.errors import UserError
from pikavae.features.lpips import LPIPS
from pikavae.features.published import VGG16
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training.losses import autoencoder_terms
from tests.support.networks import Touch

FIELD = "loss.perceptual_weights"


@pytest.fixture(scope="module")
def state(vgg16_file):
    return torch.load(vgg16_file)


@pytest.fixture(scope="module")
def network(vgg16_file):
    return LPIPS(vgg16_file, FIELD)


@pytest.fixture
def reference(state, monkeypatch):
    """torchmetrics' own network; only its 120 million numbers of an unused classifier are spared."""

    def features(net, pretrained):
        layers = make_layers(cfgs["D"], batch_norm=False)
        layers.load_state_dict({name.removeprefix("features."): state[name] for name in state if "features" in name})
        return layers

    monkeypatch.setattr(reference_lpips, "_get_tv_model_features", features)
    return reference_lpips._LPIPS(pretrained=True, net="vgg", pnet_rand=True)


def pictures(seed: int, batch: int = 2, sides: tuple[int, int] = (48, 40)):
    return torch.rand(batch, 3, *sides, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_value_and_gradient_are_those_of_torchmetrics(network, reference):
    images, ours = pictures(0), pictures(1).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()

    values = network(ours, images)
    expected = reference(theirs, images).flatten()
    values.mean().backward()
    expected.mean().backward()

    assert values.shape == (2,)
    assert min(values.tolist()) > 0.01
    assert values.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-8)


def test_equal_pictures_are_at_no_distance_with_a_finite_gradient(network):
    images = pictures(0)
    same = images.clone().requires_grad_()
    values = network(same, images)
    values.sum().backward()
    assert values.tolist() == [0.0, 0.0]
    assert not same.grad.any()


def test_features_that_are_all_zero_give_a_finite_value_and_gradient(state, tmp_path):
    torch.save({name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()}, tmp_path / "zero.pth")
    reconstructions = pictures(1, 1, (16, 16)).requires_grad_()
    value = LPIPS(tmp_path / "zero.pth", FIELD)(reconstructions, pictures(0, 1, (16, 16)))
    value.backward()
    assert value.item() == 0.0
    assert not reconstructions.grad.any()


def test_gradient_reaches_the_reconstruction_and_nothing_else(network):
    images, reconstructions = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    network(reconstructions, images).sum().backward()
    assert reconstructions.grad.any()
    assert images.grad is None
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


def test_the_term_moves_the_whole_model(network):
    torch.manual_seed(0)
    model, images = (
        AutoencoderKL(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4)),
        pictures(0, 1, (16, 16)),
    )
    reconstructions, posterior = model(images)
    terms = autoencoder_terms(LossConfig(perceptual_weight=0.5), images, reconstructions, posterior, 0.0, network)
    terms["lpips"].weighted.backward()
    parts = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad.any()}
    assert parts == {"encoder", "quant_conv", "post_quant_conv", "decoder"}


def test_it_is_float32_under_autocast(network):
    images, reconstructions = pictures(0, 1), pictures(1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = network(reconstructions, images)
    assert within.dtype == torch.float32
    assert torch.equal(within, network(reconstructions, images))
    assert network(reconstructions.bfloat16(), images).dtype == torch.float32


def test_building_it_draws_from_no_global_generator(vgg16_file):
    before = torch.random.get_rng_state()
    LPIPS(vgg16_file, FIELD)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_format_before_torch_1_6_is_read_as_well(state, network, tmp_path):
    # in which torchvision publishes this file
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    images, reconstructions = pictures(0, 1, (16, 16)), pictures(1, 1, (16, 16))
    assert torch.equal(LPIPS(tmp_path / "old.pth", FIELD)(reconstructions, images), network(reconstructions, images))


def test_without_a_name_torchs_cache_is_read(vgg16_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints/vgg16-397923af.pth"
    cached.parent.mkdir(parents=True)
    os.link(vgg16_file, cached)
    assert VGG16.find(None, FIELD) == cached
    assert isinstance(LPIPS(None, FIELD), nn.Module)


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_absent_cache_names_the_file_its_address_and_the_field(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        LPIPS(None, FIELD)
    message = one_line(caught)
    assert str(tmp_path / "hub/checkpoints/vgg16-397923af.pth") in message
    assert VGG16.address == "https://download.pytorch.org/models/vgg16-397923af.pth"
    assert VGG16.address in message
    assert "loss.perceptual_weights" in message
    assert not list(tmp_path.iterdir())


def test_an_absent_file_is_named_with_the_field_and_the_address(tmp_path):
    with pytest.raises(UserError) as caught:
        LPIPS(str(tmp_path / "none.pth"), FIELD)
    assert f"loss.perceptual_weights {tmp_path / 'none.pth'}" in one_line(caught)
    assert VGG16.address in one_line(caught)


def test_missing_and_misshapen_tensors_are_listed(state, tmp_path):
    small = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()}
    del small["features.28.bias"]
    small["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    torch.save(small, tmp_path / "other.pth")
    with pytest.raises(UserError) as caught:
        LPIPS(tmp_path / "other.pth", FIELD)
    message = one_line(caught)
    assert "features.28.bias is missing" in message
    assert "features.0.weight is (64, 1, 3, 3) instead of (64, 3, 3, 3)" in message
    assert "features.2.weight" not in message


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_cut_short_anywhere_is_refused(new_format, tmp_path):
    torch.save({f"t{i}": torch.rand(5, 3) for i in range(4)}, tmp_path / "w", _use_new_zipfile_serialization=new_format)
    whole = (tmp_path / "w").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "w").write_bytes(whole[:length])
        with pytest.raises(UserError, match="w: cannot be read as weights"):
            LPIPS(tmp_path / "w", FIELD)


def test_a_file_of_something_else_is_refused(vgg16_file, tmp_path):
    contents = {"text": b"<html>not found</html>", "empty": b"", "cut": vgg16_file.read_bytes()[:100_000]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    torch.save([1, 2], tmp_path / "list")
    torch.save(nn.Linear(1, 1), tmp_path / "module")
    for name in (*contents, "list", "module"):
        with pytest.raises(UserError) as caught:
            LPIPS(tmp_path / name, FIELD)
        assert str(tmp_path / name) in one_line(caught)
        assert "loss.perceptual_weights" in one_line(caught)


def test_code_in_the_file_is_never_run(tmp_path):
    torch.save({"features.0.weight": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth"):
        LPIPS(tmp_path / "evil.pth", FIELD)
    assert not (tmp_path / "ran").exists()
