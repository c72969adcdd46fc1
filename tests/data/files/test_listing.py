"""The parts of file names, against the standard library."""

import itertools
import os

from pikavae.data.files.listing import stem


def test_a_stem_is_what_splitext_gives():
    parts = ["", ".", "..", "a", "b.c", "/", "a/", ".x"]
    for words in itertools.product(parts, repeat=4):
        path = "".join(words)
        assert stem(path) == os.path.splitext(path)[0], path  # noqa: PTH122 - what is imitated
