"""HEIC, JPEG XL and AVIF: what Pillow's plugins give, what a file may not do, and what is said where one is missing."""

import io
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from pikavae.config import DataConfig
from pikavae.data.pictures import plugins
from pikavae.data.pictures.decode import UnreadablePictureError, decode
from pikavae.data.prepare import prepare
from pikavae.data.shards.make import processing
from pikavae.errors import UserError

SMOOTH = np.stack(np.meshgrid(np.linspace(20, 230, 48), np.linspace(30, 200, 32)), axis=-1)
PIXELS = np.dstack([SMOOTH, 255 - SMOOTH[..., :1]]).astype(np.uint8)
"""(32, 48, 3), no two corners alike."""
WHITE = (255, 255, 255)
KINDS: dict[str, dict[str, Any]] = {"HEIF": {"quality": 95}, "JXL": {"lossless": True}, "AVIF": {"quality": 95}}


@pytest.fixture(scope="module", autouse=True)
def registered():
    assert all(plugins.load(kind) for kind in plugins.PLUGINS)


def encoded(kind, pixels=PIXELS, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **KINDS[kind], **options)
    return buffer.getvalue()


def seen(content, max_pixels=10**6):
    return np.asarray(decode(content, WHITE, max_pixels).image).astype(int)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_its_colours_and_size(kind):
    found = seen(encoded(kind))
    assert found.shape == PIXELS.shape
    assert np.abs(found - PIXELS).mean() < 4
    assert (found == seen(encoded(kind))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_transparency_is_laid_over_the_background(kind):
    found = seen(encoded(kind, np.dstack([PIXELS, np.zeros((32, 48), np.uint8)])))
    assert np.abs(found - 255).max() < 4


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_turned_picture_is_upright(kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    found = seen(encoded(kind, exif=exif.tobytes()))
    assert found.shape == (48, 32, 3)
    assert np.abs(found - np.rot90(PIXELS, -1)).mean() < 4


def test_the_exif_of_jpeg_xl_turns_nothing_but_that_of_a_jpeg_within_does():
    """The header of JPEG XL has the orientation, and its standard says that EXIF is to be ignored."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert seen(encoded("JXL", exif=exif.tobytes())).shape == (32, 48, 3)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (32, 48), (200, 300), (256, 16), (1000, 3), (600, 1200)])
@pytest.mark.parametrize("container", [False, True])
def test_the_header_of_jpeg_xl_tells_its_size(shape, container):
    content = encoded("JXL", np.zeros((*shape, 3), np.uint8), use_container=container)
    assert plugins.jxl_size(content) == shape[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_pixels_are_refused_before_they_are_decoded(kind, monkeypatch):
    content = encoded(kind)
    if kind == "JXL":
        monkeypatch.setattr(Image, "open", None)
    with pytest.raises(UnreadablePictureError, match="more than 1,535 pixels"):
        decode(content, WHITE, 1535)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_a_reason_of_one_line(kind):
    content = encoded(kind, np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    generator = np.random.default_rng(2)
    for _ in range(40):
        damaged = bytearray(content)
        for place in generator.integers(12, len(content), 6):
            damaged[place] ^= int(generator.integers(1, 256))
        for attempt in (bytes(damaged), content[: generator.integers(1, len(content))]):
            try:
                seen(attempt)
            except UnreadablePictureError as error:
                assert len(str(error).splitlines()) == 1  # noqa: PT017
                assert len(str(error)) < 150  # noqa: PT017


def fill(folder, **more):
    folder.mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        kind = ("HEIF", "JXL", "AVIF")[i % 3]
        (folder / f"{i}.{('heic', 'jxl', 'avif')[i % 3]}").write_bytes(encoded(kind, pixels))
        (folder / f"{i}.txt").write_text(f"caption {i}")
    return folder


def test_a_folder_of_them_is_prepared_with_its_captions_in_bounded_processes(tmp_path):
    folder = fill(tmp_path / "folder")
    (folder / "named.jpg").write_bytes((folder / "0.heic").read_bytes())
    (folder / "unnamed").write_bytes((folder / "3.heic").read_bytes())
    prepared, _ = prepare(DataConfig(source=str(folder), image_size=16), tmp_path / "prepared")
    assert (prepared.record.num_images, prepared.record.num_quarantined) == (8, 0)
    assert sorted(filter(None, prepared.train.captions + prepared.validation.captions)) == [
        f"caption {i}" for i in range(6)
    ]


def test_a_missing_plugin_is_named_with_what_installs_it(tmp_path, monkeypatch):
    content = encoded("HEIF")
    monkeypatch.setattr(plugins, "load", lambda kind: False)
    with pytest.raises(UnreadablePictureError, match=r"HEIC, which needs a plugin: pip install pillow-heif \(or"):
        decode(content, WHITE, 10**6)
    with pytest.raises(UnreadablePictureError, match="JPEG XL, which needs a plugin: pip install pillow-jxl-plugin"):
        decode(encoded("JXL"), WHITE, 10**6)


def test_the_version_of_a_plugin_is_part_of_the_key():
    assert processing()["version of pillow-heif"] == pillow_heif.__version__
    assert "version of pillow-jxl-plugin" in processing()


def test_pictures_that_need_a_plugin_stop_a_preparation_with_the_remedy(tmp_path, monkeypatch):
    """In this process, as worker processes would say it."""
    folder = fill(tmp_path / "folder")
    monkeypatch.setattr(plugins, "load", lambda kind: False)
    monkeypatch.setattr(
        "pikavae.data.prepare.map_in_processes", lambda function, jobs, **_: (function(job) for job in jobs)
    )
    with pytest.raises(
        UserError, match=r"4 of 6 pictures would be missing; 4 cannot be read \(0\.heic and 1 more: HEIC, which"
    ):
        prepare(DataConfig(source=str(folder), image_size=16), tmp_path / "prepared")
