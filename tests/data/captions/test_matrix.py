"""Every way that people store captions with every mistake: all are read, or it is said that they are not."""

import pytest

from tests.faults.captions import MISTAKES, NUMBER, WAYS, outcome

METADATA = [way for way in WAYS if way.startswith("metadata.")]
OTHER_LISTS = ["meta_cap.json", "COCO's json", "captions.csv", "captions.txt"]
BESIDE = ["000.txt", "000.caption", "000.json"]
NONE_READ = "No picture has a caption"
LIKENED = "4 pictures have the caption of a row that names another file, which is not there"
SAID = {  # the sentence of the cells that have one, and how many captions are right
    **{("IMG_0 for img_0", way): (NUMBER, LIKENED) for way in [*METADATA, *OTHER_LISTS]},
    **{("list above", way): (NUMBER, LIKENED) for way in [*METADATA, *OTHER_LISTS]},
    **{("Windows-1252", way): (NUMBER, "read as Windows-1252; save") for way in WAYS if way != "000.json"},
    **{("Shift JIS", way): (0, NONE_READ) for way in [*BESIDE, *OTHER_LISTS]},
    **{("Shift JIS", way): (0, "is not UTF-8; save the file as UTF-8") for way in METADATA},
    **{("out-of-date list", way): (NUMBER, f"4 rows of {way} name no picture that is there") for way in METADATA},
    **{
        ("text files differ", way): (NUMBER, "a row of a list counts before files") for way in [*METADATA, *OTHER_LISTS]
    },
    **{("text files differ", way): (0, "of these .txt before .caption before .json") for way in BESIDE},
    **{("cut short", way): (0, "") for way in ("000.txt", "000.caption")},  # a shorter text is a text
    **{("cut short", way): (2, "") for way in ("metadata.csv", "metadata.tsv", "captions.csv", "captions.txt")},
    **{("cut short", way): (0, NONE_READ) for way in ("000.json", "meta_cap.json", "COCO's json")},
    **{("cut short", way): (0, "not JSON") for way in ("metadata.jsonl", "metadata.json")},
    ("cut short", "metadata.parquet"): (0, "not a readable .parquet file, or damaged"),
    **{("all empty", way): (0, NONE_READ) for way in WAYS},
    **{("names of other files", way): (0, NONE_READ) for way in WAYS},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_captions_are_read_or_it_is_said(way, mistake, tmp_path):
    found = outcome(way, mistake, tmp_path)
    if found is None:
        return
    read, sentence = SAID.get((mistake, way), (NUMBER, ""))
    assert found.read == read, found
    assert sentence in " ".join([*found.said, found.refused]), found
    assert bool(sentence) == bool(found.said or found.refused), found
    for said in (*found.said, found.refused):
        assert str(tmp_path) not in said  # a folder that is moved is the same set
        assert len(said.splitlines()) <= 1
