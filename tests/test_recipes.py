"""Every recipe that we ship is valid, and renders, on any machine."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

from orchestrator import inspection, plan, profile, recipe, render
from orchestrator.plan import Plan

CHECKOUT = Path(__file__).parent.parent
RECIPES = sorted((CHECKOUT / "recipes").glob("*.yaml"))
PROFILES = sorted((CHECKOUT / "cluster").glob("*.yaml"))


def name(path: Path) -> str:
    return path.stem


@cache
def planned(path: Path) -> Plan:
    site = profile.load("local", CHECKOUT / "cluster")
    read = recipe.load(path)
    return plan.build(read, site, cluster="local", source=path.name, sha256=recipe.read(path).sha256)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_name_in_the_recipe_exists(path: Path) -> None:
    source = recipe.read(path)
    _, problems = recipe.check(source)
    with inspection.Inquiry(source.data, CHECKOUT) as inquiry:
        never, _ = inquiry.faults()

    assert [str(problem) for problem in problems] == []
    assert [str(source.problem(fault)) for fault in never] == []


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_the_recipe_is_planned_and_rendered(path: Path) -> None:
    site = render.Site(checkout=CHECKOUT, python=Path(sys.executable), run_dir=Path("/runs/x"))

    script = render.script(planned(path), site)

    assert plan.from_json(plan.to_json(planned(path))) == planned(path)
    assert script.endswith("-m orchestrator.allocation.supervisor --run-dir /runs/x\n")


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_the_recipe_is_called_like_its_file(path: Path) -> None:
    assert recipe.load(path).name == path.stem


@pytest.mark.parametrize("path", PROFILES, ids=name)
def test_the_profile_is_valid(path: Path) -> None:
    site = profile.load(path.stem, CHECKOUT / "cluster")

    assert site.executor == ("local" if path.stem == "local" else "slurm")


def test_the_tiny_recipe_is_the_real_one_with_a_role_that_makes_models() -> None:
    real = planned(CHECKOUT / "recipes/geo3k.yaml")
    tiny = planned(CHECKOUT / "recipes/geo3k-tiny.yaml")

    assert [role.name for role in real.roles] == ["judge", "train", "eval"]
    assert [role.name for role in tiny.roles] == ["tiny", "judge", "train", "eval"]
    assert {role.name: role.job for role in real.roles}.items() <= {role.name: role.job for role in tiny.roles}.items()
    assert sum(role.gpus_per_node for role in tiny.roles) == 0


def test_the_real_recipe_has_the_published_hyper_parameters() -> None:
    train = planned(CHECKOUT / "recipes/geo3k.yaml").role("train").settings

    assert (train["epochs"], train["prompts_per_step"], train["samples_per_prompt"]) == (25, 128, 8)
    assert train["policy"]["learning_rate"] == 1e-6
    assert (train["algorithm"]["clip_low"], train["algorithm"]["clip_high"]) == (0.2, 0.3)
    assert train["rewards"]["repetition"] == {"weight": 1.0, "ngram": 20, "max_penalty": -2.0}
