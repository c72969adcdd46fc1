"""Whatever a damaged JSON file holds, what reads it gets one kind of error, and the command one sentence."""

import json
from pathlib import Path

import pytest

from pikavae.errors import DamagedFileError
from pikavae.operations.stages import results
from pikavae.production.packages.model import _trained_at
from pikavae.tracker import tags
from pikavae.workspace import strict_json
from tests.support import commands

DAMAGES = {
    "cut": b'{"a": 1',
    "empty": b"",
    "no UTF-8": b'{"a": "\xc3\x28"}',
    "zeros": b"\x00" * 30,
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "less deep": b"[" * 80 + b"]" * 80,
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "beyond a float": b'{"a": 1e999}',
    "beyond an int": b'{"a": ' + b"9" * 10_000 + b"}",
    "a key twice": b'{"a": {"b": 1, "b": 2}}',
}
OTHERS = {"null": b"null", "a list": b"[1]", "a number": b"7", "a text": b'"a"'}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_any_kind_is_a_value_error(damage):
    with pytest.raises(ValueError, match=r"."):
        strict_json.parse(DAMAGES[damage])


def test_what_pikavae_writes_is_read_as_it_is():
    tree = {"a": [1, 2.5, None, True, "é \udcff"], "b": {"c": {}}, "d": -1e-300, "e": 10**30}
    assert strict_json.parse(json.dumps(tree)) == tree
    assert strict_json.parse(json.dumps(tree).encode()) == tree


@pytest.mark.parametrize("damage", [*DAMAGES, *OTHERS])
def test_a_stage_record_that_is_damaged_counts_as_none(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path))
    folder = tmp_path / "evaluations" / "key"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_bytes({**DAMAGES, **OTHERS}[damage])
    assert results.stage_inputs(folder / "stage.json") == {}
    assert list(results.evaluated_inputs(commands.workspace())) == []
    assert results.find_evaluated(commands.workspace(), "key") is None


@pytest.mark.parametrize("kind", [str, int | float], ids=["texts", "numbers"])
@pytest.mark.parametrize(
    "text", [*OTHERS.values(), b"{", b"[" * 100_000, b'{"a": null}', b'{"a": [1]}'], ids=lambda text: repr(text[:12])
)
def test_a_tag_that_somebody_wrote_is_read_as_empty(text, kind):
    assert tags.from_tag(text.decode(), kind) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"flavors: {}\n",
        b"flavors: {}\nmetadata: 7\n",
        b"flavors: {}\nmetadata: {image_size: .nan, step: 1}\n",
        b"flavors: {}\nmetadata: {image_size: large, step: 1}\n",
        b"flavors: {}\nmetadata: {image_size: 64}\n",
        b"metadata: {\n",
        b"a: !!python/object/apply:os.system [exit]\n",
        b"\xff\xfe\x00",
        b"[" * 5_000 + b"]" * 5_000,
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_description_that_is_none_of_a_registered_model_is_named(tmp_path: Path, content):
    (tmp_path / "MLmodel").write_bytes(content)
    with pytest.raises(DamagedFileError, match="no description of a model that pikavae registered"):
        _trained_at(tmp_path)
