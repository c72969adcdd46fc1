"""Inception's features against torch-fidelity's own network, and the file that its weights come from."""

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pikavae.errors import UserError
from pikavae.features.inception import InceptionFeatures
from pikavae.features.published import INCEPTION, INCEPTION_FIELD
from tests.support.networks import Touch


def test_features_are_those_of_torch_fidelity_and_nothing_global_is_drawn(inception_file):
    images = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = FeatureExtractorInceptionV3("reference", ["2048"], str(inception_file))
    before = torch.random.get_rng_state()
    network = InceptionFeatures(inception_file, INCEPTION_FIELD)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.inference_mode():
        features, (expected,) = network(images), reference(images)
    assert features.dtype == torch.float32
    assert features.shape == (2, 2048)
    assert features.std(dim=0).mean() > 1e-3
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * expected.std().item())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


def test_weights_of_another_network_are_refused_with_what_is_missing(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(UserError) as caught:
        InceptionFeatures(tmp_path / "vgg.pth", INCEPTION_FIELD)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert message.startswith(f"{tmp_path / 'vgg.pth'}: not the weights of FID's Inception v3")
    assert "Conv2d_1a_3x3.conv.weight" in message
    assert INCEPTION.address in message
    assert INCEPTION_FIELD in message


def test_code_in_the_file_is_never_run(tmp_path):
    torch.save({"fc.bias": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth: cannot be read as weights"):
        InceptionFeatures(tmp_path / "evil.pth", INCEPTION_FIELD)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_is_refused(inception_file, tmp_path):
    whole = inception_file.read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "page": b"<html>not found</html>"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: cannot be read as weights saved by torch"):
            InceptionFeatures(tmp_path / name, INCEPTION_FIELD)
