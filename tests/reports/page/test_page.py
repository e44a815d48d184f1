"""The page as text: complete, offline, and never taken in by what strings say."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import pytest

from autotune.reports.facts import RunFacts
from autotune.reports.page.embedding import columns, content_hash, script_json
from autotune.reports.page.page import report_page
from autotune.reports.page.prose import as_html
from autotune.reports.summarise import summarise
from autotune.results import Rejected, RejectReason

MakeFacts = Callable[..., RunFacts]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"`\u2028[x](javascript:alert(3))"


def page_of(facts: RunFacts) -> str:
    return report_page(facts, summarise(facts))


def data_of(html: str) -> dict[str, dict[str, dict[str, object]]]:
    """The page's data, as its script reads it."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    data: dict[str, dict[str, dict[str, object]]] = json.loads(text)
    return data


def test_the_page_opens_with_the_verdict_and_asks_no_network(make_facts: MakeFacts) -> None:
    facts = make_facts()
    html = page_of(facts)
    summary = summarise(facts)
    assert html.index(summary.sentence) < html.index('id="chart-pareto"')
    assert "default-src 'none'" in html
    assert "unsafe" not in html[: html.index("<style>")]
    outside = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)=\"(?!#)([^\"]*)", outside) == ["trials.csv"]


def test_the_policy_admits_the_scripts_of_the_page_and_no_others(make_facts: MakeFacts) -> None:
    html = page_of(make_facts())
    (policy,) = map(unescape, re.findall(r'Content-Security-Policy" content="([^"]*)"', html))
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert [content_hash(script) in policy for script in scripts] == [True, True]
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert f"style-src {content_hash(style)};" in policy
    assert policy.count("sha256-") == 3


def test_hostile_strings_stay_strings(make_facts: MakeFacts) -> None:
    facts = make_facts()
    plain = page_of(facts)
    bad = replace(facts.records[7], outcome=Rejected(RejectReason.CRASHED, HOSTILE, HOSTILE))
    records = [*facts.records[:7], bad, *facts.records[8:]]
    html = page_of(
        replace(
            facts,
            records=records,
            target=HOSTILE,
            source=HOSTILE,
            device=HOSTILE,
            command=("autotune", HOSTILE),
            versions={HOSTILE: HOSTILE},
            banner=(HOSTILE,),
        )
    )
    for markup in ("<script", "<img", "</script", "<!--"):
        assert html.count(markup) == plain.count(markup), markup
    assert "javascript:" not in "".join(re.findall(r'(?:href|src)="[^"]*"', html))
    assert "&lt;img src=x" in html
    data_of(html)


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028", "\u2029", "a & b"])
def test_json_in_a_script_reads_back_and_has_no_markup(text: str) -> None:
    written = script_json({"key": [text, 1.5, float("nan"), float("inf"), None]})
    assert not set(written) & set("<>&\u2028\u2029")
    assert json.loads(written) == {"key": [text, 1.5, None, None, None]}


def test_columns_tell_words_once() -> None:
    rows = [{"name": "a", "x": 1.0}, {"name": "b", "x": None}, {"name": "a", "x": 3.0}]
    assert columns(rows) == {"name": {"words": ["a", "b"], "at": [0, 1, 0]}, "x": [1.0, None, 3.0]}
    assert columns([]) == {}


def test_every_build_is_a_row_of_the_table_and_of_the_data(make_facts: MakeFacts) -> None:
    facts = make_facts()
    html = page_of(facts)
    body = html[html.index('<table id="builds">') :]
    assert body[: body.index("</table>")].count("<tr") == 1 + len(facts.records)
    assert data_of(html)["trials"]["trial"] == [record.number for record in facts.records]


def test_an_empty_run_says_so(make_facts: MakeFacts) -> None:
    html = page_of(replace(make_facts(), records=[], front=[], validated=[], chosen=None, interrupted=True))
    assert "No build was tried." in html
    assert "Not validated: no draft was tried yet." in html
    assert 'id="chart-timeline"' not in html


def test_a_run_of_failures_shows_them(make_facts: MakeFacts) -> None:
    facts = make_facts(validated=0, choose=False)
    failed = [replace(each, outcome=Rejected(RejectReason.OUT_OF_MEMORY, "no room", "stack")) for each in facts.records]
    html = page_of(replace(facts, records=failed, front=[]))
    assert "none of the 40 builds tried could be scored" in html
    assert html.count('<td title="no room">out-of-memory</td>') == len(failed)
    assert "What the workers of 30 failed builds wrote last" in html


def test_prose_is_the_markdown_report_as_html() -> None:
    html = as_html(["## Title", "| a | b |\n| --- | --- |\n| 4L-4H | 1.25 (1.20 … 1.30) |", "**bold** <b>not</b>"])
    assert "<h2>Title</h2>" in html
    assert '<td>4L-4H</td>\n<td class="n">1.25 (1.20 … 1.30)</td>' in html
    assert "<strong>bold</strong> &lt;b&gt;not&lt;/b&gt;" in html
