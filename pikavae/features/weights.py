"""Files of weights that others publish: where they are looked for, whether they are what was published, their reading.

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
from pikavae.files import sha256_of

# What torch.load raises on files that were cut short or altered, by where in its reader it happens
UNREADABLE = (
    OSError, EOFError, RuntimeError, pickle.UnpicklingError, struct.error,
    ValueError, LookupError, TypeError, AttributeError, AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights and who publishes it.

    Attributes:
        network: what the weights are of, for messages.
        address: of the file. Its name ends, as torch.hub has it, in the first digits of the file's SHA-256.
    """

    network: str
    address: str

    @property
    def name(self) -> str:
        """The file's name, under which torch.hub keeps it."""
        return self.address.rsplit("/", 1)[-1]

    @property
    def cached(self) -> Path:
        """Where torch.hub keeps the file, whether it is there or not."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name

    def find(self, named: str | Path | None, field: str) -> Path | None:
        """The file that `field` of the configuration names, or else that in torch's cache; None where it is not there.

        Raises:
            UserError: the named file is not there.
        """
        if named is None:
            return self.cached if self.cached.is_file() else None
        path = Path(named).expanduser()
        if not path.is_file():
            raise UserError(f"{field} {named}: no such file; {self.address} is the one to name")
        return path

    def require(self, named: str | Path | None, field: str) -> Path:
        """The file that `find` finds.

        Raises:
            UserError: it is not there.
        """
        path = self.find(named, field)
        if path is None:
            raise UserError(f"{field}: {self.cached} is missing; {self.remedy(field)}")
        return path

    def absence(self, field: str) -> str:
        """Why there is no number, for a report: it holds no address, since its page asks nothing of the network."""
        return f"{self.cached} is missing; `pikavae doctor` says how to get it, or name a copy in {field}"

    def remedy(self, field: str) -> str:
        """What to do where the file is not there, or is not what it should be."""
        return f"put {self.address} there, or name a whole copy of it in {field}"

    def is_published(self, digest: str) -> bool:
        """Whether a file of this digest is the published one."""
        return digest.startswith(Path(self.name).stem.rsplit("-", 1)[-1])

    def described(self, path: Path) -> str:
        """The network and the file that its weights are from, as protocols have it."""
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
"""The weights that measure reconstructions, by the setting that names a file of one's own."""


def digest_of(path: Path) -> str:
    """What stands for a file of weights in keys and protocols: the first 16 hexadecimal digits of its SHA-256."""
    return sha256_of(path)[:16]


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """The tensors by name in a file that `torch.save` wrote, on the CPU; other entries are left.

    Raises:
        UserError: not such a file, or some number in it is not finite.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise UserError(f"{path}: cannot be read as weights saved by torch; {remedy}") from None
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    for name, value in tensors.items():
        if value.is_floating_point() and not value.sum(dtype=torch.float64).isfinite():  # takes no memory
            raise UserError(f"{path}: {name} holds numbers that are not finite; {remedy}")
    return tensors


def take_tensors(path: Path, shapes: Mapping[str, torch.Size], network: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of these names and shapes in a file that `torch.save` wrote, float32, in the order of `shapes`.

    Raises:
        UserError: not such a file, or some tensor is missing or of another shape.
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
