"""The pages for people who do not see them, or not well, or use no pointer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.browser.conftest import LAPTOP, PHONE, Opens

pytestmark = pytest.mark.slow

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"
SERIOUS = ("serious", "critical")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
NAMELESS = """() => [...document.querySelectorAll('button, input, select, a[href], [tabindex="0"]')].filter((e) =>
    e.checkVisibility() && !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())
).map((e) => e.outerHTML.slice(0, 80))"""
LEVELS = "[...document.querySelectorAll('h1, h2, h3, h4')].filter((e) => e.checkVisibility()).map((e) => +e.tagName[1])"


@pytest.fixture(params=["report", "comparison"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_axe_finds_nothing_serious(opened: Opens, path: Path, axe: str, size: tuple[int, int], scheme: str) -> None:
    page = opened(path, size, scheme)
    page.evaluate(OPEN_ALL)
    page.evaluate(axe)  # past the page's own policy, as a debugger is

    found = page.evaluate("(rules) => axe.run(document, { runOnly: rules, resultTypes: ['violations'] })", RULES)

    told = [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"] if one["impact"] in SERIOUS]
    assert found["testEngine"]["name"] == "axe-core"
    assert told == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(opened: Opens, path: Path, scheme: str) -> None:
    page = opened(path, scheme=scheme)
    page.evaluate(OPEN_ALL)

    assert page.evaluate(CONTRAST) == []


def test_the_contrast_check_finds_grey_on_grey(opened: Opens, path: Path) -> None:
    page = opened(path)
    page.evaluate("document.querySelector('h1').style.color = '#999'")

    assert any("2." in told or "3." in told for told in page.evaluate(CONTRAST))


def test_every_control_has_a_name(opened: Opens, path: Path) -> None:
    page = opened(path)
    page.evaluate(OPEN_ALL)

    assert page.evaluate(NAMELESS) == []


def test_headings_make_an_outline_and_landmarks_divide_the_page(opened: Opens, path: Path) -> None:
    page = opened(path)

    levels = page.evaluate(LEVELS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert page.locator("main").count() == page.locator("nav").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"


def test_the_tab_key_reaches_every_control_in_view_and_shows_where_it_is(opened: Opens, report: Path) -> None:
    page = opened(report)
    reached = set()

    for _ in range(300):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.id || e.name || e.getAttribute('class') || e.tagName, s.outlineStyle !== 'none']; })()"
        )
        if told[0] == "BODY":  # past the last one
            break
        assert told[1], f"{told[0]} has the focus and does not show it"
        reached.add(told[0])

    assert {"theme", "smoothing", "low", "outcome", "order", "text", "list"} <= reached
