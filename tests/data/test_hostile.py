"""The hostile set: each picture gives exactly its pixels and what was done, or exactly its reason."""

import random
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from pikavae.data.pictures.decode import UnreadablePictureError, decode
from tests.support.hostile.cases import CASES
from tests.support.hostile.files import TURNED, exif
from tests.support.hostile.picture import BACKGROUND, MAX_PIXELS, PICTURE, RGBA, encoded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_picture(case, capfd):
    content = case.make()
    if case.pixels is None:
        with pytest.raises(UnreadablePictureError) as refused:
            decode(content, BACKGROUND, MAX_PIXELS)
        expected, fixed, _ = case.reason.partition("...")
        assert str(refused.value)[: len(expected) if fixed else None] == expected
    else:
        decoded = decode(content, BACKGROUND, MAX_PIXELS)
        assert decoded.changes == case.changes
        assert decoded.image.mode == "RGB"
        assert decoded.image.info == {}
        assert decoded.size == decoded.image.size == case.pixels.shape[1::-1]
        difference = np.abs(np.asarray(decoded.image).astype(int) - case.pixels)
        assert difference.max() <= case.tolerance
    assert capfd.readouterr() == ("", "")


def test_the_hostile_set_is_large_and_its_names_are_unique():
    assert len(CASES) >= 110
    assert len({case.name for case in CASES}) == len(CASES)


WHOLE = [case for case in CASES if case.pixels is not None and case.pixels.size < 5000]
"""Small pictures of every format, to be damaged."""


def damaged(content, choice):
    """Cut short, with noise in a place, or with flipped bits, more often near the beginning."""
    content = bytearray(content)
    where = choice.choice([len(content), min(len(content), 200)])
    match choice.randrange(4):
        case 0:
            del content[choice.randrange(len(content)) :]
        case 1:
            start = choice.randrange(where)
            content[start : start + choice.randrange(40)] = choice.randbytes(choice.randrange(40))
        case _:
            for _ in range(choice.choice([1, 2, 8, 30])):
                content[choice.randrange(where)] ^= 1 << choice.randrange(8)
    return bytes(content)


@pytest.mark.parametrize("seed", range(4))
def test_damage_gives_a_picture_or_a_reason_and_the_same_again(seed):
    for case in WHOLE:
        content = case.make()
        if isinstance(content, Image.Image):
            continue
        content = damaged(content, random.Random(f"{seed} {case.name}"))
        assert outcome(content) == outcome(content), case.name


def outcome(content):
    """Size, pixels and changes, or the reason."""
    try:
        decoded = decode(content, BACKGROUND, MAX_PIXELS)
    except UnreadablePictureError as error:
        reason = str(error)
        assert reason
        assert len(reason.splitlines()) == 1
        assert len(reason) < 150
        return reason
    assert decoded.image.mode == "RGB"
    assert decoded.image.width * decoded.image.height <= MAX_PIXELS
    return decoded.size, decoded.image.tobytes(), decoded.changes


def test_pillows_limits_are_ours_meanwhile_and_others_afterwards(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    before = list(warnings.filters)
    whole = encoded(PICTURE)
    assert decode(whole, BACKGROUND, MAX_PIXELS).size == PICTURE.size
    for kind in ("PNG", "JPEG", "BMP", "PPM"):
        cut = encoded(PICTURE, kind)[:-30]
        with pytest.raises(UnreadablePictureError, match=f"{kind} is cut short"):
            decode(cut, BACKGROUND, MAX_PIXELS)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 5
    assert warnings.filters == before


def test_a_bomb_is_refused_before_it_takes_memory():
    tracemalloc.start()
    bombs = [case.make() for case in CASES if "bomb" in case.name]
    tracemalloc.reset_peak()
    for bomb in bombs:
        with pytest.raises(UnreadablePictureError, match="more than 250,000 pixels"):
            decode(bomb, BACKGROUND, MAX_PIXELS)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_drawn_picture_is_left_as_it_is():
    drawn = RGBA.copy()
    drawn.info["exif"] = exif(6)
    before = drawn.tobytes(), dict(drawn.info)
    decoded = decode(drawn, BACKGROUND, MAX_PIXELS)
    assert (drawn.tobytes(), drawn.info) == before
    plain = decode(PICTURE, BACKGROUND, MAX_PIXELS).image
    assert plain is not PICTURE
    assert decode(decoded.image, BACKGROUND, MAX_PIXELS).changes == ()


def test_a_picture_that_pillow_has_opened_but_not_decoded(tmp_path):
    path = tmp_path / "turned.tiff"
    path.write_bytes(encoded(PICTURE, "TIFF", tiffinfo={274: 6}))
    with Image.open(path) as opened:
        decoded = decode(opened, BACKGROUND, MAX_PIXELS)
    np.testing.assert_array_equal(np.asarray(decoded.image), TURNED[6])
    assert decoded.changes == ("rotated by EXIF",)
    path.write_bytes(encoded(PICTURE)[:-40])
    with Image.open(path) as opened, pytest.raises(UnreadablePictureError, match="picture is cut short"):
        decode(opened, BACKGROUND, MAX_PIXELS)


def test_reasons_name_no_path(tmp_path):
    path = tmp_path / "gone.png"
    path.write_bytes(encoded(PICTURE))
    opened = Image.open(path)
    opened.close()
    with pytest.raises(UnreadablePictureError) as refused:
        decode(opened, BACKGROUND, MAX_PIXELS)
    assert str(tmp_path) not in str(refused.value)


def test_worker_processes_that_decode_load_no_torch():
    code = "import sys, pikavae.data.pictures.decode; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
