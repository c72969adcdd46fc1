"""Loads data sets of the Hugging Face hub, and explains errors of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pikavae.config import DataConfig
from pikavae.data.files.columns import choose_caption, choose_image, no_captions
from pikavae.data.files.rows import SetAside, SourcePicture
from pikavae.data.sources.tables import COLUMNS, kinds_of, pictures_of
from pikavae.errors import UserError
from pikavae.workspace.disks import explain

OFFLINE_REMEDY = "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name"
OWN_PICTURES = "a folder or Parquet files of your own"
TIMEOUT_SECONDS = 10.0
ROWS_AT_ONCE = 16
COMMIT = re.compile(r"[0-9a-f]{40}")


@contextmanager
def one_line_errors(field: str, name: str, own: str = OWN_PICTURES) -> Iterator[None]:
    """Turn errors of the hub's library into one line with the remedy; `own` is what the user may name instead."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    remedy = f"{OFFLINE_REMEDY} {own}"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{field} {name!r}: gated; accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{field} {name!r}: not on the hub (withdrawn, misspelt, or private without a login); "
            f"name another, or {own}"
        ) from None
    except HFValidationError:
        raise UserError(f"{field} {name!r}: no hub id; it has the form ORG/NAME") from None
    except OfflineModeIsEnabled:
        raise UserError(f"{field} {name!r}: the hub is switched off by HF_HUB_OFFLINE; {remedy}") from None
    except HfHubHTTPError as error:
        raise UserError(f"{field} {name!r}: the hub answered {error.response.status_code}; {remedy}") from None
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and (explained := explain(error, Path.home())) is not None:
            raise explained from None  # an error of the cache's disk
        raise UserError(f"{field} {name!r}: the hub cannot be reached ({_reason(error)}); {remedy}") from None


def _reason(error: OSError) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


@dataclass(frozen=True)
class HubChunk:
    """Reads some rows of a data set of the hub that was loaded into the cache.

    Attributes:
        rows: these rows as a `datasets.Dataset`; its pickle holds only the names of memory-mapped files.
        name: `hub:ORG/NAME SPLIT`.
        revision: the commit of the data set.
        columns: the columns of pictures and captions.
        start: the number of the first row in the split.
        cache: the folder of the data set in the hub's cache. If the data set is an image folder, the rows are paths to
            files in it, as the hub's library wrote them; no other path is opened.
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
        """The number of rows."""
        return len(self.rows)

    def pictures(self) -> Iterator[SourcePicture]:
        """Yield the pictures in the order of the rows."""
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
    """Provides one split of a hub data set, at the named revision (`ORG/NAME@REVISION`) or the current one."""

    set_aside: Sequence[SetAside] = ()
    warnings: Sequence[str] = ()
    captions: Mapping[str, int] = MappingProxyType({})

    def __init__(self, name: str, config: DataConfig, field: str) -> None:
        self.name, _, self.wanted = name.partition("@")
        self.config, self.field, self.where = config, field, f"hub:{name}"
        self.ignored: Mapping[str, int] = {}

    @cached_property
    def revision(self) -> str:
        """The commit of the data set. The hub is not asked about a full commit hash, so the cache is enough."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError, RevisionNotFoundError

        if COMMIT.fullmatch(self.wanted):
            return self.wanted
        with one_line_errors(self.field, self.where):
            try:
                info = HfApi().dataset_info(self.name, revision=self.wanted or None, timeout=TIMEOUT_SECONDS)
                return str(info.sha)
            except RevisionNotFoundError:
                raise UserError(
                    f"{self.field} {self.where!r}: no revision {self.wanted!r}; look at its history on the hub"
                ) from None
            except HTTPError as error:
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(str(error)) from None

    def content(self) -> Mapping[str, Any]:
        """Return the data set, its split, its revision, which stands for all its files, and configured columns.

        Guesses follow from the revision, so nothing needs to be loaded for them.
        """
        configured = {"image": self.config.image_column, "caption": self.config.caption_column}
        columns = {name: column for name, column in configured.items() if column is not None}
        return {self._part: self.revision, **({COLUMNS: columns} if columns else {})}

    @property
    def _part(self) -> str:
        """The data set, its configuration and its split, without the revision."""
        return " ".join(filter(None, (f"hub:{self.name}", self.config.hub_config, self.config.split)))

    def count(self) -> None:
        """Return None: the number is not known before the data set is loaded."""

    def chunks(self, size: int) -> Iterator[HubChunk]:
        """Load the data set into the cache, then yield chunks of `size` rows."""
        from huggingface_hub.constants import HF_HUB_CACHE

        cache = Path(HF_HUB_CACHE, f"datasets--{self.name.replace('/', '--')}").resolve()
        columns, name = (self._dataset.image, self._dataset.caption), self._part
        for start in range(0, len(self._dataset.rows), size):
            rows = self._dataset.rows.select(range(start, min(start + size, len(self._dataset.rows))))
            yield HubChunk(rows, name, self.revision, columns, start, str(cache))

    @property
    def loaded_warnings(self) -> Sequence[str]:
        """Warnings about unused splits or a missing column of captions; reading them loads the data set."""
        return self._dataset.warnings

    @property
    def columns(self) -> Mapping[str, str | None]:
        """The columns of pictures and captions; reading them loads the data set."""
        return {"image": self._dataset.image, "caption": self._dataset.caption}

    @cached_property
    def _dataset(self) -> _Dataset:
        import datasets

        where = self.where
        with one_line_errors(self.field, where):
            try:
                rows = datasets.load_dataset(
                    self.name, self.config.hub_config, split=self.config.split, revision=self.revision
                )
            except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
                if isinstance(error, OSError):
                    raise
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"{self._field_of(reason)}: {reason}") from None
        return choose_columns(rows, self.config, where)

    def _field_of(self, reason: str) -> str:
        """Return the setting that a message of the hub's library is about, with its value."""
        if "Config name is missing" in reason or "BuilderConfig" in reason:
            return f"data.hub_config {self.config.hub_config!r}"
        return f"data.split {self.config.split!r}" if "split" in reason.lower() else f"{self.field} {self.where!r}"


@dataclass(frozen=True)
class _Dataset:
    rows: Any
    image: str
    caption: str | None
    warnings: tuple[str, ...]


def choose_columns(rows: Any, config: DataConfig, where: str) -> _Dataset:
    """Keep only the columns of pictures and captions of a `datasets.Dataset`."""
    kinds = kinds_of(rows.features.arrow_schema, where)
    image = choose_image(kinds, config.image_column, where)
    caption = choose_caption(
        {name: kind for name, kind in kinds.items() if name != image}, config.caption_column, where
    )
    others = {name: kind for name, kind in kinds.items() if name != image}
    warnings = [no_captions(others, f"{where} has")] if caption is None else []
    warnings += _unused_splits(rows, config.split)
    columns = [name for name in (image, caption) if name is not None]
    return _Dataset(rows.select_columns(columns), image, caption, tuple(warnings))


def _unused_splits(rows: Any, split: str) -> list[str]:
    """Warn of unused splits of a data set; `split` may be one, parts of one, or a sum such as `train+test`."""
    used = {part.partition("[")[0].strip() for part in split.split("+")}
    unused = {} if "all" in used else {name: of for name, of in (rows.info.splits or {}).items() if name not in used}
    if not unused:
        return []
    named = ", ".join(f"{name} ({of.num_examples:,} pictures)" for name, of in unused.items())
    return [
        f"Not used: the split{'s' * (len(unused) > 1)} {named}; evaluate a model on one by naming it in data.split."
    ]
