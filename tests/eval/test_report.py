from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval import report
from eval.report import __main__ as command
from eval.report.document import marked
from eval.report.rollouts import common_end
from orchestrator.files import write_json
from orchestrator.run_directory import RunDirectory
from tests.eval import fake_run
from tests.eval.fake_run import sample, write_lines

ATTACK = '<script>alert("x")</script><img src=x onerror=alert(1)></textarea>'


class Page(HTMLParser):
    """Elements of a page: their names and attributes, and all text outside style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script", "noscript"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str, css_class: str = "") -> int:
        return sum(
            name == tag and css_class in [*(attributes.get("class") or "").split(), ""]
            for name, attributes in self.tags
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return fake_run.make(tmp_path_factory.mktemp("runs") / "geo3k-tiny", steps=30, problems=60)


@pytest.fixture(scope="module")
def page(run: RunDirectory) -> Page:
    return Page(report.build(run))


@pytest.fixture
def empty(tmp_path: Path) -> RunDirectory:
    folder = RunDirectory(tmp_path / "new")
    folder.create()
    return folder


def compared(run: RunDirectory, b: int, c: int, both: int = 3) -> str:
    outcomes = [(True, True)] * both + [(True, False)] * b + [(False, True)] * c
    for position, label in enumerate(("before", "after")):
        rows = [sample(f"p{k}", correct=outcome[position]) for k, outcome in enumerate(outcomes)]
        write_lines(run.eval / label / "geometry3k" / "samples.jsonl", rows)
    return Page(report.build(run)).text


def test_the_mcnemar_line_is_there_and_right(empty: RunDirectory) -> None:
    text = compared(empty, b=2, c=10)

    assert (
        "McNemar exact test: b=2, c=10, p=0.039. Of 15 problems, 10 were wrong before and right after, "
        "2 the other way round; the difference is unlikely to be chance at the level 0.05." in text
    )
    assert "33.3 % → 86.7 %" in text
    assert "+53.3 points" in text


def test_a_difference_that_may_be_chance_is_called_so(empty: RunDirectory) -> None:
    assert "b=1, c=5, p=0.219" in (text := compared(empty, b=1, c=5))
    assert "may be chance" in text


def test_models_that_answered_different_problems_are_not_compared(empty: RunDirectory) -> None:
    write_lines(empty.eval / "before/t/samples.jsonl", [sample("a", correct=True), sample("b", correct=True)])
    write_lines(empty.eval / "after/t/samples.jsonl", [sample("b", correct=False)])

    text = Page(report.build(empty)).text

    assert "McNemar exact test: not yet" in text
    assert "(1 only before, 0 only after)" in text
    assert (
        "These evaluations have not finished: before on t (2 problems so far), after on t (1 problems so far)" in text
    )


def test_an_answer_that_could_not_be_checked_is_neither_right_nor_wrong(empty: RunDirectory) -> None:
    for label, outcome in (("before", False), ("after", None)):
        rows = [sample("a", correct=outcome), sample("b", correct=True)]
        write_lines(empty.eval / label / "t/samples.jsonl", rows)

    text = Page(report.build(empty)).text

    assert "b=0, c=0, p=1.00. Of 1 problems" in text
    assert "1 problems are left out of the test because an answer could not be checked." in text


def test_the_page_shows_every_part_of_a_complete_run(page: Page) -> None:
    for heading in ("Before and after", "Rewards", "Optimisation", "Judge", "Speed", "Rollouts", "Where the time went"):
        assert heading in page.text
    assert "geo3k-tiny succeeded" in page.text
    assert "balanced accuracy 0.985" in page.text
    assert "What the reward is made of" in page.text
    assert page.count("svg", "chart") >= 14
    assert page.count("aside", "missing") == 0


def test_curves_that_never_change_are_a_line_of_text(page: Page) -> None:
    assert "The same in every step: clipped tokens 0." in page.text


def test_every_second_of_the_run_has_a_cause(page: Page) -> None:
    # The ledger of 30 steps, all of them saved, runs from 0 to 328 s; a step takes less than 3 s.
    found = re.search(r"Goodput (\d+\.\d) % of 5 min 28 s allocated", page.text)
    assert found
    assert 15 < float(found.group(1)) < 30
    assert "30 steps are committed." in page.text
    assert "1 role restart." in page.text
    for cause in ("productive", "checkpoint", "start up", "other roles"):
        assert cause in page.text


def test_a_fault_is_a_mark_on_the_time_line_and_a_line_in_a_list(page: Page) -> None:
    assert page.count("svg", "mark-fault") >= 2
    assert page.count("svg", "mark-checkpoint") == 3 + 1  # and the legend's
    assert "train: killed by SIGKILL" in page.text


def test_the_page_needs_nothing_from_outside(run: RunDirectory) -> None:
    html = report.build(run)

    sources = {a.get("src") or a.get("href") for _, a in Page(html).tags if a.get("src") or a.get("href")}
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in sources if source)
    assert any(source.startswith("data:image/png;base64,") for source in sources if source)
    assert "http" not in re.sub(r"http://(www\.w3\.org/2000/svg|127\.0\.0\.1)", "", html).replace("http-equiv", "")


def test_what_a_model_wrote_cannot_become_part_of_the_page(empty: RunDirectory) -> None:
    rollout = {"step": 1, "id": ATTACK, "sample": 0, "prompt": ATTACK, "answer": ATTACK, "response": f"<think>{ATTACK}"}
    more = {"rewards": {ATTACK: 1.0}, "total": 1.0, "judge": {"reply": ATTACK, "missing": ATTACK}, "images": [ATTACK]}
    write_lines(empty.rollouts, [rollout | more | {"visual_key_info": ATTACK, "kind": ATTACK}])
    write_lines(empty.metrics, [{"step": 1, f"reward/{ATTACK}": 0.5}, {"step": 2, f"reward/{ATTACK}": 0.7}])
    write_lines(empty.ledger, [{"at": 1.0, "generation": 1, "event": ATTACK, "role": ATTACK, "cause": ATTACK}])
    for label, correct in (("before", False), ("after", True)):
        write_lines(empty.eval / label / "t/samples.jsonl", [sample("a", correct=correct, response=ATTACK)])

    html = report.build(empty)

    parsed = Page(html)
    assert ATTACK in parsed.text
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert sum("type" not in attributes for attributes in scripts) == 3
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert "</script><img" not in html


def test_only_the_pages_own_scripts_and_style_may_run(run: RunDirectory) -> None:
    html = report.build(run)

    policy = next(a["content"] for _, a in Page(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", policy)) == 4
    assert not re.search(r"<[a-z][^>]* style=", html)


def test_a_run_that_has_not_begun_says_what_is_missing(empty: RunDirectory) -> None:
    text = Page(report.build(empty)).text

    for sentence in (
        "There is no plan.json",
        "the run has not started",
        "There are no training metrics yet.",
        "No rollouts were recorded yet.",
        "No checkpoint has been committed yet.",
        "Nothing has been evaluated yet",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    "gone", ["plan.json", "ledger.jsonl", "metrics.jsonl", "rollouts.jsonl", "eval", "checkpoints"]
)
def test_a_report_without_one_of_the_pieces_is_still_written(tmp_path: Path, gone: str) -> None:
    whole = fake_run.make(tmp_path / "run", steps=12, prompts=2, samples=2, problems=4)
    (whole.path / gone).rename(tmp_path / "gone")

    parsed = Page(report.build(whole))

    assert parsed.count("aside", "missing") == 1


def test_a_log_cut_short_by_a_crash_is_read_up_to_there(empty: RunDirectory) -> None:
    line = json.dumps({"step": 1, "critic/rewards/mean": 0.5})
    empty.metrics.write_text(f'{line}\n{{"step": 2, "critic/rew')

    assert "Total reward" in Page(report.build(empty)).text


def test_the_state_is_that_of_the_newest_attempt(empty: RunDirectory) -> None:
    finished = {"at": 1.0, "generation": 1, "event": "run_finished", "state": "DRAINED"}
    write_lines(empty.ledger, [finished])
    assert "new drained" in Page(report.build(empty)).text

    write_lines(empty.ledger, [finished, {"at": 9.0, "generation": 2, "event": "attempt_started"}])
    assert "new unfinished" in Page(report.build(empty)).text


def test_before_comes_first_although_plans_sort_their_keys(empty: RunDirectory) -> None:
    write_json(
        empty.plan, {"roles": [{"name": "eval", "job": "eval", "settings": {"models": {"after": "", "before": ""}}}]}
    )

    assert "10 were wrong before and right after" in compared(empty, b=2, c=10)


def test_the_command_writes_the_page_and_says_where(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--run-dir", str(run.path)]) == 0

    assert capsys.readouterr().out.startswith(str(run.report))
    assert run.report.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_is_not_there_is_an_error_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--run-dir", str(tmp_path / "none")]) == 4

    assert "none is not a folder." in capsys.readouterr().err


def test_several_runs_without_a_file_for_the_page_are_an_error(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--run-dir", str(run.path), "--run-dir", str(run.path)]) == 2

    assert "--output: a comparison of 2 runs belongs to none of them. Name a file" in capsys.readouterr().err


def test_a_demo_sized_run_takes_less_than_three_seconds(tmp_path: Path) -> None:
    demo = fake_run.make(tmp_path / "demo", steps=60, problems=200)
    began = time.process_time()  # the machine may be busy with other tests

    report.build(demo)

    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        pytest.param(["How many? Use <answer>.", "How far? Use <answer>."], "Use <answer>.", id="an instruction"),
        pytest.param(["same.", "same."], "", id="only one prompt"),
        pytest.param(["one", "two"], "", id="nothing in common"),
        pytest.param([], "", id="no prompts"),
    ],
)
def test_the_instruction_is_what_all_prompts_end_with(prompts: list[str], expected: str) -> None:
    assert common_end(prompts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a < b", "a &lt; b", id="plain"),
        pytest.param(
            "<think>x</think>",
            '<span class="in-think"><b class="tag">&lt;think&gt;</b>x<b class="tag">&lt;/think&gt;</b></span>',
            id="a pair",
        ),
        pytest.param("<think>x", '<span class="in-think"><b class="tag">&lt;think&gt;</b>x</span>', id="never closed"),
        pytest.param("x</answer>", 'x<b class="tag">&lt;/answer&gt;</b>', id="never opened"),
        pytest.param("\\boxed{5}", '<b class="boxed">\\boxed{5}</b>', id="boxed"),
    ],
)
def test_known_tags_are_coloured_and_always_balanced(text: str, expected: str) -> None:
    assert marked(text) == expected
