from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace

import pytest

from pikavae.errors import DamagedFileError
from pikavae.production.record import ledger
from pikavae.production.record.ledger import Entry

ENTRY = Entry(
    transaction="t",
    action="promote",
    state="intent",
    actor="zoé@host",
    model="pikavae",
    version=3,
    production_version=2,
    champion_before=1,
    champion_after=3,
    previous_after=1,
    aliases_before={"champion": 1, "previous": None},
    aliases_after={"champion": 2, "previous": 1},
    fingerprint="abc",
    evaluation_set="def",
    commit=None,
    dirty=None,
    run_id="r",
    report="report",
    snapshot="123",
    digest="0" * 64,
    manifest={"MLmodel": "1" * 64},
    thresholds=None,
    verdicts=None,
    approver=None,
    reason="better",
    forced=False,
)


OF_BEFORE = (
    '{"action":"promote","actor":"a@b","aliases_after":{"champion":1,"previous":null},"aliases_before":{"'
    'champion":null,"previous":null},"approver":null,"champion_after":1,"champion_before":null,"commit":n'
    'ull,"dirty":null,"evaluation_set":null,"fingerprint":null,"forced":false,"hash":"0772ee96a81ccae84d9'
    '78355e7b4f5b571acb9e0710e9adb2525e5a25599176e","manifest":{},"model":"pikavae","previous":"000000000'
    '0000000000000000000000000000000000000000000000000000000","previous_after":null,"production_version":'
    '1,"reason":"x","report":null,"run_id":"r","sequence":1,"snapshot":null,"state":"intent","store":"s",'
    '"thresholds":null,"time":"2026-11-25T03:34:25.694+00:00","transaction":"t","verdicts":null,"version"'
    ":1}"
    "\n"
)
"""The line that an earlier release wrote."""


@pytest.fixture
def path(tmp_path):
    """A ledger of three events."""
    path = tmp_path / "production" / "ledger.jsonl"
    for state in ("intent", "done", "intent"):
        ledger.append(path, replace(ENTRY, state=state))
    return path


def test_events_are_numbered_and_linked(path):
    events = ledger.read(path)
    assert [(event.sequence, event.state) for event in events] == [(1, "intent"), (2, "done"), (3, "intent")]
    assert [event.previous for event in events] == [ledger.BEGINNING, events[0].hash, events[1].hash]
    assert all(event.entry(state="intent") == ENTRY for event in events)
    assert all(
        json.loads(line).items() <= ledger.as_json(e).items() for line, e in zip(lines_of(path), events, strict=True)
    )


def lines_of(path):
    return path.read_text().splitlines()


def test_what_a_request_adds_is_kept_and_a_ledger_of_before_reads_as_it_did(path):
    asked = ENTRY.__class__(
        **asdict(ENTRY)
        | {
            "action": "approve",
            "request": "1" * 64,
            "overridden": ["floors"],
            "page_fields": {"tags": {}},
            "rules": {"two_people": True},
            "signed_by": "2" * 64,
        }
    )
    added = ledger.append(path, asked)
    assert ledger.read(path)[-1] == added
    assert json.loads(lines_of(path)[-1]) == ledger.as_json(added)
    path.write_text(OF_BEFORE)
    (event,) = ledger.read(path)
    assert (event.request, event.overridden, event.reason) == (None, [], "x")
    ledger.append(path, asked)
    assert path.read_text().startswith(OF_BEFORE)


def test_no_file_is_an_empty_ledger(tmp_path):
    assert ledger.read(tmp_path / "none") == []


@pytest.mark.parametrize(
    "reason",
    ["\"double\" and 'single'", "two\nlines\r\nand\x00more\u2028", "../../etc", "x" * 10_000, "é✓ \udcff", "\\n{}"],
    ids=["quotes", "newlines", "path", "long", "unusual", "escapes"],
)
def test_any_reason_is_one_line_and_reads_back_equal(path, reason):
    ledger.append(path, replace(ENTRY, reason=reason))
    assert ledger.read(path)[-1].reason == reason
    assert len(path.read_bytes().splitlines()) == len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("line", [1, 2, 3])
@pytest.mark.parametrize("field", [*ledger.as_json(ENTRY), "time", "sequence", "previous", "hash"])
def test_an_edited_line_is_named(path, line, field):
    lines = path.read_text().splitlines()
    values = json.loads(lines[line - 1])
    values[field] = "0" * 64 if field in {"previous", "hash"} and line > 1 else "edited"
    lines[line - 1] = json.dumps(values, sort_keys=True, separators=(",", ":"))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DamagedFileError, match=f"line {line} was edited"):
        ledger.read(path)


def test_a_line_edited_with_its_hash_shows_in_the_next(path):
    first, *others = ledger.read(path)
    forged = replace(first, reason="worse")
    values = {name: value for name, value in ledger._to_line(forged).items() if name != "hash"}
    forged = replace(forged, hash=ledger._hash(values))
    with pytest.raises(DamagedFileError, match="line 2 does not follow"):
        ledger.verify_chain([forged, *others])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[0], lines[0], *lines[1:]], 2),
        (lambda lines: [lines[0], lines[2], lines[1]], 2),
    ],
    ids=["first out", "middle out", "twice", "swapped"],
)
def test_lines_taken_out_put_in_or_swapped_are_named(path, change, line):
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DamagedFileError, match=f"line {line} does not follow"):
        ledger.read(path)


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"{half",
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"sequence": 1}',
        b"null",
        b"7",
        DEEP,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 200 + b"]" * 200,
        b"NaN",
        b'{"sequence":NaN}',
        b'{"sequence":-Infinity}',
        b'{"sequence":1e999}',
        b'{"sequence":' + b"9" * 10_000 + b"}",
        b'{"sequence":1,"sequence":1}',
        b'{"actor":"\xc3\x28"}',
        b"\x00" * 40,
    ],
    ids=lambda content: f"{content[:24]!r}-{len(content)}",
)
def test_a_line_that_is_no_event_is_named(path, content):
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], content, lines[2]]) + b"\n")
    with pytest.raises(DamagedFileError, match="line 2 is not an event"):
        ledger.read(path)
    before = path.read_bytes()
    with pytest.raises(DamagedFileError, match="line 2"):
        ledger.append(path, ENTRY)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("shown", DEEP), ("thresholds", b'{"a":' * 300 + b"1" + b"}" * 300), ("version", b"NaN"), ("version", b"1e999")],
    ids=["deep", "less deep", "NaN", "huge"],
)
def test_a_line_that_holds_such_a_value_is_named(path, name, value):
    (line, *others) = path.read_bytes().splitlines(keepends=True)
    tree = json.loads(line) | {name: "HERE"}
    path.write_bytes(json.dumps(tree).encode().replace(b'"HERE"', value) + b"\n" + b"".join(others))
    with pytest.raises(DamagedFileError, match="line 1 is not an event"):
        ledger.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "3"},
        {"version": True},
        {"production_version": 2.5},
        {"manifest": None},
        {"manifest": {"a": 1}},
        {"aliases_after": []},
        {"aliases_after": {"champion": "1"}},
        {"overridden": {"floors": 1}},
        {"action": "delete"},
        {"reason": None},
        {"shown": [1]},
    ],
    ids=str,
)
def test_a_line_with_a_value_of_the_wrong_type_is_refused_even_with_its_hash(path, change):
    values = ledger.as_json(ledger.read(path)[0]) | change
    values = {name: value for name, value in values.items() if name not in ledger.ADDED_LATER or value}
    values["hash"] = ledger._hash({name: value for name, value in values.items() if name != "hash"})
    path.write_bytes(ledger._canonical(values) + b"\n")
    (field,) = change
    with pytest.raises(DamagedFileError, match=rf"line 1 is not an event \({field} has the wrong type\)"):
        ledger.read(path)


def test_the_same_content_written_otherwise_is_told(path):
    path.write_text(path.read_text().replace('"action":', '"action": ', 1))
    with pytest.raises(DamagedFileError, match="line 1 was edited"):
        ledger.read(path)


def test_a_line_cut_short_anywhere_is_told_left_out_and_replaced(path, caplog):
    whole = path.read_bytes()
    events, start = ledger.read(path), len(b"".join(whole.splitlines(keepends=True)[:2]))
    for length in {start + 1, start + 2, (start + len(whole)) // 2, len(whole) - 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="pikavae"):
            assert ledger.read(path) == events[:2]
        assert "line 3 was cut short" in caplog.text
        added = ledger.append(path, replace(ENTRY, state="undone"))
        assert ledger.read(path) == [*events[:2], added]
        assert path.read_bytes().endswith(b"\n")
