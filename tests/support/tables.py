"""Tables of pictures, written and read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pikavae.config import DataConfig
from pikavae.data.sources.open import open_source
from pikavae.errors import UserError

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def content(number):
    return b"\x89PNG\r\n\x1a\n%d" % number


def table(numbers=range(3), **columns):
    """A column `image` of structs, and others."""
    images = pa.array([{"bytes": content(i), "path": f"{i}.png"} for i in numbers], STRUCT)
    return pa.table({"image": images, **columns})


def write(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(rows, path, **options)
    else:
        form = pa.ipc.new_file if options.pop("file_format", False) else pa.ipc.new_stream
        compression = options.pop("compression", None)
        with form(str(path), rows.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(rows, **options)
    return path


def opened(path, **fields):
    return open_source(str(path), DataConfig(source=str(path), **fields), "data.source")


def pictures_of(source, size=100):
    return [picture for chunk in source.chunks(size) for picture in chunk.pictures()]


def contents_of(source, size=100):
    return [picture.content for picture in pictures_of(source, size)]


def refused(path, **fields):
    """The one line that opening and reading gives."""
    with pytest.raises(UserError) as caught:
        pictures_of(opened(path, **fields))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)
