from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator import plan, render
from orchestrator.plan import Placement, Plan, Restarts, Role

GOLDEN = Path(__file__).parent / "golden" / "submit.sh"


def a_plan(environment: dict[str, str] | None = None) -> Plan:
    return Plan(
        name="geo3k-tiny",
        recipe="recipes/geo3k-tiny.yaml",
        recipe_sha256="0" * 64,
        cluster="local",
        executor="local",
        placement=Placement(kind="local", why="Because."),
        time_limit_s=3600,
        restarts=Restarts(),
        roles=(Role(name="judge", job="judge", kind="service"), Role(name="train", job="grpo", kind="batch")),
        profile={"executor": "local", "environment": environment or {}},
    )


def test_the_script_is_the_golden_one() -> None:
    site = render.Site(checkout=Path("/home/me/a checkout"), python=Path("/venv/bin/python"), run_dir=Path("/runs/x"))

    script = render.script(a_plan({"SCRATCH": "/scratch/$USER"}), site)

    assert script == GOLDEN.read_text(), f"If the change is meant, write this to {GOLDEN}:\n{script}"


def test_nothing_in_a_name_reaches_the_shell(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    evil = f"$(touch {canary}); `touch {canary}` '\n touch {canary} #"
    site = render.Site(checkout=tmp_path, python=Path("/bin/true"), run_dir=Path(f"/runs/{evil}"))

    ended = subprocess.run(["bash", "-c", render.script(a_plan({"A": evil}), site)], check=False, timeout=10)

    assert ended.returncode == 0
    assert not canary.exists()


def test_the_same_plan_gives_the_same_script() -> None:
    site = render.Site(checkout=Path("/c"), python=Path("/p"), run_dir=Path("/r"))

    assert render.script(a_plan(), site) == render.script(plan.from_json(plan.to_json(a_plan())), site)
