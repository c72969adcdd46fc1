"""Downloads published weights from the Hugging Face hub, and only the files that an autoencoder needs."""

from __future__ import annotations

from pathlib import Path

from pikavae.data.sources.hub import OFFLINE_REMEDY, TIMEOUT_SECONDS, one_line_errors
from pikavae.errors import UserError

FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
WEIGHTS = "diffusion_pytorch_model"
WANTED = (  # weights in the order of preference, so only one format is downloaded
    (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.safetensors.index.json", f"{WEIGHTS}-*-of-*.safetensors"),
    (
        f"{WEIGHTS}.fp16.safetensors",
        f"{WEIGHTS}.safetensors.index.fp16.json",
        f"{WEIGHTS}.fp16-*-of-*.safetensors",
    ),
    (f"{WEIGHTS}.bin", f"{WEIGHTS}.bin.index.json", f"{WEIGHTS}-*-of-*.bin"),
    (f"{WEIGHTS}.fp16.bin", f"{WEIGHTS}.bin.index.fp16.json", f"{WEIGHTS}.fp16-*-of-*.bin"),
)
KINDS = (b'"AutoencoderKL"', b'"AutoencoderKLFlux2"', b'"AutoencoderTiny"')
OWN_WEIGHTS = "a folder or file of your own"


def fetch_weights(name: str, *, field: str) -> Path:
    """Download an autoencoder's configuration and weights into the hub's cache, or find them there.

    Args:
        name: `ORG/NAME`, an autoencoder's folder or a pipeline with one in `vae`; `ORG/NAME/folder`; or
            `ORG/NAME/file.safetensors`. A revision may follow: `ORG/NAME@main`.
        field: the dotted name of the setting, for messages.

    Returns:
        A folder or file for `read_published`; its path in the cache names the commit.

    Raises:
        UserError: there is no such repository, file or revision, no access, no network, or no autoencoder.
    """
    place, _, revision = name.partition("@")
    owner, repository, inner = (*place.split("/", 2), "", "")[:3]
    if not owner or not repository:
        raise UserError(f"{field} {name!r}: no hub id; it has the form ORG/NAME, ORG/NAME/folder or ORG/NAME/file")
    hub = Repository(f"{owner}/{repository}", revision, field, name)
    if inner.endswith(FILE_SUFFIXES):
        file = hub.download(inner) / inner
        if not file.is_file():
            raise UserError(f"{field} {name!r}: no file {inner} in it; look at its files on the hub")
        return file
    folders = [inner, f"{inner}/vae"] if inner else ["", "vae"]
    root = hub.download(*(_join(folder, "config.json") for folder in folders))
    for folder in folders:
        config = root / folder / "config.json"
        if config.is_file() and any(kind in config.read_bytes() for kind in KINDS):
            for files in WANTED:
                root = hub.download(*(_join(folder, file) for file in files))
                if any((root / folder / file).is_file() for file in files):
                    return root / folder
    raise UserError(
        f"{field} {name!r}: no folder of an AutoencoderKL or AutoencoderTiny in it; name its folder or file, "
        f"ORG/NAME/folder"
    )


def _join(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file


class Repository:
    """Downloads files of a hub repository; `own` is what the user may name instead."""

    def __init__(self, repository: str, revision: str, field: str, name: str, own: str = OWN_WEIGHTS) -> None:
        self.repository, self.revision, self.field, self.name = repository, revision or None, field, name
        self.own = own

    def download(self, *patterns: str) -> Path:
        """Return the commit's folder in the cache, with the existing files that match a pattern."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, RevisionNotFoundError

        with one_line_errors(self.field, self.name, self.own):
            try:
                return Path(
                    snapshot_download(
                        self.repository,
                        revision=self.revision,
                        allow_patterns=list(patterns),
                        etag_timeout=TIMEOUT_SECONDS,
                    )
                )
            except RevisionNotFoundError:
                raise UserError(
                    f"{self.field} {self.name!r}: no revision {self.revision!r}; look at its history on the hub"
                ) from None
            except LocalEntryNotFoundError:  # without an answer of the hub, the cache is used
                raise UserError(
                    f"{self.field} {self.name!r}: not in the hub's cache, and the hub gave no answer; "
                    f"{OFFLINE_REMEDY} {self.own}"
                ) from None
            except HTTPError as error:
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(str(error)) from None
