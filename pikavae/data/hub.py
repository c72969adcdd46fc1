"""Data sets and tokenizers of the Hugging Face hub, and what is said when they cannot be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from pikavae.config import DataConfig
from pikavae.data.rows import SourcePicture, rows_of
from pikavae.errors import UserError

OFFLINE_REMEDY = "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder or Parquet files of your own"
TIMEOUT_SECONDS = 10.0


@contextmanager
def one_line_errors(field: str, name: str) -> Iterator[None]:
    """Turn what the hub's library raises into one line with the remedy."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{field} {name!r}: gated; accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{field} {name!r}: not on the hub (withdrawn, misspelt, or private without a login); "
            f"name another, or a folder or Parquet files of your own"
        ) from None
    except HFValidationError:
        raise UserError(f"{field} {name!r}: no hub id; it has the form ORG/NAME") from None
    except OfflineModeIsEnabled:
        raise UserError(f"{field} {name!r}: the hub is switched off by HF_HUB_OFFLINE; {OFFLINE_REMEDY}") from None
    except HfHubHTTPError as error:
        raise UserError(f"{field} {name!r}: the hub answered {error.response.status_code}; {OFFLINE_REMEDY}") from None
    except OSError as error:
        raise UserError(f"{field} {name!r}: the hub cannot be reached ({_reason(error)}); {OFFLINE_REMEDY}") from None


def _reason(error: OSError) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


class HubSource:
    """One split of a data set of the hub, at the revision that it has now."""

    def __init__(self, name: str, config: DataConfig, field: str) -> None:
        self.name, self.config, self.field = name, config, field

    @cached_property
    def revision(self) -> str:
        """The commit of the data set."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError

        with one_line_errors(self.field, f"hub:{self.name}"):
            try:
                return str(HfApi().dataset_info(self.name, timeout=TIMEOUT_SECONDS).sha)
            except HTTPError as error:
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(str(error)) from None

    def content(self) -> Mapping[str, Any]:
        """The data set, its split and its revision, which stands for all its files."""
        return {f"hub:{self.name} {self.config.split}": self.revision}

    def count(self) -> None:
        """Not known before the data set is loaded."""

    def pictures(self) -> Iterator[SourcePicture]:
        """The rows of the split."""
        import datasets

        with one_line_errors(self.field, f"hub:{self.name}"):
            try:
                dataset = datasets.load_dataset(self.name, split=self.config.split, revision=self.revision)
            except ValueError as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"data.split {self.config.split!r}: {reason}") from None
        yield from rows_of(dataset, self.config, f"hub:{self.name}")
