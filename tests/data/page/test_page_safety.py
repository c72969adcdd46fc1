"""The page about a prepared set stays harmless: hostile text, no address of the network, its policy."""

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from pikavae.data.page.facts import DuplicatePair
from tests.data.page.conftest import CASES, document_of, facts_of, noise, picture
from tests.support.pages import Page, assert_hostile_text_stays_text, spoiled

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=http://example.org/x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></script></title><h1>",
    "<!-- ",
    "&lt;b&gt; &amp;",
    "line\nbreak\r\n\ttab\x00null\x1b[31m",
    "photo-\u202egpj.exe \u2066isolated\u2069",
    "lone \udcff surrogate",
    "\ufffe\ufdd0",
    "x" * 10_000,
    "w " * 10_000,
    "javascript:alert(1)",
    "שלום עולם",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    calm = replace(picture(), caption="calm", name="calm", changes=("calm",))
    hostile = replace(calm, caption=text, name=text, changes=(text,))
    fields = {
        "near_duplicates": [DuplicatePair(0, 1, 1)],
        "set_aside": [(text, text)],
        "notes": {text: 1},
        "settings": {text: text},
        "title": text,
        "source": text,
        "fingerprint": text,
    }
    calm_fields = {name: value for name, value in fields.items() if name == "near_duplicates"} | {
        "set_aside": [("calm", "calm")], "notes": {"calm": 1}, "settings": {"calm": "calm"},
    }  # fmt: skip
    document = document_of(facts_of([hostile, hostile], **fields), noise)
    page = Page(document)
    reference = Page(document_of(facts_of([calm, calm], **calm_fields), noise))
    for tag in ("script", "style", "title", "h1", "b", "img", "a", "section", "details", "table", "code"):
        assert page.tags[tag] == reference.tags[tag], tag
    assert {name for _, name, _ in page.attributes} <= {name for _, name, _ in reference.attributes}
    document.encode("utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f\ud800-\udfff\ufffe]", document)
    assert max(len(piece) for piece in page.texts) <= 400
    assert all(len(alt) <= 200 for alt in page.alts)


def test_hostile_text_at_every_place_stays_text():
    pictures = [picture(0, changes=("x",)), picture(1, "validation", changes=("x",)), picture(2, "dropped")]
    facts = facts_of(
        pictures,
        near_duplicates=[DuplicatePair(0, 1, 3), DuplicatePair(0, 2, 0, exact=True)],
        set_aside=[("x", "x")],
        notes={"x": 1},
        settings={"x": "x"},
        warnings=["x"],
    )
    assert_hostile_text_stays_text(lambda text: document_of(spoiled(facts, text, keys={"notes", "settings"}), noise))


def test_text_that_means_no_harm_is_shown_as_it_is():
    caption = 'it\'s "1 < 2" & <b>naïve</b> 👩\u200d🚒 ball'
    page = Page(document_of(facts_of([picture(caption=caption)]), noise))
    assert page.alts == [caption]
    assert caption in page.text


@pytest.mark.parametrize("name", CASES)
def test_the_page_is_whole_and_asks_nothing_of_the_network(name):
    facts, pixels = CASES[name]
    document = document_of(facts, pixels)
    page = Page(document)
    assert page.declarations == ["DOCTYPE html"]
    for _, attribute, value in page.attributes:
        if attribute in {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "background"}:
            assert value.startswith(("data:image/webp;base64,", "#"))
        assert not attribute.startswith("on")
        assert attribute != "style"  # the policy would refuse it
    ids = [value for _, attribute, value in page.attributes if attribute == "id"]
    assert len(ids) == len(set(ids))
    links = [value for _, attribute, value in page.attributes if attribute == "href"]
    assert len(links) == 8
    named = [v for _, a, v in page.attributes if a == "aria-labelledby"] + [link[1:] for link in links]
    assert set(named) <= set(ids)
    assert "url(" not in document
    assert "@import" not in document
    assert document == document_of(facts, pixels)


def test_the_policy_allows_the_page_its_own_style_and_script_alone():
    document = document_of(facts_of([picture()]), noise)
    (policy,) = [v for tag, name, v in Page(document).attributes if tag == "meta" and "default-src" in (v or "")]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for directive, tag in [("style-src", "style"), ("script-src", "script")]:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", document, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives.pop(directive) == f"'sha256-{digest}'"
    assert directives == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
