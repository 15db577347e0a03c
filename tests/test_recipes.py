"""Every recipe that we ship is valid, and renders, on any machine."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator import inspection, plan, profile, recipe, render
from orchestrator.plan import Plan

CHECKOUT = Path(__file__).parent.parent
FOLDER = CHECKOUT / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
TASKS = ("grounding", "counting", "ocr", "detection")
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
    real = planned(FOLDER / "geo3k.yaml")
    tiny = planned(FOLDER / "geo3k-tiny.yaml")

    assert [role.name for role in real.roles] == ["judge", "train", "eval"]
    assert [role.name for role in tiny.roles] == ["tiny", "judge", "train", "eval"]
    assert {role.name: role.job for role in real.roles}.items() <= {role.name: role.job for role in tiny.roles}.items()
    assert sum(role.gpus_per_node for role in tiny.roles) == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_tiny_twin_trains_by_the_same_rewards_and_algorithm(task: str) -> None:
    real = planned(FOLDER / f"{task}.yaml")
    tiny = planned(FOLDER / f"{task}-tiny.yaml")

    assert [role.name for role in real.roles] == ["train", "eval"]
    assert [role.name for role in tiny.roles] == ["tiny", "train", "eval"]
    assert sum(role.gpus_per_node for role in tiny.roles) == 0
    assert tiny.role("tiny").settings["task"] == task
    for part in ("rewards", "algorithm", "samples_per_prompt", "format_prompt"):
        assert tiny.role("train").settings[part] == real.role("train").settings[part]
    for part in ("rewards", "measure"):
        assert tiny.role("eval").settings[part] == real.role("eval").settings[part]
    assert list(tiny.role("eval").settings["tasks"]) == ["scenes"]


@pytest.mark.parametrize("task", TASKS)
def test_recipes_of_pr1_have_the_published_hyper_parameters(task: str) -> None:
    train = planned(FOLDER / f"{task}.yaml").role("train").settings
    engine, algorithm, policy = (train[name] for name in ("engine", "algorithm", "policy"))

    assert train["model"] == ("Qwen/Qwen2.5-VL-3B-Instruct" if task == "detection" else "Qwen/Qwen2-VL-2B-Instruct")
    # 7 ranks, 8 completions each, 2 accumulated: 112 completions of 14 prompts.
    assert (train["prompts_per_step"], train["samples_per_prompt"], train["epochs"]) == (14, 8, 1)
    assert (policy["learning_rate"], policy["schedule"]) == (1e-6, "linear")
    assert (algorithm["kl_coefficient"], algorithm["kl"], algorithm["kl_in"]) == (0.04, "k3", "loss")
    assert (algorithm["eps"], algorithm["aggregation"]) == (1e-4, "seq_mean_token_mean")
    assert engine["temperature"] == 1.0
    assert engine["max_new_tokens"] == (768 if task in ("grounding", "counting") else 2048)
    assert engine["keep_special_tokens"] is (task in ("grounding", "counting"))
    assert train["data"]["prompt"] == f"pr1_{task}"
    assert train["data"]["resize"]["max_pixels"] == 1_000_000
    if task in ("grounding", "ocr"):
        assert train["data"]["take"] == "first:5000"


def test_each_ablation_is_its_recipe_but_for_what_it_leaves_out() -> None:
    def rewards(name: str) -> dict[str, Any]:
        given: dict[str, Any] = planned(FOLDER / f"{name}.yaml").role("train").settings["rewards"]
        return given

    full = rewards("geo3k")
    assert rewards("ablations/geo3k-accuracy-only") == {name: full[name] for name in ("accuracy", "format")}
    assert rewards("ablations/geo3k-no-visual")["visual_perception"]["weight"] == 0
    assert rewards("ablations/geo3k-no-repetition")["repetition"]["weight"] == 0
    assert rewards("ablations/geo3k-vision-judge")["visual_perception"]["judge_sees"] == "image"
    for task in ("counting", "detection"):
        assert rewards(f"ablations/{task}-in-order")[task] == {**rewards(task)[task], "matching": "in_order"}
    for task in TASKS:
        assert rewards(f"ablations/{task}-thinking")["thinking"] == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_sft_comes_alone_and_before_rl(task: str) -> None:
    alone = planned(FOLDER / f"ablations/{task}-sft.yaml")
    both = planned(FOLDER / f"ablations/{task}-sft-rl.yaml")

    assert [role.job for role in alone.roles] == ["sft", "eval"]
    assert [role.job for role in both.roles] == ["sft", "grpo", "eval"]
    assert alone.role("eval").settings["models"]["after"] == "{sft.model}"
    assert both.role("train").settings["model"] == "{sft.model}"
    assert both.role("sft").settings["path"] == both.role("train").settings["data"]["path"]


def test_the_curriculum_goes_through_the_parts_with_ever_more_samples() -> None:
    stages = [planned(FOLDER / f"ablations/detection-curriculum-{k}.yaml").role("train").settings for k in (1, 2, 3)]

    assert [stage["data"]["path"][-14:] for stage in stages] == [f"part-{k}.parquet" for k in (1, 2, 3)]
    assert [stage["samples_per_prompt"] for stage in stages] == [8, 12, 16]
    assert [stage["model"][-7:] for stage in stages[1:]] == ["model-1", "model-2"]


def test_the_real_recipe_has_the_published_hyper_parameters() -> None:
    train = planned(FOLDER / "geo3k.yaml").role("train").settings

    assert (train["epochs"], train["prompts_per_step"], train["samples_per_prompt"]) == (25, 128, 8)
    assert train["policy"]["learning_rate"] == 1e-6
    assert (train["algorithm"]["clip_low"], train["algorithm"]["clip_high"]) == (0.2, 0.3)
    assert train["rewards"]["repetition"] == {"weight": 1.0, "ngram": 20, "max_penalty": -2.0}
