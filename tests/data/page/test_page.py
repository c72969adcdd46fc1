"""The page about a prepared set: its numbers, its pictures, its bounds."""

import base64
import colorsys
import io
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pikavae.data.page.facts import DuplicatePair
from tests.data.page.conftest import CASES, document_of, facts_of, noise, picture
from tests.support.pages import Page, plain
from tests.support.places import EMOJI


def percent_of(part, whole):
    share = 100 * part / whole
    return (f"{share:.1f}".removesuffix(".0") if share < 10 else f"{share:.0f}") + " %"


def test_the_headline_counts_what_is_used_and_what_is_not():
    pictures = [picture(i, side) for i, side in enumerate(["train"] * 7 + ["validation"] * 2 + ["dropped"] * 3)]
    pairs = [DuplicatePair(0, 8, 3), DuplicatePair(1, 2, 0, exact=True)]
    page = Page(
        document_of(
            facts_of(pictures, set_aside=[("x", "empty file")], near_duplicates=pairs, num_exact_duplicates=1), noise
        )
    )
    assert page.definitions == {
        "pictures": "9",
        "train": "7",
        "validation": "2",
        "dropped": "3",
        "set aside": "1",
        "near-duplicate pairs": "2",
        "exact copies": "1",
    }
    assert page.findings["1 of 13 files (7.7 %) could not be used and was set aside."] == "check"
    assert page.findings["3 pictures could be read but are on neither side (dropped)."] == "note"
    assert page.findings["1 picture is an exact copy of another."] == "note"
    assert page.findings["1 pair of near-duplicates lies within one side."] == "note"


def test_colours_are_those_of_all_pixels():
    stack = np.stack([noise(i) for i in range(9)])
    stack[:, :4] = (10, 200, 30)
    page = Page(document_of(facts_of([picture(i) for i in range(9)]), lambda i: stack[i]))
    pixels = stack.reshape(-1, 3) / 255
    for name, values in zip(("red", "green", "blue"), pixels.T, strict=True):
        assert page.row(name) == [f"{values.mean():.3f}", f"{values.std():.3f}"]
    share = Counter(map(tuple, stack.reshape(-1, 3).tolist()))[10, 200, 30] / len(pixels)
    assert f"The most frequent colour, #0ac81e, fills {100 * share:.0f} % of the pixels." in page.text
    luma = [(299 * r + 587 * g + 114 * b) // 1000 // 8 for r, g, b in stack.reshape(-1, 3).tolist()]
    saturation = [min(int(colorsys.rgb_to_hsv(*pixel)[1] * 32 + 1e-9), 31) for pixel in pixels.tolist()]
    for k in (17, 20):
        assert [percent_of(luma.count(k), len(pixels))] in [
            [plain(cell) for cell in row[1:]] for row in page.rows if row[0] == f"{k / 32:.2f} to {(k + 1) / 32:.2f}"
        ]
    for k in (28, 30):
        assert [percent_of(saturation.count(k), len(pixels))] in [
            [plain(cell) for cell in row[1:]] for row in page.rows if row[0] == f"{k / 32:.2f} to {(k + 1) / 32:.2f}"
        ]


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji are not beside the checkout")
def test_colours_of_the_emoji_are_those_that_are_known_of_them():
    from pyarrow import parquet

    rows = parquet.read_table(EMOJI / "train.parquet", columns=["image"])["image"]

    def pixels(i):
        with Image.open(io.BytesIO(rows[i]["bytes"].as_py())) as image:
            return np.asarray(image.convert("RGB"))

    page = Page(document_of(facts_of([picture(i) for i in range(len(rows))]), pixels))
    known = {"red": (0.870, 0.237), "green": (0.806, 0.267), "blue": (0.781, 0.304)}
    for name, values in known.items():
        assert [float(cell) for cell in page.row(name)] == pytest.approx(values, abs=0.0015)
    assert "white (#ffffff), fills 54 % of the pixels" in page.text


def test_sizes_stand_in_half_octaves_and_small_ones_are_warned_of():
    sides = [31, 32, 45, 46, 63, 64, 64, 90, 91, 128, 1000]
    pictures = [picture(i, width=side, height=side + i) for i, side in enumerate(sides)]
    page = Page(document_of(facts_of(pictures), noise))
    expected = Counter(math.floor(2 * math.log2(side / 64)) for side in sides)
    for label, index in [("23 to 31 px", -3), ("32 to 45 px", -2), ("46 to 63 px", -1), ("64 to 90 px", 0)]:
        assert page.row(label) == [str(expected[index])]
    assert [page.row(label) for label in ("91 to 127 px", "128 to 181 px")] == [["1"], ["1"]]
    assert sum(value == "bar warns" for tag, name, value in page.attributes if (tag, name) == ("rect", "class")) == 3
    assert page.findings[
        "5 pictures (45 %) were scaled up to 64 px and so hold less detail than that size can show."
    ] == ("check")
    kept = sum(side / (side + i) for i, side in enumerate(sides)) / len(sides)
    assert "The shorter side has from 31 to 1,000 px, the median is 64. 5 pictures (45 %) had" in page.text
    assert f"1 picture (9.1 %) is square. The centre square keeps {100 * kept:.0f} % of the area" in page.text


def test_shapes_stand_in_quarter_octaves_around_the_square():
    shapes = [(64, 64), (100, 100), (128, 64), (64, 128), (90, 64), (6400, 64), (64, 6400)]
    page = Page(document_of(facts_of([picture(i, width=w, height=h) for i, (w, h) in enumerate(shapes)]), noise))
    assert page.row("0.92 to 1.09") == ["2"]
    assert page.row("1.83 to 2.18") == ["1"]
    assert page.row("0.46 to 0.55") == ["1"]
    assert page.row("1.30 to 1.54") == ["1"]
    assert page.row("7.34 and more") == ["1"]
    assert page.row("0.14 and less") == ["1"]


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([3, 3, 76, 77, 78, 80], {"3 tokens": 2, "76 tokens": 1, "77 tokens": 1, "78 tokens": 1, "80 tokens": 1}),
        ([4, 5, 76, 77, 78, 79, 150], {"4 to 5 tokens": 2, "76 to 77 tokens": 2, "78 to 79 tokens": 2}),
        ([77, 78, 9000], {"74 to 77 tokens": 1, "78 to 81 tokens": 1, "306 tokens and more": 1}),
    ],
)
def test_no_bar_of_lengths_holds_both_whole_and_cut_captions(lengths, rows):
    pictures = [picture(i, caption=f"ball {i}", num_tokens=length) for i, length in enumerate(lengths)]
    page = Page(document_of(facts_of(pictures), noise))
    assert {label: int(page.row(label)[0]) for label in rows} == rows
    num_cut = sum(length > 77 for length in lengths)
    assert any(re.match(rf"{num_cut} captions? \(\d+ %\) (is|are) cut at 77 tokens\.", text) for text in page.findings)


def test_words_are_counted_once_a_caption_and_the_smallest_are_left_out():
    captions = ["The red ball", "red Red RED", "a ball on the woman\u2019s hat", "", "цветы"]
    page = Page(document_of(facts_of([picture(i, caption=c) for i, c in enumerate(captions)]), noise))
    start = page.text.index("ball 2 red 2")
    assert page.text[start:].startswith("ball 2 red 2 hat 1 woman\u2019s 1 цветы 1 Most frequent words.")
    assert page.findings["1 picture (20 %) has no caption."] == "note"
    assert "4 captions, no two alike." in page.text
    assert "A caption has always 5 tokens. No caption is cut." in page.text


def test_a_caption_that_many_pictures_share_is_called_out():
    captions = ["a sprite"] * 3 + [f"sprite {i}" for i in range(7)]
    page = Page(document_of(facts_of([picture(i, caption=c) for i, c in enumerate(captions)]), noise))
    assert page.findings["3 pictures (30 %) have the same caption, “a sprite”."] == "check"
    assert "10 captions, 8 of them different." in page.text


def test_pairs_across_the_sides_come_first_and_are_flagged():
    pictures = [picture(i, "validation" if i % 10 == 9 else "train", caption=f"ball {i}") for i in range(60)]
    within = [DuplicatePair(i, i + 1, 1) for i in range(0, 40, 10)] + [DuplicatePair(30, 31, 0, exact=True)]
    across = [DuplicatePair(0, 9, 7), DuplicatePair(19, 20, 2)]
    page = Page(document_of(facts_of(pictures, near_duplicates=within + across), noise))
    assert (
        page.findings[
            "2 pairs of near-duplicates lie across train and validation: "
            "the model is judged on pictures that it has all but seen."
        ]
        == "check"
    )
    assert re.findall(r"distance \d|equal pixels", page.text.replace("across", "")) == [
        "distance 2", "distance 7", "equal pixels", *["distance 1"] * 4,
    ]  # fmt: skip
    assert page.text.count("across train and validation") == 4  # finding, lead and two flags
    assert page.alts[-14:-10] == ["ball 19", "ball 20", "ball 0", "ball 9"]


def test_a_dropped_picture_is_shown_only_in_a_pair():
    pictures = [picture(0), picture(1, "dropped", caption="dropped ball"), picture(2, "dropped")]
    asked = []
    page = Page(
        document_of(facts_of(pictures, near_duplicates=[DuplicatePair(0, 1, 0)]), lambda i: asked.append(i) or noise(i))
    )
    assert set(asked) == {0, 1}
    assert page.alts == ["a red ball", "a red ball", "dropped ball"]
    assert "No pair of near-duplicates lies across train and validation." in page.findings


def test_files_set_aside_are_grouped_and_no_more_than_200_are_named():
    set_aside = [(f"broken-{i:04d}.png", "cut short") for i in range(500)] + [("one.tif", "no known range")]
    page = Page(document_of(facts_of([picture()], set_aside=set_aside), noise))
    assert len(re.findall(r"broken-\d{4}", page.text)) == 200
    assert "cut short 500 files" in page.text
    assert "… and 300 files more." in page.text
    assert "no known range 1 file" in page.text


def test_changes_notes_and_settings_are_tabled():
    pictures = [picture(i, changes=("turned upright",) if i < 3 else ()) for i in range(12)]
    page = Page(
        document_of(facts_of(pictures, notes={"shortened": 1_234}, settings={"data.background": "(0, 0, 0)"}), noise)
    )
    assert page.row("turned upright") == ["3", "25 %"]
    assert page.row("shortened") == ["1,234"]
    assert page.row("data.background") == ["(0, 0, 0)"]
    assert page.row("fingerprint") == ["0123456789abcdef"]


def test_all_white_and_all_black_are_called_plain():
    for name, colour in [("all white", "white (#ffffff)"), ("all black", "black (#000000)")]:
        page = Page(document_of(*CASES[name]))
        assert page.findings["5 pictures of 5 sampled are of one single colour."] == "check"
        assert f"{colour}, fills 100 % of the pixels. Every picture is grey throughout." in page.text


def test_thumbnails_show_the_pictures():
    red = np.zeros((200, 200, 3), np.uint8)
    red[..., 0] = 200
    document = document_of(facts_of([picture()], image_size=200), lambda i: red)
    (source,) = [v for _, name, v in Page(document).attributes if name == "src"]
    with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as image:
        assert image.format == "WEBP"
        assert image.size == (128, 128)
        np.testing.assert_allclose(np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0), (200, 0, 0), atol=4)


def test_the_contact_sheet_tells_the_sides_apart_and_is_even():
    pictures = [picture(i, "validation" if i % 10 == 0 else "train", caption=str(i)) for i in range(2_000)]
    page = Page(document_of(facts_of(pictures), lambda i: noise(i, 4)))
    assert "Train 72 of 1,800" in page.text
    assert "Validation 24 of 200" in page.text
    shown = [int(alt) for alt in page.alts]
    assert all(i % 10 for i in shown[:72])
    assert not any(i % 10 for i in shown[72:])
    for part in (shown[:72], shown[72:]):
        steps = np.diff(part)
        assert steps.min() > 0
        assert steps.max() - steps.min() <= 20


def test_few_train_pictures_leave_the_sheet_to_validation():
    pictures = [picture(i, "train" if i < 10 else "validation") for i in range(300)]
    page = Page(document_of(facts_of(pictures), lambda i: noise(i, 4)))
    assert "Train 10 of 10" in page.text
    assert "Validation 86 of 290" in page.text


def test_a_large_set_costs_a_bounded_number_of_pictures_and_bytes():
    some = [np.repeat(noise(i, 128)[..., :1] // 128 * 255, 3, axis=2) for i in range(8)]  # nothing packs worse
    asked = Counter()

    def pixels(i):
        asked[i] += 1
        return some[i % len(some)]

    long = '"&<' * 400
    sides = ["validation" if i % 11 == 0 else "train" for i in range(20_000)]
    pictures = [
        replace(picture(i, side, caption=f"{i} {long}", num_tokens=i % 500), name=long) for i, side in enumerate(sides)
    ]
    facts = facts_of(
        pictures,
        title=long,
        source=long,
        set_aside=[(long, f"{i % 300} {long}") for i in range(5_000)],
        near_duplicates=[DuplicatePair(i, i + 1, i % 9) for i in range(5_000)],
        notes={f"{i} {long}": i for i in range(300)},
        settings={f"{i} {long}": long for i in range(300)},
    )
    document = document_of(facts, pixels)
    assert sum(asked.values()) <= 2_000 + 96 + 48
    assert len(document.encode()) < 3_000_000
    page = Page(document)
    assert len(page.alts) == 96 + 48
    assert max(len(value) for _, name, value in page.attributes if name == "src") <= 15_000
    assert "2,000 pictures taken at equal distances from 20,000" in page.text


def test_a_set_without_a_picture_on_a_side_is_refused():
    with pytest.raises(ValueError, match="at least one picture"):
        document_of(facts_of([picture(side="dropped")]), noise)
