"""Renders pages from templates. Every value is text: it cannot become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.html.text import count, percent, shortened, shown_number, subject

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

SHARED = Path(__file__).parent
CONTROLS = r"\x00-\x09\x0b-\x1f\x7f-\x9f"
SURROGATES = r"\ud800-\udfff"
"""They represent bytes of file names that are not text, and no encoding accepts them."""
DIRECTIONS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""They can make a name look like another: `photo-gpj.exe` like `photo-exe.jpg`."""
NON_CHARACTERS = r"\ufdd0-\ufdef\ufffe\uffff"
HARMFUL = re.compile(f"[{CONTROLS}{SURROGATES}{DIRECTIONS}{NON_CHARACTERS}]")


def render(template: Path, **values: object) -> str:
    """Fill a template in, and return the page as one HTML document that needs no network.

    Controls and characters that change the writing direction become a visible U+FFFD.

    Args:
        template: the file, which extends `base.html` of this folder.
        values: what the template names; a name without a value raises.
    """
    return HARMFUL.sub("\ufffd", _environment(template.parent).get_template(template.name).render(values))


@lru_cache
def _environment(folder: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": count, "percent": percent, "short": shortened, "number": shown_number}
    environment.filters["json"] = partial(json.dumps, ensure_ascii=False)
    environment.globals |= {"sheet": _sheet, "integrity": _integrity, "subject": subject}
    return environment


def _sheet(names: Iterable[str], kind: str) -> Markup:
    """Join the sheets `<name>.css` or `<name>.js` of this folder. Nothing else is put into a page unescaped."""
    from markupsafe import Markup

    return Markup("".join(SHARED.joinpath(f"{name}.{kind}").read_text(encoding="utf-8") for name in names))


def _integrity(content: str) -> str:
    """Return the content's hash in the form of a policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
