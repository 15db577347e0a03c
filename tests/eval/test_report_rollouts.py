from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.report import drawing, pictures, rollouts
from eval.report.drawing import Writing
from eval.report.rollouts import Packed
from eval.target import Space, Target
from jobs.rewards.settings import Rewards
from orchestrator.run_directory import RunDirectory
from tests.eval.fake_run import write_lines

SPACE = Space(system="pixel", width_px=200, height_px=100)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    folder = RunDirectory(tmp_path / "run")
    folder.create()
    (folder.path / "images").mkdir()
    return folder


def row(step: int = 1, example: str = "a", sample: int = 0, **more: Any) -> dict[str, Any]:
    known = {"step": step, "id": example, "sample": sample, "prompt": f"<image>What is {example}?", "images": []}
    known |= {"answer": "5", "visual_key_info": None, "kind": "math", "target": None, "response": "5", "tokens": 1}
    return (
        known | {"finish": "stop", "rewards": {"accuracy": 1.0}, "total": 1.0, "advantage": 0.0, "judge": None} | more
    )


def pack(run: RunDirectory, rows: list[dict[str, Any]], plan: dict[str, Any] | None = None, **more: Any) -> Packed:
    write_lines(run.rollouts, rows)
    return rollouts.pack(run, plan or {}, **more)


def unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def texts(packed: Packed) -> list[Any]:
    blocks = sorted((name for name in packed.blocks if name.startswith("texts-")), key=lambda name: int(name[6:]))
    return [text for name in blocks for text in unpacked(packed.blocks[name])]


def noise(run: RunDirectory, number: int, side: int = 200) -> str:
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    name = f"images/{number:016x}.png"
    Image.fromarray(pixels).save(run.path / name)
    return name


def test_every_rollout_is_there_with_its_whole_response(run: RunDirectory) -> None:
    rows = [
        row(step, f"p{k}", sample, response=f"{step} {k} {sample} " + "x" * 5000)
        for step in (1, 2)
        for k in range(60)
        for sample in range(4)
    ]

    packed = pack(run, rows)

    assert packed.table.rollouts == len(packed.table.step) == 480
    assert [text[0] for text in texts(packed)] == [one["response"] for one in rows]
    assert len(packed.table.ids) == 60


def test_a_rollout_made_again_after_a_restart_is_there_once_as_it_was_made_last(run: RunDirectory) -> None:
    first = [row(1, "a", k, response="old", total=0.0, rewards={"accuracy": 0.0}) for k in range(250)]
    again = row(1, "a", 7, response="new", total=2.0, rewards={"accuracy": 1.0, "format": 0.5})

    packed = pack(run, [*first, again])

    assert packed.table.rollouts == 250
    assert texts(packed)[7][0] == "new"
    assert packed.table.total[7] == 2.0
    assert packed.table.parts["format"] == [rollouts.ABSENT] * 7 + [0.5] + [rollouts.ABSENT] * 242


def test_a_missing_part_is_told_from_one_that_does_not_apply(run: RunDirectory) -> None:
    rows = [row(sample=0, rewards={"accuracy": None}), row(sample=1, rewards={"iou": 0.25}), row(sample=2)]

    packed = pack(run, rows)

    assert packed.table.parts == {"accuracy": [None, False, 1.0], "iou": [False, 0.25, False]}
    assert packed.table.outcome == [-1, -1, 1]


def test_facts_and_what_the_judge_found_of_each_come_together(run: RunDirectory) -> None:
    info = "<info1>AB is 5</info1>\n<info2>B is right</info2>"
    reply = "<info1>1</info1><info2>0</info2>"
    judge = {"reply": reply, "latency_s": 0.25, "cached": False, "attempts": 1, "missing": ""}

    packed = pack(run, [row(visual_key_info=info, judge=judge)])

    assert unpacked(packed.blocks["problems-0"])[0][3] == ["AB is 5", "B is right"]
    assert texts(packed)[0][1] == [reply, [1.0, 0.0], "", 0.25, 0, 1]


def test_a_verdict_that_is_missing_has_a_reason_and_no_scores(run: RunDirectory) -> None:
    judge = {"reply": "", "latency_s": 0.0, "cached": False, "attempts": 2, "missing": "no verdict within 10 s"}

    packed = pack(run, [row(visual_key_info="<info1>x</info1>", judge=judge)])

    assert texts(packed)[0][1] == ["", [], "no verdict within 10 s", 0.0, 0, 2]


@pytest.mark.parametrize(
    ("rewards", "response"),
    [
        pytest.param(1.0, "[100, 100, 500, 500]", id="the reward's default"),
        pytest.param({"weight": 1.0, "coordinates": "pixel"}, "[20, 10, 100, 50]", id="what the recipe says"),
        pytest.param(None, "[20, 10, 100, 50]", id="without the reward the truth's"),
    ],
)
def test_boxes_are_shares_of_the_image_whatever_units_they_are_written_in(
    run: RunDirectory, rewards: Any, response: str
) -> None:
    target = Target(space=SPACE, boxes=((20.0, 10.0, 100.0, 50.0),))
    plan = {"roles": [{"job": "grpo", "settings": {"rewards": {"grounding": rewards}}}]}
    rows = [row(kind="grounding", target=target.to_json(), response=response, rewards={"grounding": 1.0})]

    packed = pack(run, rows, plan)

    assert unpacked(packed.blocks["problems-0"])[0][4:] == [{"boxes": [[0.1, 0.1, 0.5, 0.5]]}, [200, 100]]
    assert texts(packed)[0][2] == {"boxes": [[0.1, 0.1, 0.5, 0.5]]}
    assert packed.table.outcome == [1]


@pytest.mark.parametrize(
    ("kind", "response", "expected"),
    [
        pytest.param("grounding", "no idea", {}, id="nothing stated"),
        pytest.param("counting", "(20, 10) and (100, 50)", {"points": [[0.1, 0.1], [0.5, 0.5]]}, id="points"),
        pytest.param(
            "detection",
            '[{"bbox_2d": [20, 10, 100, 50], "label": "cat"}]',
            {"boxes": [[0.1, 0.1, 0.5, 0.5]], "labels": ["cat"]},
            id="names",
        ),
        pytest.param(
            "grounding", "[900000000, 0, -900000000, 1]", {"boxes": [[2.0, 0.0, -2.0, 0.01]]}, id="far outside"
        ),
    ],
)
def test_what_a_response_states_is_drawn_as_its_metric_reads_it(
    kind: str, response: str, expected: dict[str, Any]
) -> None:
    target = Target(space=SPACE, count=2)

    assert drawing.stated(response, target, kind, Writing(coordinates="pixel")) == expected


def test_two_pairs_are_two_points_for_a_model_that_writes_points() -> None:
    plan = {"roles": [{"job": "grpo", "settings": {"rewards": {"counting": {"weight": 1.0, "writes": "points"}}}}]}
    how = drawing.writing(plan)["counting"]

    found = drawing.stated("(100, 100), (500, 500)", Target(space=SPACE, count=2), "counting", how)

    assert found == {"points": [[0.1, 0.1], [0.5, 0.5]]}


@pytest.mark.parametrize("kind", ["grounding", "counting", "detection"])
def test_what_a_plan_leaves_out_is_what_the_reward_takes_for_granted(kind: str) -> None:
    reward = getattr(Rewards.model_validate({kind: 1.0}), kind)

    assert drawing.DEFAULTS[kind].coordinates == reward.coordinates
    assert drawing.DEFAULTS[kind].writes == getattr(reward, "writes", "boxes")


def test_a_target_that_is_none_is_not_drawn(run: RunDirectory) -> None:
    packed = pack(run, [row(kind="grounding", target={"space": "nonsense"}, response="[1, 2, 3, 4]")])

    assert texts(packed)[0][2] == {}


def test_weights_are_read_from_numbers_mappings_and_functions_of_ones_own() -> None:
    rewards = {
        "accuracy": 0.9,
        "visual_perception": {"weight": 0.7},
        "own": {"me.mine:part": {"weight": 2.0}},
        "faithful": False,
    }

    found = rollouts.weights({"roles": [{"job": "grpo", "settings": {"rewards": rewards}}]})

    assert found == {"accuracy": 0.9, "visual_perception": 0.7, "me.mine:part": 2.0}
    assert rollouts.weights({}) == {}


def test_an_image_of_many_rollouts_is_there_once(run: RunDirectory) -> None:
    image = noise(run, 1)

    packed = pack(run, [row(step, images=[image]) for step in range(1, 20)])

    assert len(packed.images) == 1
    assert packed.images[0].startswith("data:image/png;base64,")


def test_images_are_made_smaller_until_all_fit_and_none_is_left_out(run: RunDirectory) -> None:
    rows = [row(1, f"p{k}", images=[noise(run, k)]) for k in range(40)]  # 120 kB each

    packed = pack(run, rows, page_bytes=1_000_000)

    assert packed.images_left_out == 0
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in packed.images)
    assert packed.size_bytes < 1_000_000


def test_images_that_find_no_room_are_counted(run: RunDirectory) -> None:
    rows = [row(1, f"p{k}", images=[noise(run, k)]) for k in range(40)]

    packed = pack(run, rows, page_bytes=60_000)

    assert 0 < packed.images_left_out < 40
    assert packed.size_bytes < 60_000


def test_more_text_than_fits_leaves_out_whole_groups_and_says_so(run: RunDirectory) -> None:
    generator = np.random.default_rng(1)
    said = [generator.bytes(300).hex() for _ in range(800)]
    rows = [row(1 + k // 80, f"p{k // 8}", k % 8, response=said[k]) for k in range(800)]

    packed = pack(run, rows, page_bytes=150_000)

    assert packed.table.rollouts == 800
    assert packed.table.every > 1
    assert len(packed.table.step) < 800
    assert all(packed.table.problem.count(problem) == 8 for problem in set(packed.table.problem))
    assert packed.size_bytes < 150_000


def test_only_names_that_we_gave_are_followed(run: RunDirectory, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG secret")
    (run.path / "images/0123456789abcdef.png").symlink_to(secret)

    for reference in ("images/../../secret.png", str(secret), "images/0123456789abcdef.png", None, 7):
        assert pictures.one(run, reference) == ""


def test_a_file_that_is_no_image_is_left_out(run: RunDirectory) -> None:
    (run.path / "images/0000000000000001.img").write_bytes(b"<svg onload=alert(1)>")

    assert pictures.one(run, "images/0000000000000001.img") == ""


def test_a_transparent_image_becomes_white_and_not_black(run: RunDirectory) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (2000, 2000), (0, 0, 0, 0)).save(file, "WEBP", lossless=True)
    (run.path / "images/0000000000000001.img").write_bytes(file.getvalue())

    uri = pictures.one(run, "images/0000000000000001.img")

    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == (640, 640)
    assert min(picture.getpixel((9, 9))) > 250  # type: ignore[arg-type, type-var]


def test_no_log_has_no_rollouts(run: RunDirectory) -> None:
    packed = rollouts.pack(run, {})

    assert packed.table.rollouts == 0
    assert packed.table.step == []
