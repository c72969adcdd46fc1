"""Templates: text stays text, a name without a value raises, and no command loads the engine to start."""

import re
import subprocess
import sys

import pytest
from jinja2 import UndefinedError

from pikavae.html.charts import Bar, Chart
from pikavae.html.render import SHARED, render
from tests.support.pages import HOSTILE, Page

PACKAGE = SHARED.parent
TEMPLATES = sorted(PACKAGE.rglob("*.html"))
PAGE = """{% extends "base.html" %}
{% from "macros.html" import figure, row, table with context %}
{% set sheets, title, numbers, findings, sections = ["page"], text, [(text, text)], [("note", text)], [("one", text)] %}
{% block kicker %}{{ text }}{% endblock %}
{% block one %}{% call table((text,), class=text) %}{{ row(text, (text,), words=text, class=text) }}{% endcall %}
{{ figure(chart, text, text ~ text) if chart }}{% endblock %}
"""


def page_of(folder, source=PAGE, **values):
    path = folder / "page.html"
    path.write_text(source, encoding="utf-8")
    return render(path, **values)


def chart_of(text):
    return Chart(text, [Bar(0, 1, 2.0, text)], [(0, text)], text, text, mark=(0.5, text))


def test_text_in_markup_attributes_macros_and_charts_stays_text(tmp_path):
    page = Page(page_of(tmp_path, text=HOSTILE, chart=chart_of(HOSTILE)))
    calm = Page(page_of(tmp_path, text="calm", chart=chart_of("calm")))
    assert page.tags == calm.tags
    assert [(tag, name) for tag, name, _ in page.attributes] == [(tag, name) for tag, name, _ in calm.attributes]
    assert page.rows[1] == [HOSTILE] * 3


def test_controls_directions_and_surrogates_become_visible(tmp_path):
    document = page_of(tmp_path, text="a\x00\x1b\u202e\udcff\ufffeb\u00e9\nc", chart=None)
    assert "a\ufffd\ufffd\ufffd\ufffd\ufffdb\u00e9\nc" in document
    document.encode("utf-8")


def test_a_name_without_a_value_raises(tmp_path):
    with pytest.raises(UndefinedError, match="missing"):
        page_of(tmp_path, PAGE + "{% block heading %}{{ missing }}{% endblock %}", text="", chart=None)


def test_only_the_sheets_enter_unescaped():
    assert len(TEMPLATES) >= 7
    loopholes = re.compile(r"\|\s*(safe|tojson|xmlattr|urlize|e|escape|forceescape)\b|autoescape|Markup\(")
    found = [
        (path.name, hit.group())
        for path in (*TEMPLATES, *PACKAGE.rglob("*.py"))
        for hit in loopholes.finditer(path.read_text(encoding="utf-8"))
        if path.suffix == ".html" or "jinja" in path.read_text(encoding="utf-8")
    ]
    assert sorted(found) == [("render.py", "Markup("), ("render.py", "autoescape")]


def test_no_flow_loads_what_takes_seconds_and_only_some_need():
    slow = {"jinja2", "datasets", "transformers", "torch._dynamo"}
    code = f"import sys, flows.cli, flows.pipeline, pikavae.html.render; print({slow} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "set()\n"
