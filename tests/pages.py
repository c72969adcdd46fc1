"""Pages that the tests read."""

from collections import Counter
from html.parser import HTMLParser

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
