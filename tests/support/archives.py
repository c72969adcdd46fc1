"""Archives of pictures, written and read."""

import io
import tarfile
import zipfile

from pikavae.config import DataConfig
from pikavae.data.files.memo import HashMemo
from pikavae.data.sources.open import open_sources
from tests.support.pictures import png

PICTURES = {
    name: content for i in range(6) for name, content in ((f"{i}.png", png(i)), (f"{i}.txt", b"caption %d" % i))
}


def tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def sources(path, home, **fields):
    return open_sources(DataConfig(source=str(path), **fields), HashMemo(home / "prepared"))


def captions_of(source):
    return {picture.name: picture.caption for chunk in source.chunks(1000) for picture in chunk.pictures()}
