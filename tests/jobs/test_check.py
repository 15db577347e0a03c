from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from jobs import check
from orchestrator.errors import Problem

EXTRA = """\
from pydantic import Field
from orchestrator.errors import Problem
from orchestrator.section import Section

class Inner(Section):
    weight: float = 1.0

class Settings(Section):
    steps: int = Field(1, ge=1)
    path: str = ""
    parts: dict[str, Inner] = {}

def problems(settings):
    return [Problem(place="steps", fact="Too many.", way_out="Ask for less.")] if settings.steps > 99 else []

def missing(settings):
    return ["path: There is no such file.", "This machine is too small."] if settings.path == "none" else []
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job from elsewhere, as a user may bring one."""
    folder = tmp_path / "brought"
    (folder / "along").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "along" / "__init__.py").touch()
    (folder / "along" / "settings.py").write_text(EXTRA)
    (folder / "bare.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return "brought.along"


def role(job: str, settings: Any = None, *, name: str = "a", kind: str = "batch") -> dict[str, Any]:
    return {"name": name, "job": job, "kind": kind, "settings": settings or {}}


def problems(*roles: dict[str, Any]) -> list[str]:
    return [
        f"{'.'.join(map(str, fault.path))}: {fault.fact} {fault.way_out}".rstrip()
        for fault in check.check(roles).problems
    ]


def test_a_job_that_exists_has_no_problem() -> None:
    assert problems(role("command", {"argv": ["ls", "-l"]})) == []


def test_a_job_that_knows_one_node_only_gets_no_more() -> None:
    judge = role("judge", {"model": "m"}, kind="service")
    assert problems(judge | {"nodes": 2}) == [
        "roles.a.nodes: A 'judge' runs on one node, not on 2. More copies of it are 'replicas'. Set nodes: 1."
    ]
    assert problems(judge | {"nodes": 1}) == []
    assert problems(role("command", {"argv": ["ls"]}) | {"nodes": 2}) == []


def test_a_service_that_runs_elsewhere_is_no_job() -> None:
    assert problems(role("", {"model": "big"}, kind="service") | {"url": "https://elsewhere/v1"}) == []


TRAIN = {"model": "m", "data": {"source": "geo3k", "path": "{tiny.data}"}, "rewards": {"visual_perception": 0.7}}
EVAL = {"models": {"a": "m"}, "tasks": {"t": {"source": "geo3k", "path": "{tiny.data}"}}}


def asking(job: str, settings: dict[str, Any], **fields: Any) -> list[str]:
    """Return the problems of a role that asks a judge, beside a judge that runs elsewhere."""
    return problems({"name": "judge", "url": "https://elsewhere/v1"}, role(job, settings) | fields)


@pytest.mark.parametrize(
    ("job", "settings", "place"),
    [
        pytest.param(
            "grpo",
            TRAIN | {"rewards": {"visual_perception": {"weight": 0.7, "judge": "jugde"}}},
            "rewards.visual_perception.judge",
            id="training",
        ),
        pytest.param("eval", EVAL | {"judge": "jugde"}, "judge", id="evaluation"),
        pytest.param(
            "eval",
            EVAL | {"rewards": {"accuracy": 1, "visual_perception": {"weight": 1, "judge": "jugde"}}},
            "rewards.visual_perception.judge",
            id="evaluation with its own rewards",
        ),
    ],
)
def test_a_misspelt_judge_answers_with_the_nearest_role(job: str, settings: dict[str, Any], place: str) -> None:
    assert asking(job, settings, needs=["judge"]) == [
        f"roles.a.with.{place}: There is no role 'jugde'. Did you mean 'judge'?"
    ]


def test_a_judge_that_is_not_needed_may_be_gone_when_it_is_asked() -> None:
    assert asking("grpo", TRAIN, needs=[]) == [
        "roles.a.with.rewards.visual_perception.judge: 'a' asks the role 'judge', but does not need it. "
        "Add 'judge' to its 'needs'."
    ]


def test_a_judge_that_is_needed_may_be_asked() -> None:
    assert asking("grpo", TRAIN, needs=["judge"]) == []
    assert asking("grpo", TRAIN | {"rewards": {"accuracy": 1}}, needs=[]) == []


def test_an_unknown_job_answers_with_the_nearest() -> None:
    assert problems(role("comand")) == ["roles.a.job: There is no job 'comand'. Did you mean 'command'?"]


def test_an_unknown_module_is_an_unknown_job() -> None:
    assert problems(role("no.such.module"))[0].startswith("roles.a.job: There is no job 'no.such.module'. Known jobs: ")


@pytest.mark.parametrize("name", ["../evil", "os;rm", "a..b", ".a", "a b.c"])
def test_a_name_that_is_no_module_is_not_looked_for(name: str) -> None:
    assert problems(role(name))[0].startswith(f"roles.a.job: There is no job {name!r}.")


def test_a_module_from_elsewhere_is_checked_by_its_own_settings(package: str) -> None:
    assert problems(role(package, {"stps": 1})) == ["roles.a.with.stps: No such key. Did you mean 'steps'?"]


@pytest.mark.usefixtures("package")
def test_a_module_without_settings_takes_anything() -> None:
    assert problems(role("brought.bare", {"anything": 1})) == []


def test_all_settings_are_checked_at_once(package: str) -> None:
    settings = {"steps": 0, "parts": {"x": {"wieght": 1}, "y": {"weight": "heavy"}}}

    assert problems(role(package, settings), role("comand", name="b")) == [
        "roles.a.with.steps: Input should be greater than or equal to 1, got 0.",
        "roles.a.with.parts.x.wieght: No such key. Did you mean 'weight'?",
        "roles.a.with.parts.y.weight: Input should be a valid number, unable to parse string as a number, got 'heavy'.",
        "roles.b.job: There is no job 'comand'. Did you mean 'command'?",
    ]


def test_a_placeholder_may_stand_for_anything(package: str) -> None:
    assert problems(role(package, {"steps": "{tiny.steps}", "path": "{tiny.path}/x"})) == []


def test_a_placeholder_hides_no_other_problem(package: str) -> None:
    assert problems(role(package, {"steps": "{tiny.steps}", "pth": "x"})) == [
        "roles.a.with.pth: No such key. Did you mean 'path'?"
    ]


def test_a_job_adds_problems_of_its_own(package: str) -> None:
    assert problems(role(package, {"steps": 100})) == ["roles.a.with.steps: Too many. Ask for less."]


def test_what_this_machine_lacks_is_told_apart_from_what_is_wrong(package: str) -> None:
    found = check.check([role(package, {"path": "none"})])

    assert found.problems == []
    assert [(fault.path, fault.fact) for fault in found.missing] == [
        (("roles", "a", "with", "path"), "There is no such file."),
        (("roles", "a", "with"), "This machine is too small."),
    ]


def test_a_service_that_nobody_needs_would_never_end(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    server = check.Job(module=package, settings=f"{package}.settings", kind="service")
    monkeypatch.setitem(check.JOBS, "server", server)

    assert problems(role("server", name="judge")) == [
        "roles.judge.job: A 'server' serves until nobody needs it, but no role needs 'judge'. "
        "Add 'judge' to the 'needs' of the roles that use it."
    ]


def test_a_batch_job_serves_nobody() -> None:
    assert problems(role("command", {"argv": ["ls"]}, kind="service")) == [
        "roles.a.job: A 'command' ends by itself and serves nobody, but a role needs 'a'. "
        "Put 'a' under 'after' instead of 'needs'."
    ]


def test_a_job_whose_files_have_fixed_names_is_alone(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    trainer = check.Job(module=package, settings=f"{package}.settings", alone=True)
    monkeypatch.setitem(check.JOBS, "trainer", trainer)

    found = problems(role("trainer", name="a"), role("trainer", name="b"))

    assert [line.split(":")[0] for line in found] == ["roles.a.job", "roles.b.job"]
    assert "Only one role of a run can be a 'trainer'" in found[0]


def test_the_answer_is_one_json_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"roles": [role("comand")]})))

    code = check.main(["-"])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == {
        "problems": [
            {
                "path": ["roles", "a", "job"],
                "place": "roles.a.job",
                "fact": "There is no job 'comand'.",
                "way_out": "Did you mean 'command'?",
            }
        ],
        "missing": [],
    }


def test_a_program_that_is_not_installed_is_missing() -> None:
    from jobs.command import settings

    lacking = settings.missing(settings.Settings(argv=("no-such-program",)))

    assert lacking == [
        Problem(
            place="argv",
            fact="There is no program 'no-such-program'.",
            way_out="Install it, or give its path; a relative one starts at the checkout.",
        )
    ]
