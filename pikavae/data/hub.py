"""Data sets and tokenizers of the Hugging Face hub, and what is said when they cannot be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pikavae.config import DataConfig
from pikavae.data.columns import choose_caption, choose_image
from pikavae.data.rows import SetAside, SourcePicture
from pikavae.data.tables import COLUMNS, kinds_of, pictures_of
from pikavae.errors import UserError

OFFLINE_REMEDY = "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder or Parquet files of your own"
TIMEOUT_SECONDS = 10.0
ROWS_AT_ONCE = 16


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


@dataclass(frozen=True)
class HubChunk:
    """Some rows of a data set of the hub that was loaded into the cache.

    Attributes:
        rows: these rows as a `datasets.Dataset`; pickled, it is the names of memory-mapped files.
        name: `hub:ORG/NAME SPLIT`.
        revision: the commit of the data set.
        columns: those of pictures and captions.
        start: the number of the first row in the split.
        cache: the folder of the data set in the hub's cache. Of a data set that is an image folder, the rows are paths
            to files in it, as the hub's library wrote them; no other path is opened.
    """

    rows: Any
    name: str
    revision: str
    columns: tuple[str, str | None]
    start: int
    cache: str

    @property
    def content(self) -> Mapping[str, Any]:
        """The split and its revision, the rows, the columns."""
        return {self.name: self.revision, "rows": [self.start, self.start + self.count], COLUMNS: list(self.columns)}

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def pictures(self) -> Iterator[SourcePicture]:
        """In the order of the rows."""
        number = self.start
        for table in self.rows.with_format("arrow").iter(ROWS_AT_ONCE):
            yield from pictures_of(table, self.columns, "row", number, self._read_cached)
            number += len(table)

    def _read_cached(self, path: str) -> bytes | None:
        try:
            file = Path(path).resolve()
            return file.read_bytes() if file.is_relative_to(self.cache) else None
        except (OSError, ValueError):
            return None


class HubSource:
    """One split of a data set of the hub, at the revision that it has now."""

    set_aside: Sequence[SetAside] = ()

    def __init__(self, name: str, config: DataConfig, field: str) -> None:
        self.name, self.config, self.field = name, config, field
        self.ignored: Mapping[str, int] = {}

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
        """The data set, its split and its revision, which stands for all its files, and configured columns.

        What is guessed follows from the revision, so nothing has to be loaded for it.
        """
        configured = {"image": self.config.image_column, "caption": self.config.caption_column}
        columns = {name: column for name, column in configured.items() if column is not None}
        return {f"hub:{self.name} {self.config.split}": self.revision, **({COLUMNS: columns} if columns else {})}

    def count(self) -> None:
        """Not known before the data set is loaded."""

    def chunks(self, size: int) -> Iterator[HubChunk]:
        """Loads the data set into the cache, then `size` rows each."""
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = Path(HF_HUB_CACHE, f"datasets--{self.name.replace('/', '--')}").resolve()
        columns, name = (self._loaded.image, self._loaded.caption), f"hub:{self.name} {self.config.split}"
        for start in range(0, len(self._loaded.rows), size):
            rows = self._loaded.rows.select(range(start, min(start + size, len(self._loaded.rows))))
            yield HubChunk(rows, name, self.revision, columns, start, str(cache))

    @property
    def columns(self) -> Mapping[str, str | None]:
        """The columns of pictures and captions; loads the data set."""
        return {"image": self._loaded.image, "caption": self._loaded.caption}

    @cached_property
    def _loaded(self) -> _Loaded:
        import datasets

        where = f"hub:{self.name}"
        with one_line_errors(self.field, where):
            try:
                rows = datasets.load_dataset(self.name, split=self.config.split, revision=self.revision)
            except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
                if isinstance(error, OSError):
                    raise
                reason = " ".join(str(error).split())[:200]
                about_split = (
                    f"data.split {self.config.split!r}" if "split" in reason.lower() else f"{self.field} {where!r}"
                )
                raise UserError(f"{about_split}: {reason}") from None
        return choose_columns(rows, self.config, where)


@dataclass(frozen=True)
class _Loaded:
    rows: Any
    image: str
    caption: str | None


def choose_columns(rows: Any, config: DataConfig, where: str) -> _Loaded:
    """A `datasets.Dataset` with the columns of its pictures and captions, and without the others."""
    kinds = kinds_of(rows.features.arrow_schema, where)
    image = choose_image(kinds, config.image_column, where)
    caption = choose_caption(
        {name: kind for name, kind in kinds.items() if name != image}, config.caption_column, where
    )
    return _Loaded(rows.select_columns([name for name in (image, caption) if name is not None]), image, caption)
