"""Find, check and read files of weights that others publish.

Nothing is downloaded here, and no code in a file is ever run.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pikavae.errors import UserError
from pikavae.workspace.files import sha256_of
from pikavae.workspace.home import expand_user

# What torch.load raises on files that were cut short or altered, depending on where its reader fails
UNREADABLE = (
    OSError, EOFError, RuntimeError, pickle.UnpicklingError, struct.error,
    ValueError, LookupError, TypeError, AttributeError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class PublishedWeights:
    """Describes a file of weights and where it is published.

    Attributes:
        network: the name of the network, for messages.
        address: the file's URL. As in torch.hub, its name ends in the first digits of the file's SHA-256.
    """

    network: str
    address: str

    @property
    def name(self) -> str:
        """Return the file's name in torch.hub's cache."""
        return self.address.rsplit("/", 1)[-1]

    @property
    def cache_path(self) -> Path:
        """Return the path at which torch.hub keeps the file, even if it is not there."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name

    def find(self, named: str | Path | None, field: str) -> Path | None:
        """Return the file that `field` of the configuration names, else the one in torch's cache, else None.

        Raises:
            UserError: the named file is not there.
        """
        if named is None:
            return self.cache_path if self.cache_path.is_file() else None
        path = expand_user(named, field)
        if not path.is_file():
            raise UserError(f"{field} {named}: no such file; {self.address} is the one to name")
        return path

    def require(self, named: str | Path | None, field: str) -> Path:
        """Return the file that `find` finds.

        Raises:
            UserError: the file is not there.
        """
        path = self.find(named, field)
        if path is None:
            raise UserError(f"{field}: {self.cache_path} is missing; {self.remedy(field)}")
        return path

    def absence(self, field: str) -> str:
        """Say in a report why a number is missing, without an address: the report's page must not use the network."""
        return f"{self.cache_path} is missing; `pikavae doctor` says how to get it, or name a copy in {field}"

    def remedy(self, field: str) -> str:
        """Say what to do if the file is not there or is not the right one."""
        return f"put {self.address} there, or name a whole copy of it in {field}"

    def is_published(self, digest: str) -> bool:
        """Return True if a file of this digest is the published one."""
        return digest.startswith(Path(self.name).stem.rsplit("-", 1)[-1])

    def describe(self, path: Path) -> str:
        """Describe the network and the file of its weights, for protocols."""
        digest = digest_of(path)
        kind = "as published" if self.is_published(digest) else "not the published file"
        return f"{self.network} with the weights {digest} ({kind})"


VGG16 = PublishedWeights("VGG16", "https://download.pytorch.org/models/vgg16-397923af.pth")
INCEPTION = PublishedWeights(
    "FID's Inception v3",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
LPIPS_FIELD = "evaluation.lpips_weights"
INCEPTION_FIELD = "evaluation.inception_weights"
OF_EVALUATION = {LPIPS_FIELD: VGG16, INCEPTION_FIELD: INCEPTION}
"""The weights that measure reconstructions, by the setting that can name another file."""


def digest_of(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256, which identify it in keys and protocols."""
    return sha256_of(path)[:16]


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Read the tensors by name of a file that `torch.save` wrote, on the CPU; other entries are ignored.

    Raises:
        UserError: it is not such a file, or a number in it is not finite.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise UserError(f"{path}: cannot be read as weights saved by torch; {remedy}") from None
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    for name, value in tensors.items():
        if value.is_floating_point() and not value.sum(dtype=torch.float64).isfinite():  # a sum takes no memory
            raise UserError(f"{path}: {name} holds numbers that are not finite; {remedy}")
    return tensors


def take_tensors(path: Path, shapes: Mapping[str, torch.Size], network: str, remedy: str) -> dict[str, Tensor]:
    """Read tensors of these names and shapes from a file that `torch.save` wrote, float32, in the order of `shapes`.

    Raises:
        UserError: it is not such a file, or a tensor is missing or has another shape.
    """
    found = read_tensors(path, remedy)
    complaints = [f"{name} is missing" for name in shapes if name not in found] + [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    if complaints:
        raise UserError(f"{path}: not the weights of {network}: {', '.join(complaints)}; {remedy}")
    return {name: found[name].float() for name in shapes}
