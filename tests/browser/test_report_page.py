"""The report in a real browser: what people click, drag, type and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from eval.report import build
from orchestrator.run_directory import RunDirectory
from tests.browser.conftest import LAPTOP, PHONE, Opens
from tests.eval.fake_run import write_lines

pytestmark = pytest.mark.slow

ATTACK = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'
CHART = 'figure[data-chart]:has(figcaption span:text-is("Accuracy"))'


def rows_of(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the rollouts as the page should have them: the last of each, in the order of the first."""
    latest: dict[tuple[int, str, int], dict[str, Any]] = {}
    for line in run.rollouts.read_text().splitlines():
        row = json.loads(line)
        latest[row["step"], row["id"], row["sample"]] = row
    return list(latest.values())


def expect_found(page: Page, count: int, of: int) -> None:
    """Wait until the page says that so many rollouts fit."""
    expect(page.locator("#found")).to_have_text(f"{count:,} of {of:,} rollouts.")


def attribute(page: Page, selector: str, name: str) -> float:
    return float(page.locator(selector).first.get_attribute(name) or "nan")


def ticks(page: Page) -> list[float]:
    """Return the steps written below the accuracy's curve."""
    return [float(text) for text in page.locator(f'{CHART} text[text-anchor="middle"]').all_text_contents()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_it_opens_without_errors_and_never_scrolls_sideways(
    opened: Opens, report: Path, size: tuple[int, int], scheme: str
) -> None:
    page = opened(report, size, scheme)

    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert page.locator("#list .row").count() > 5
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_a_comparison_opens_without_errors_on_a_phone(opened: Opens, comparison: Path) -> None:
    page = opened(comparison, PHONE)

    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    assert page.locator(f"{CHART} polyline.s1").count() == 2  # faint and bold


def test_without_a_script_curves_are_there_and_the_browser_says_what_it_needs(opened: Opens, report: Path) -> None:
    page = opened(report, java_script_enabled=False)

    assert page.locator("svg.chart polyline").first.is_visible()
    assert page.locator("#chart-tools").is_hidden()
    assert page.locator("#browser").is_hidden()
    assert "a script is needed" in page.locator("#rollouts").inner_text()


def test_dark_and_light_can_be_chosen(opened: Opens, report: Path) -> None:
    page = opened(report, scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)

    page.click("#theme")

    assert page.evaluate(ground) != before
    page.click("#theme")
    assert page.evaluate(ground) == before


@pytest.mark.parametrize(
    ("fill", "fits"),
    [
        pytest.param({"outcome": "1"}, lambda r: r["rewards"].get("accuracy") == 1 or overlaps(r), id="right"),
        pytest.param({"low": "5", "high": "7"}, lambda r: 5 <= r["step"] <= 7, id="steps"),
        pytest.param(
            {"part": "visual_perception", "least": "1"}, lambda r: r["rewards"].get("visual_perception") == 1, id="part"
        ),
        pytest.param({"missing": "on"}, lambda r: None in r["rewards"].values(), id="missing verdicts"),
        pytest.param({"kind": "grounding"}, lambda r: r["kind"] == "grounding", id="kind"),
        pytest.param({"text": "GREY circle"}, lambda r: "grey circle" in r["response"], id="text"),
        pytest.param({"low": "99"}, lambda _: False, id="none"),
    ],
)
def test_filters_leave_the_rollouts_that_fit(
    opened: Opens, report: Path, run: RunDirectory, fill: dict[str, str], fits: Any
) -> None:
    page = opened(report)

    for name, value in fill.items():
        field = page.locator(f'#filters [name="{name}"]')
        if name == "missing":
            field.check()
        elif name in ("outcome", "part", "kind"):
            field.select_option(value)
        else:
            field.fill(value)

    rows = rows_of(run)
    expect_found(page, sum(map(fits, rows)), len(rows))
    page.click('#filters button[type="reset"]')
    expect_found(page, len(rows), len(rows))


def overlaps(row: dict[str, Any]) -> bool:
    return bool(row["kind"] == "grounding" and row["rewards"]["iou"] >= 0.5)


def test_highest_reward_first(opened: Opens, report: Path, run: RunDirectory) -> None:
    page = opened(report)

    page.select_option('[name="order"]', "-value")

    best = sorted((row["total"] for row in rows_of(run) if row["total"] is not None), reverse=True)
    values = page.locator("#list .row .value")
    expect(values.first).to_have_text(f"{best[0]:.3g}")
    assert [float(text) for text in values.all_inner_texts()[:8]] == [float(f"{total:.3g}") for total in best[:8]]


def test_true_and_stated_boxes_lie_where_they_are_in_the_image(opened: Opens, report: Path, run: RunDirectory) -> None:
    page = opened(report)
    page.select_option('[name="kind"]', "grounding")
    page.wait_for_selector(".frame svg .true rect")
    row = next(row for row in rows_of(run) if row["kind"] == "grounding")
    left, top, right, bottom = json.loads(row["response"].split("<answer>")[1].split("</answer>")[0])

    for css, box in (("true", (8, 14, 34, 40)), ("stated", (left, top, right, bottom))):
        drawn = [attribute(page, f".frame svg .{css} rect", name) for name in ("x", "y", "width", "height")]
        assert drawn == pytest.approx([box[0], box[1], box[2] - box[0], box[3] - box[1]], abs=0.02)
    image, over = page.locator(".frame img").bounding_box(), page.locator(".frame svg").bounding_box()
    assert image
    assert over
    for side in ("x", "y", "width", "height"):
        assert over[side] == pytest.approx(image[side], abs=2.5)  # type: ignore[literal-required]


def test_a_response_has_its_tags_coloured_and_each_fact_its_verdict(
    opened: Opens, report: Path, run: RunDirectory
) -> None:
    page = opened(report)
    page.select_option('[name="kind"]', "math")
    page.wait_for_selector(".facts-asked li")
    row = next(row for row in rows_of(run) if row["kind"] == "math")

    # The list is filtered a moment after the choice.
    expect(page.locator("pre.response")).to_have_js_property("innerText", row["response"])
    colours = page.evaluate(
        "[...document.querySelectorAll('pre.response, .in-think, .in-answer')].map((e) => getComputedStyle(e).color)"
    )
    assert len(set(colours)) >= 2
    signs = page.locator(".facts-asked .outcome").all_inner_texts()
    said = {"yes": "1", "no": "0"}
    assert len(signs) == 2
    assert signs == ["✓" if f"<info{k}>{said['yes']}" in row["judge"]["reply"] else "✗" for k in (1, 2)]


def test_the_samples_of_a_group_lead_to_each_other(opened: Opens, report: Path) -> None:
    page = opened(report)

    assert page.locator(".group button").count() == 8
    page.locator(".group button").nth(3).click()

    expect(page.locator("#shown .chips")).to_contain_text("sample 3")
    expect(page.locator('#list [aria-selected="true"]')).to_contain_text("sample 3")


def test_the_keyboard_walks_through_rollouts(opened: Opens, report: Path, run: RunDirectory) -> None:
    page = opened(report)
    page.focus("#list")

    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    expect(page.locator("#shown .chips")).to_contain_text("sample 2")
    assert page.get_attribute("#list", "aria-activedescendant") == "row-2"

    page.keyboard.press("End")
    last = rows_of(run)[-1]
    expect(page.locator("#shown .chips")).to_contain_text(f"step {last['step']}")
    assert page.locator(f'#row-{len(rows_of(run)) - 1}[aria-selected="true"]').is_visible()


def test_thousands_of_rollouts_are_a_few_rows_of_the_page(opened: Opens, report: Path, run: RunDirectory) -> None:
    page = opened(report)

    assert len(rows_of(run)) > 1500
    assert page.locator("#list .row").count() < 60
    page.evaluate("document.getElementById('list').scrollTop = 30000")
    page.wait_for_timeout(200)
    assert page.locator("#row-560").is_visible()


def test_dragging_across_a_curve_zooms_all_and_a_double_click_goes_back(opened: Opens, report: Path) -> None:
    page = opened(report)
    chart = page.locator(f"{CHART} svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box
    assert max(ticks(page)) > 20

    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=4)
    page.mouse.up()

    low, high = int(page.input_value("#low")), int(page.input_value("#high"))
    assert 5 <= low < high <= 20
    assert all(low <= tick <= high for tick in ticks(page))
    chart.dblclick(position={"x": 100, "y": 60})
    assert (page.input_value("#low"), page.input_value("#high")) == ("1", "30")


def test_the_keyboard_reads_values_and_zooms(opened: Opens, report: Path, run: RunDirectory) -> None:
    page = opened(report)
    page.focus(f"{CHART} svg")

    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    first = {row["step"]: row for row in map(json.loads, run.metrics.read_text().splitlines())}[2]
    told = page.locator("#tip").inner_text().split()
    assert told[:2] == ["step", "2"]
    assert float(told[-1]) == pytest.approx(first["reward/accuracy"], rel=0.01)

    page.keyboard.press("+")
    assert int(page.input_value("#high")) < 30
    page.keyboard.press("Escape")
    assert page.input_value("#high") == "30"


def test_smoothing_can_be_turned_off_and_up(opened: Opens, report: Path) -> None:
    page = opened(report)
    lines = page.locator(f"{CHART} polyline")
    assert lines.count() == 2

    page.fill("#smoothing", "0")
    assert lines.count() == 1
    assert page.locator("#smoothed").inner_text() == "none"

    page.fill("#smoothing", "50")
    assert lines.count() == 2
    assert page.locator("#smoothed").inner_text() == "mean of 17 steps"


def test_a_curve_can_be_enlarged(opened: Opens, report: Path) -> None:
    page = opened(report)
    chart = page.locator(f"{CHART} svg")
    before = chart.bounding_box()

    page.click(f"{CHART} .enlarge")

    after = chart.bounding_box()
    assert before
    assert after
    assert after["width"] > 2 * before["width"]
    assert page.get_attribute(f"{CHART} .enlarge", "aria-pressed") == "true"


def test_what_a_model_wrote_stays_text(opened: Opens, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "attacked")
    run.create()
    judge = {"reply": ATTACK, "latency_s": 1.0, "cached": False, "attempts": 1, "missing": ""}
    row = {"step": 1, "id": ATTACK, "sample": 0, "prompt": ATTACK, "images": [ATTACK], "answer": ATTACK, "judge": judge}
    row |= {"visual_key_info": ATTACK, "kind": ATTACK, "target": None, "response": ATTACK, "tokens": 1}
    write_lines(run.rollouts, [row | {"finish": "stop", "rewards": {ATTACK: 1.0}, "total": 1.0, "advantage": 0.0}])
    run.report.write_text(build(run), encoding="utf-8")

    page = opened(run.report)

    assert page.locator("pre.response").inner_text() == ATTACK
    assert page.locator("#shown img").count() == 0
    assert page.locator("#shown script").count() == 0


def test_ten_thousand_rollouts_open_in_under_two_seconds(opened: Opens, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "many")
    run.create()
    thought = " ".join(f"word{k * 7919 % 1000}" for k in range(300))
    rows = [
        {
            "step": 1 + k // 80,
            "id": f"p{k // 8}",
            "sample": k % 8,
            "prompt": f"Problem {k // 8}",
            "images": [],
            "answer": "1",
        }
        | {"visual_key_info": None, "response": f"{k} {thought}", "tokens": 300, "finish": "stop", "judge": None}
        | {"rewards": {"accuracy": float(k % 2)}, "total": k % 2, "advantage": 0.0}
        for k in range(10_000)
    ]
    write_lines(run.rollouts, rows)
    run.report.write_text(build(run), encoding="utf-8")

    # The best of three: other work on the machine is no fault of the page.
    took_ms = min(opened(run.report).evaluate("performance.now()") for _ in range(3))

    assert took_ms < 2000
