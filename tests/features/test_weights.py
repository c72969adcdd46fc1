"""Files of weights: where they are looked for, and how a published one is told from others."""

import hashlib

import pytest
import torch

from pikavae.errors import UserError
from pikavae.features.published import INCEPTION, INCEPTION_FIELD, VGG16, PublishedWeights, digest_of, read_tensors


def test_a_file_is_the_published_one_by_its_hash(tmp_path):
    (tmp_path / "file").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    named = PublishedWeights("A network", f"https://example.org/net-1-{digest[:8]}.pth")
    assert digest_of(tmp_path / "file") == digest[:16]
    assert named.is_published(digest[:16])
    assert named.describe(tmp_path / "file") == f"A network with the weights {digest[:16]} (as published)"
    assert VGG16.describe(tmp_path / "file") == f"VGG16 with the weights {digest[:16]} (not the published file)"


def test_the_cache_is_looked_at_where_no_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert INCEPTION.find(None, INCEPTION_FIELD) is None
    cached = tmp_path / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    assert str(cached) in INCEPTION.absence(INCEPTION_FIELD)
    assert "evaluation.inception_weights" in INCEPTION.absence(INCEPTION_FIELD)
    assert INCEPTION.address in INCEPTION.remedy(INCEPTION_FIELD)
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert INCEPTION.find(None, INCEPTION_FIELD) == cached
    (tmp_path / "own").touch()
    assert INCEPTION.find(str(tmp_path / "own"), INCEPTION_FIELD) == tmp_path / "own"


def test_a_named_file_that_is_not_there_is_the_users_mistake_whatever_the_cache_holds(tmp_path):
    INCEPTION.cache_path.parent.mkdir(parents=True)
    INCEPTION.cache_path.touch()
    with pytest.raises(UserError, match=rf"evaluation\.inception_weights {tmp_path / 'none'}: no such file"):
        INCEPTION.find(str(tmp_path / "none"), INCEPTION_FIELD)


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    torch.save({"whole": torch.ones(2), "count": torch.tensor(3), "b": torch.tensor([1.0, torch.nan])}, tmp_path / "w")
    with pytest.raises(UserError, match="w: b holds numbers that are not finite; fetch it"):
        read_tensors(tmp_path / "w", "fetch it")
