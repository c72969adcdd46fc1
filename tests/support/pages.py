"""Pages that the tests read."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser

from pydantic import BaseModel

VOID = {"br", "img", "input", "meta"}
NO_BREAK_SPACE = "\u00a0"


class Page(HTMLParser):
    """A parsed page. Unbalanced tags fail at once."""

    def __init__(self, document):
        super().__init__()
        self.open, self.attributes, self.texts, self.rows, self.tags = [], [], [], [], Counter()
        self.alts, self.definitions, self.findings, self.declarations = [], {}, {}, []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_decl(self, decl):
        self.declarations.append(decl)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "img":
            self.alts.append(dict(attrs)["alt"])
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class", "")))

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "style" in tags or "script" in tags:
            return
        self.texts.append(data)
        if self.rows and {"th", "td"} & set(tags):
            self.rows[-1][-1] += data
        if "dt" in tags:
            self.term = data
        if "dd" in tags:
            self.definitions[self.term] = data
        if ("ul", "findings") in self.open and ("span", "level") not in self.open:
            self.findings[plain(data)] = self.open[-2][1]

    @property
    def text(self):
        return plain(" ".join(self.texts))

    def row(self, first):
        """The other cells of the one row that begins so."""
        (found,) = [row[1:] for row in self.rows if row and row[0] == first]
        return [plain(cell) for cell in found]


def plain(text):
    return " ".join(text.replace(NO_BREAK_SPACE, " ").split())


HOSTILE = "</script></p><img src=x onerror=f(1)>-->\"' {{7*7}}{% raw %}"
"""Text that ends what it stands in, in markup and in a template."""
CALM = " ".join(re.findall(r"\w+", HOSTILE))
"""The same words."""
KEPT = {"pass", "fail", "better", "worse", "posterior", "train", "validation", "dropped", "psnr"}
"""Words that the code itself gives, by which pages decide."""


def spoiled(value, text, keys=()):
    """A copy of a page's argument in which every text from outside is `text`.

    Args:
        value: records, dataclasses, named tuples, mappings and sequences of each other.
        text: what stands in place of every text, and of every key of the mappings in fields named `keys`.
        keys: names of fields whose mappings have keys from outside.
    """
    if isinstance(value, str):
        return value if value in KEPT else text
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        names = type(value).model_fields if isinstance(value, BaseModel) else [field.name for field in fields(value)]
        changed = {name: _spoiled_field(name, getattr(value, name), text, keys) for name in names}
        return value.model_copy(update=changed) if isinstance(value, BaseModel) else replace(value, **changed)
    if isinstance(value, Mapping):
        return {name: _spoiled_field(name, one, text, keys) for name, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(spoiled(one, text, keys) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(spoiled(one, text, keys) for one in value)
    return value


def _spoiled_field(name, value, text, keys):
    made = spoiled(value, text, keys)
    return dict.fromkeys([text], next(iter(made.values()))) if name in keys and made else made


def assert_hostile_text_stays_text(draw):
    """Compare the page that `draw(text)` makes of hostile text with the one that it makes of harmless text."""
    calm, hostile = Page(draw(CALM)), Page(draw(HOSTILE))
    assert hostile.tags == calm.tags
    assert [(tag, name) for tag, name, _ in hostile.attributes] == [(tag, name) for tag, name, _ in calm.attributes]
    places = [
        sum(value.count(text) for value in (*page.texts, *(value or "" for _, _, value in page.attributes)))
        for page, text in ((calm, CALM), (hostile, HOSTILE))
    ]
    assert places[0] == places[1] > 0
