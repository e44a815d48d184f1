"""The page in a headless Chromium, as a reader meets it: from a file, without any network."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from autotune.reports.charts.what_if import what_if
from autotune.reports.facts import RunFacts
from autotune.reports.report import write_report
from tests.support.browsing import IN_A_BROWSER, Visit, chromium
from tests.support.facts import synthetic_facts

WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
MOST_BYTES = 3 * 2**20

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return synthetic_facts()


@pytest.fixture(scope="module")
def report(facts: RunFacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "report"
    write_report(facts, folder)
    return folder / "index.html"


class Reading(Visit):
    """A visit to a report."""

    def __init__(self, browser: Browser, report: Path, **context: Any) -> None:
        super().__init__(browser, report.as_uri(), **context)
        expect(self.page.locator("html")).to_have_attribute("data-drawn", re.compile(r"\d+"), timeout=30_000)

    def column(self, place: int) -> list[str]:
        """What the visible rows of the table of builds show in a column."""
        cells = self.page.locator(f"#builds tbody tr:not([hidden]) td:nth-child({place})")
        return [text.strip() for text in cells.all_text_contents()]

    def place_of(self, chart: str, trial: int, lookahead: int) -> tuple[float, float]:
        """Where the mark of a trial is, in pixels of the window."""
        self.page.locator(f"#chart-{chart}").scroll_into_view_if_needed()
        found = self.page.evaluate(
            """([chart, trial, k]) => {
                const view = report.views[chart];
                const item = [];
                const walk = (mark) => mark.items.forEach((each) => {
                    const fits = mark.marktype === "symbol" && each.datum?.trial === trial && each.datum?.k === k;
                    if (fits) item.push(each);
                    (each.items || []).forEach(walk);
                });
                walk(view.scenegraph().root);
                const box = document.querySelector(`#chart-${chart} canvas`).getBoundingClientRect();
                const [left, top] = view.origin(), edge = view.padding();
                return [box.x + edge.left + left + item[0].x, box.y + edge.top + top + item[0].y];
            }""",
            [chart, trial, lookahead],
        )
        return found[0], found[1]

    def pinned(self) -> list[int]:
        """The pinned trial by every chart's own account."""
        found: list[int] = self.page.evaluate(
            "() => [...new Set(Object.values(report.views).map((view) => view.signal('pinned')))]"
        )
        return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_the_page_is_quiet_accessible_and_fits(browser: Browser, report: Path, scheme: Any, width: str) -> None:
    columns, rows = WIDTHS[width]
    visit = Reading(browser, report, viewport={"width": columns, "height": rows}, color_scheme=scheme)
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= columns
    visit.page.locator("#builds .pin").first.click()
    assert visit.inaccessible() == []
    assert visit.complaints == []
    assert visit.asked == [report.as_uri()]
    for chart in visit.page.locator(".chart").all():
        box = chart.locator("canvas").bounding_box()
        assert box is not None
        assert box["width"] <= columns


def test_every_chart_is_drawn(browser: Browser, report: Path) -> None:
    page = Reading(browser, report).page
    drawn = page.evaluate("() => Object.keys(report.views)")
    assert drawn == [
        "pareto", "timeline", "architecture", "acceptance", "rounds", "depth", "size", "truth-tar", "truth-speed",
        "what-if",
    ]  # fmt: skip
    assert page.locator(".chart").count() == len(drawn)


def test_a_point_tells_its_draft_and_pins_it_everywhere(browser: Browser, report: Path, facts: RunFacts) -> None:
    visit = Reading(browser, report, viewport={"width": 1280, "height": 900})
    page = visit.page
    record, score = max(facts.front, key=lambda point: point[1].round_s.value)
    page.mouse.move(*visit.place_of("pareto", record.number, score.lookahead))
    expect(page.locator("#vg-tooltip-element")).to_contain_text(str(record.build.shape))
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#pin")).to_contain_text(f"Trial {record.number}: {record.build.shape}")
    expect(page.locator("#builds tr.pinned")).to_have_count(1)
    expect(page.locator("#builds tr.pinned .pin")).to_have_text(str(record.number))
    assert visit.pinned() == [record.number]
    assert page.locator("#pin tbody tr").count() >= len(record.scores)
    page.keyboard.press("Escape")
    expect(page.locator("#pin")).to_be_hidden()
    assert visit.pinned() == [-1]


def test_the_keyboard_pins_from_the_table(browser: Browser, report: Path) -> None:
    visit = Reading(browser, report)
    button = visit.page.locator("#builds .pin").nth(3)
    button.focus()
    visit.page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert visit.pinned() == [3]
    visit.page.locator("#unpin").press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")


def test_builds_are_sorted_with_the_unknown_last(browser: Browser, report: Path, facts: RunFacts) -> None:
    visit = Reading(browser, report)
    head = visit.page.locator('#builds th[data-sort="speedup"]')
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    scored = [best.speedup.value for each in facts.records if (best := each.best())]
    expected = [f"{value:.2f}×" for value in sorted(scored, reverse=True)]
    assert visit.column(12) == expected + [""] * (len(facts.records) - len(scored))
    head.locator("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert visit.column(12)[: len(expected)] == expected[::-1]


def test_builds_are_filtered(browser: Browser, report: Path, facts: RunFacts) -> None:
    visit = Reading(browser, report)
    visit.page.select_option('[data-filter="precision"]', "int8")
    int8 = [str(each.number) for each in facts.records if each.build.precision.value == "int8"]
    assert visit.column(1) == int8
    visit.page.select_option('[data-filter="state"]', "failed")
    failed = [str(each.number) for each in facts.records if not each.scores and str(each.number) in int8]
    assert visit.column(1) == failed
    expect(visit.page.locator("#shown")).to_have_text(f"{len(failed)} of {len(facts.records)} builds")
    visit.page.select_option('[data-filter="reason"]', "build-timeout")
    assert visit.column(1) == failed
    for name in ("precision", "state", "reason"):
        visit.page.select_option(f'[data-filter="{name}"]', "")
    assert len(visit.column(1)) == len(facts.records)


def test_sliders_come_to_the_same_speed_up_as_python(browser: Browser, report: Path, facts: RunFacts) -> None:
    page = Reading(browser, report).page
    figures = what_if(facts)
    assert figures is not None
    for place, step, gain in ((0, 0.0, 0), (0, 2.0, 0), (1, -1.5, 25), (1, 1.0, -40), (0, 0.0, 100)):
        draft = figures.drafts[place]
        page.select_option("#what-draft", str(place))
        page.locator("#what-step").fill(str(step))
        page.locator("#what-gain").fill(str(gain))
        for at, k in enumerate(draft.lookaheads):
            page.locator("#what-k").fill(str(at))
            expected = figures.speedup(draft, k, scale=2.0**step, gain=gain / 100)
            expect(page.locator("#told-speedup")).to_contain_text(f"{expected:.3f}× with k = {k}")
    page.click("#what-reset")
    expect(page.locator("#what-step")).to_have_value("0")


def test_dark_and_light_are_a_button_apart(browser: Browser, report: Path) -> None:
    page = Reading(browser, report, color_scheme="light").page
    colour = "() => [getComputedStyle(document.body).backgroundColor, report.views.pareto.signal('ink')]"
    before = page.evaluate(colour)
    page.click("#theme")
    after = page.evaluate(colour)
    assert before[0] != after[0]
    assert before[1] != after[1]
    page.click("#theme")
    assert page.evaluate(colour) == before


def test_without_scripts_the_figures_are_there(browser: Browser, report: Path, facts: RunFacts) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("#builds tbody tr").count() == len(facts.records)
    expect(page.locator("h1")).to_contain_text("the target alone")
    expect(page.locator(".filters")).to_be_hidden()


def test_a_page_of_500_builds_is_small_and_quick(browser: Browser, tmp_path: Path) -> None:
    write_report(synthetic_facts(builds=500), tmp_path / "report")
    report = tmp_path / "report" / "index.html"
    assert report.stat().st_size <= MOST_BYTES
    visit = Reading(browser, report)
    visit.page.locator('#builds th[data-sort="draft"] button').click()
    assert len(visit.column(1)) == 500
    assert visit.complaints == []
