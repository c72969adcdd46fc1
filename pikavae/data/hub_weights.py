"""Published weights on the Hugging Face hub: only the files that an autoencoder needs are downloaded."""

from __future__ import annotations

from pathlib import Path

from pikavae.data.hub import TIMEOUT_SECONDS, one_line_errors
from pikavae.errors import UserError

FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
WANTED = (  # tried in this order, the whole of one line before the next, so that nothing is downloaded twice
    (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "*model-*-of-*.safetensors",
    ),
    ("diffusion_pytorch_model.fp16.safetensors",),
    ("diffusion_pytorch_model.bin",),
)


def fetch_weights(name: str, *, field: str) -> Path:
    """Download a model's configuration and weights into the hub's cache, or find them there.

    Args:
        name: `ORG/NAME`, the folder of an autoencoder or a pipeline with one in `vae`; `ORG/NAME/folder`; or
            `ORG/NAME/file.safetensors`. A revision may follow: `ORG/NAME@main`.
        field: the dotted name of the setting, for messages.

    Returns:
        A folder or file for `read_published`; its path in the cache names the commit.

    Raises:
        UserError: no such repository, file or revision, no access, no network, or no weights in it.
    """
    place, _, revision = name.partition("@")
    owner, repository, inner = (*place.split("/", 2), "", "")[:3]
    if not owner or not repository:
        raise UserError(f"{field} {name!r}: no hub id; it has the form ORG/NAME, ORG/NAME/folder or ORG/NAME/file")
    repository = f"{owner}/{repository}"
    if inner.endswith(FILE_SUFFIXES):
        folder, line = _download(repository, revision, [inner], name, field), None
        if not (folder / inner).is_file():
            raise UserError(f"{field} {name!r}: no file {inner} in it; look at its files on the hub")
        return folder / inner
    for line in WANTED:
        patterns = [f"{start}{pattern}" for start in _starts(inner) for pattern in ("config.json", *line)]
        folder = _download(repository, revision, patterns, name, field) / inner
        for found in (folder, folder / "vae"):
            if (found / "config.json").is_file() and any((found / wanted).is_file() for wanted in line):
                return found
    raise UserError(f"{field} {name!r}: no autoencoder's folder in it; name its folder or file as ORG/NAME/folder")


def _starts(inner: str) -> list[str]:
    return [f"{inner}/", f"{inner}/vae/"] if inner else ["", "vae/"]


def _download(repository: str, revision: str, patterns: list[str], name: str, field: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    with one_line_errors(field, name):
        try:
            return Path(
                snapshot_download(
                    repository, revision=revision or None, allow_patterns=patterns, etag_timeout=TIMEOUT_SECONDS
                )
            )
        except RevisionNotFoundError:
            raise UserError(f"{field} {name!r}: no revision {revision!r}; look at its history on the hub") from None
        except LocalEntryNotFoundError as error:
            cause = error.__cause__
            if isinstance(cause, OSError):
                raise cause from None
            raise UserError(
                f"{field} {name!r}: not in the hub's cache, and the hub cannot be reached; check the network, "
                f"HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder or file of your own"
            ) from None
