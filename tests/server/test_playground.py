"""The playground page in a headless Chromium, against a server of a real small pair."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from autotune.pair import Pair
from autotune.server.app import Limits
from tests.support.browsing import IN_A_BROWSER, Visit, chromium
from tests.support.serving import gated, serving

WIDTHS = {"wide": (1280, 860), "narrow": (390, 844)}

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


class Playing(Visit):
    """A visit to the playground."""

    def generate(self) -> None:
        self.page.click("#go")
        expect(self.page.locator("#status")).to_contain_text("drafted tokens accepted", timeout=20_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_tokens_are_coloured_and_compared(browser: Browser, url: str, pair: Pair, scheme: Any, width: str) -> None:
    columns, rows = WIDTHS[width]
    visit = Playing(browser, url, viewport={"width": columns, "height": rows}, color_scheme=scheme)
    page = visit.page
    expect(page.locator("#model")).to_contain_text("a draft of 6 layers × 4 heads × 352 FFN, k = 3")
    page.fill("#count", "48")
    visit.generate()
    expected = pair.generate("def main():", 48)
    assert page.locator("#text").text_content() == "def main():" + expected.text
    counts = {kind: page.locator(f"#text .{kind}").count() for kind in ("accepted", "corrected", "bonus")}
    assert sum(counts.values()) == 48
    assert counts["corrected"] + counts["bonus"] == expected.statistics.rounds == page.locator("#rounds .round").count()
    expect(page.locator("#status")).to_contain_text("The target alone writes the same text.")
    for shown in ("#pair-speed", "#alone-speed"):
        expect(page.locator(shown)).to_contain_text("tokens/s")
    expect(page.locator("#ratio")).to_contain_text("×")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= columns
    assert visit.inaccessible() == []
    assert visit.complaints == []
    assert all(asked.startswith((url, "data:")) for asked in visit.asked)


def test_keys_generate_and_stop(browser: Browser, pair: Pair) -> None:
    gate = threading.Semaphore(0)
    with serving(gated(pair.sibling(), gate)) as url:
        page = Playing(browser, url).page
        page.focus("#prompt")
        page.keyboard.press("Control+Enter")
        gate.release(4)
        expect(page.locator("#rounds .round")).not_to_have_count(0)
        page.keyboard.press("Escape")
        expect(page.locator("#status")).to_have_text("Stopped.")
        expect(page.locator("#stop")).to_be_disabled()
        gate.release(1000)


def test_hostile_text_is_text(browser: Browser, url: str) -> None:
    visit = Playing(browser, url)
    visit.page.fill("#prompt", '<img src=x onerror="alert(1)"><script>alert(2)</script>')
    visit.page.fill("#count", "8")
    visit.generate()
    assert visit.page.locator("#text img, #text script").count() == 0
    assert visit.complaints == []


def test_a_refusal_is_shown_in_one_line(browser: Browser, url: str) -> None:
    page = Playing(browser, url).page
    page.fill("#count", "5000")
    page.click("#go")
    expect(page.locator("#status.bad")).to_contain_text("the context has 512 tokens")


def test_a_key_is_asked_for(browser: Browser, pair: Pair) -> None:
    with serving(pair.sibling(), limits=Limits(api_key="secret")) as url:
        page = Playing(browser, url).page
        expect(page.locator("#status.bad")).to_contain_text("API key")
        page.fill("#key", "secret")
        page.keyboard.press("Tab")
        expect(page.locator("#model")).to_contain_text("k = 3")
        page.click("#go")
        expect(page.locator("#status")).to_contain_text("drafted tokens accepted", timeout=20_000)


def test_settings_reach_the_server(browser: Browser, url: str) -> None:
    visit = Playing(browser, url)
    expect(visit.page.locator("#model")).to_contain_text("k = 3")
    visit.page.locator("#k").fill("1")
    visit.page.locator("#temperature").fill("0.7")
    visit.page.fill("#count", "30")
    visit.generate()
    assert visit.page.locator("#rounds .round i").count() <= visit.page.locator("#rounds .round").count()
    first = visit.page.locator("#text").text_content()
    visit.generate()
    assert visit.page.locator("#text").text_content() == first
    visit.page.fill("#seed", "2")
    visit.generate()
    assert visit.page.locator("#text").text_content() != first
