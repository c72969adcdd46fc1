"""Which code moves which key: words none, a constant exactly the rows of its file, and no row lacks a file it needs."""

import shutil
from pathlib import Path
from typing import get_args

import grimp
import pytest

from pikavae.workspace import provenance
from pikavae.workspace.provenance import DECIDED_BY, NOT_DECIDING, PACKAGE, Result, code_of, syntax_hash

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
RESULTS = get_args(Result)

ENTRIES = {
    "sprites": ["pikavae.data.sprites.draw"],
    "shard": ["pikavae.data.shards.make"],
    "prepared set": ["pikavae.data.prepare"],
    "training": ["pikavae.training.worker"],
    "evaluation": ["pikavae.evaluation.evaluate"],
    "registration": ["pikavae.registry.package", "pikavae.registry.serving"],
    "import": ["pikavae.weights.published"],
    "latents": ["pikavae.latents.encode"],
}
"""Where the code of each result begins."""

DECIDE_NOTHING = (
    "__init__.py",  # the version's number
    "config/",  # settings are inputs by their values
    "presets.py",
    "errors.py",
    "workspace/",  # where results lie, how bytes are written and read
    "process/",
    "html/",  # pages
    "data/page/",
    "evaluation/pages/",
    "tracker/",
)
"""Files and folders that the code of a result imports and that no row needs."""

ALLOWED = {
    "shard": ("data/files/rows.py",),  # how a picture travels
    "prepared set": ("data/prepared/augment.py", "data/prepared/shown.py"),  # what others do with a set
    "training": ("evaluation/report/panels.py", "weights/"),  # previews; weights are inputs by their bytes
    "evaluation": ("weights/",),
    "registration": ("weights/",),
    "latents": ("data/", "evaluation/", "weights/"),  # pictures and scores are inputs by what they hold
}
"""More of these for single results, with the reason."""

INCLUDED = {"prepared set": ("shard", "sprites")}
"""Rows that come into a result's key by the names of what it consumes."""


@pytest.fixture
def library(tmp_path):
    """A copy of the library that a test may change."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "pikavae", ignore=shutil.ignore_patterns("__pycache__")))


def changed(before, library):
    return {result for result in RESULTS if code_of(result, library) != before[result]}


def test_words_move_no_key_and_a_constant_exactly_the_rows_of_its_file(library):
    before = {result: code_of(result, library) for result in RESULTS}
    assert len(FILES) > 100
    for name in FILES:
        path = library / name
        source = path.read_text(encoding="utf-8")
        words = '"""Other words."""\n# A comment.\n' + source.replace(
            "\n\n\n", '\n\n\n# Another.\n"""More words."""\n\n\n'
        )
        path.write_text(words, encoding="utf-8")
        assert changed(before, library) == set(), name
        path.write_text(f"{source}\nADDED_CONSTANT = 1\n", encoding="utf-8")
        assert changed(before, library) == {result for result in RESULTS if name in before[result]}, name
        path.write_text(source, encoding="utf-8")


@pytest.mark.parametrize("result", RESULTS)
def test_every_entry_of_a_row_is_there(result):
    assert all((PACKAGE / entry).exists() for entry in DECIDED_BY[result])
    assert code_of(result)


def test_every_exception_is_there():
    assert set(FILES) >= NOT_DECIDING
    for entry in {*DECIDE_NOTHING, *(entry for entries in ALLOWED.values() for entry in entries)}:
        assert any(name.startswith(entry) for name in FILES), entry


@pytest.mark.parametrize("result", RESULTS)
def test_a_row_has_every_file_that_its_code_imports_or_there_is_a_reason(result):
    graph = grimp.build_graph("pikavae", exclude_type_checking_imports=True)
    reached, waiting = set[str](), list(ENTRIES[result])
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph.find_modules_directly_imported_by(module)
    held = {name for row in (result, *INCLUDED.get(result, ())) for name in code_of(row)}
    passed_over = (*DECIDE_NOTHING, *ALLOWED.get(result, ()))
    lacking = {name for name in FILES if _module(name) in reached} - held - NOT_DECIDING
    assert {name for name in lacking if not name.startswith(passed_over)} == set()


def _module(name: str) -> str:
    parts = ("pikavae", *Path(name).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1  # why"),
        ('def f():\n    """Say."""\n    return 1', 'def f():\n    """Tell."""\n    return 1'),
        ("x = (1, 2)", "x = (\n    1,\n    2,\n)"),
        ('x = "a" "b"', "x = 'ab'"),
        ("class A:\n    x: int\n    'An attribute.'\n", "class A:\n    x: int\n"),
    ],
)
def test_layout_and_words_are_not_hashed(one, other):
    assert syntax_hash(one) == syntax_hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = a + b", "x = b + a"),
        ("def f(a=1): return a", "def f(a=2): return a"),
        ("def f(*, a): return a", "def f(a): return a"),
        ("from a import b", "from c import b"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
    ],
)
def test_what_code_does_is_hashed(one, other):
    assert syntax_hash(one) != syntax_hash(other)


def test_a_file_that_changed_in_this_process_is_read_again(library):
    path = library / "model" / "autoencoder.py"
    before = code_of("training", library)
    path.write_text(path.read_text() + "\nADDED = 1\n")
    after = code_of("training", library)
    assert [name for name in before if before[name] != after[name]] == ["model/autoencoder.py"]
    assert provenance.code_of("training") == before
