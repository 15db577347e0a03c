from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eval import coco_map
from eval.exports import __main__ as exports
from eval.exports import coco, evaluated, every_eval_ever, lm_eval, vlmevalkit
from eval.exports.evaluated import Evaluated
from eval.exports.every_eval_ever import Publisher
from eval.tasks.detection import categories_of, coco_results, coco_truth
from orchestrator.errors import InputError
from tests.eval.evaluated_runs import FINISHED, answer, answers, write

PUBLISHER = Publisher(model="Org/Ours-7B", organization="Lab", relationship="first_party", collection="geometry")


def found(folder: Path, rows: list[dict[str, Any]], **more: Any) -> Evaluated:
    run = write(folder / "ours", rows, **({"summary": {}} | more))
    return evaluated.load(run, "after")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_lm_eval_files_lie_where_it_puts_them(tmp_path: Path) -> None:
    files = lm_eval.write(found(tmp_path, answers("a")), tmp_path / "out")

    assert [str(path.relative_to(tmp_path / "out")) for path in files] == [
        "Org__Base-7B/results_2026-09-21T14-13-20.250000.json",
        "Org__Base-7B/samples_geometry3k_2026-09-21T14-13-20.250000.jsonl",
    ]


def test_lm_eval_results_have_their_exact_shape(tmp_path: Path) -> None:
    results, samples = lm_eval.write(found(tmp_path, [*answers("abc", "d"), answer("e", None)]), tmp_path / "out")

    hashes = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in lines(samples))
    assert json.loads(results.read_text()) == {
        "results": {
            "geometry3k": {
                "alias": "geometry3k",
                "acc,none": 0.75,
                "acc_stderr,none": 0.25,
                "format,none": 1.0,
                "format_stderr,none": 0.0,
            }
        },
        "group_subtasks": {"geometry3k": []},
        "configs": {
            "geometry3k": {
                "task": "geometry3k",
                "dataset_path": "data/test.parquet",
                "dataset_name": "geo3k",
                "num_fewshot": 0,
                "metric_list": [
                    {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                    {"metric": "format", "aggregation": "mean", "higher_is_better": True},
                ],
                "output_type": "generate_until",
                "generation_kwargs": {"do_sample": False, "temperature": 0, "max_gen_toks": 4096},
                "repeats": 1,
                "should_decontaminate": False,
                "metadata": {"version": "0.5.0"},
            }
        },
        "versions": {"geometry3k": "0.5.0"},
        "n-shot": {"geometry3k": 0},
        "higher_is_better": {"geometry3k": {"acc": True, "format": True}},
        "n-samples": {"geometry3k": {"original": 5, "effective": 5}},
        "config": {
            "model": "vllm",
            "model_args": "pretrained=Org/Base-7B",
            "model_dtype": "bfloat16",
            "model_revision": None,
            "model_sha": "a" * 64,
            "batch_size": "",
            "device": None,
            "limit": None,
        },
        "date": FINISHED,
        "transformers_version": None,
        "lm_eval_version": None,
        "task_hashes": {"geometry3k": sha256(hashes)},
        "model_source": "vllm",
        "model_name": "Org/Base-7B",
        "model_name_sanitized": "Org__Base-7B",
        "system_instruction": None,
        "chat_template": None,
        "exported_by": "orchestrator 0.5.0",
    }


def test_lm_eval_samples_have_their_exact_shape(tmp_path: Path) -> None:
    _, samples = lm_eval.write(found(tmp_path, answers("a", "b")), tmp_path / "out")

    doc = {
        "id": "b",
        "prompt": "<image>b? Think.",
        "images": ["images/b.png"],
        "answer": "truth of b",
        "kind": "math",
        "target": None,
        "meta": {},
    }
    assert lines(samples)[1] == {
        "doc_id": 1,
        "doc": doc,
        "target": "truth of b",
        "arguments": {
            "gen_args_0": {
                "arg_0": "<image>b? Think.",
                "arg_1": {"do_sample": False, "temperature": 0, "max_gen_toks": 4096},
            }
        },
        "resps": [["<answer>wrong</answer>"]],
        "filtered_resps": ["wrong"],
        "filter": "none",
        "metrics": ["acc", "format"],
        "doc_hash": sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": sha256("<image>b? Think."),
        "target_hash": sha256("truth of b"),
        "acc": 0.0,
        "format": 1.0,
    }


def test_lm_eval_keeps_several_answers_together(tmp_path: Path) -> None:
    rows = [answer("a", k > 0, sample=k) for k in range(3)]

    results, samples = lm_eval.write(found(tmp_path, rows), tmp_path / "out")

    [row] = lines(samples)
    assert row["resps"] == [["<answer>wrong</answer>", "<answer>right</answer>", "<answer>right</answer>"]]
    assert row["filtered_resps"] == [["wrong", "right", "right"]]
    assert row["acc"] == pytest.approx(2 / 3)
    assert json.loads(results.read_text())["configs"]["geometry3k"]["repeats"] == 3


def test_errors_are_better_when_lower(tmp_path: Path) -> None:
    rows = [answer(name, None, kind="ocr", parts={"edit_distance": 0.1, "f1": 0.9}) for name in "ab"]

    results, _ = lm_eval.write(found(tmp_path, rows), tmp_path / "out")

    assert json.loads(results.read_text())["higher_is_better"]["geometry3k"] == {"f1": True, "edit_distance": False}


def test_every_eval_ever_files_lie_where_its_datastore_wants_them(tmp_path: Path) -> None:
    evaluation, out = found(tmp_path, answers("a", "b")), tmp_path / "out"

    aggregate, samples = every_eval_ever.write(evaluation, out, PUBLISHER)

    assert re.fullmatch(
        r"data/geometry/Org/Ours-7B/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}_samples\.jsonl",
        str(samples.relative_to(out)),
    )
    assert str(aggregate) == str(samples).removesuffix("_samples.jsonl") + ".json"
    assert UUID(aggregate.stem).version == 4
    assert every_eval_ever.write(evaluation, out, PUBLISHER) == [aggregate, samples]


def test_every_eval_ever_aggregate_has_its_exact_shape(tmp_path: Path) -> None:
    evaluation, out = found(tmp_path, [*answers("abc", "d"), answer("e", None)]), tmp_path / "out"

    aggregate, samples = every_eval_ever.write(evaluation, out, PUBLISHER, now=1_790_000_099.9)

    shown = json.loads(aggregate.read_text())
    accuracy, format_ = shown.pop("evaluation_results")
    assert shown == {
        "schema_version": "0.3.0",
        "evaluation_id": "ours.after/Org/Ours-7B/1790000000",
        "evaluation_timestamp": "1790000000",
        "retrieved_timestamp": "1790000099",
        "source_metadata": {
            "source_name": "orchestrator",
            "source_type": "evaluation_run",
            "source_organization_name": "Lab",
            "evaluator_relationship": "first_party",
        },
        "eval_library": {
            "name": "orchestrator",
            "version": "0.5.0",
            "additional_details": {"version_orchestrator": "0.5.0", "version_vllm": "0.33.0"},
        },
        "model_info": {
            "name": "Ours-7B",
            "id": "Org/Ours-7B",
            "developer": "Org",
            "inference_engine": {"name": "vllm", "version": "0.33.0"},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "sha256": "a" * 64,
                "dtype": "bfloat16",
                "label": "after",
            },
        },
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": str(samples.relative_to(out)),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(samples.read_bytes()).hexdigest(),
            "total_rows": 4,
        },
    }
    interval = accuracy["score_details"]["uncertainty"]["confidence_interval"]
    assert (round(interval.pop("lower"), 4), round(interval.pop("upper"), 4)) == (0.3006, 0.9544)
    assert accuracy == {
        "evaluation_result_id": "ours.after/Org/Ours-7B/1790000000/geometry3k/accuracy",
        "evaluation_name": "geometry3k",
        "source_data": {
            "dataset_name": "geometry3k",
            "source_type": "other",
            "additional_details": {"source": "geo3k"},
        },
        "evaluation_timestamp": "1790000000",
        "metric_config": {
            "metric_id": "accuracy",
            "metric_name": "Accuracy",
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": 1,
        },
        "score_details": {
            "score": 0.75,
            "details": {"missing_answers": "1", "answers": "5"},
            "uncertainty": {
                "standard_error": {"value": 0.25, "method": "analytic, over problems"},
                "confidence_interval": {"confidence_level": 0.95, "method": "Wilson"},
                "num_samples": 4,
            },
        },
        "generation_config": {
            "generation_args": {"temperature": 0, "max_tokens": 4096},
            "additional_details": {"samples_per_problem": "1", "format_prompt": "Think."},
        },
    }
    assert (format_["metric_config"]["metric_id"], format_["score_details"]["score"]) == ("orchestrator.format", 1.0)


def test_every_eval_ever_samples_have_their_exact_shape(tmp_path: Path) -> None:
    rows = [answer("a", True, meta={"choices": ["1", "2"]}), answer("b", None)]

    _, samples = every_eval_ever.write(found(tmp_path, rows), tmp_path / "out", PUBLISHER)

    asked = '{"raw":"<image>a? Think.","reference":["truth of a"]}'
    assert lines(samples) == [
        {
            "schema_version": "0.3.0",
            "evaluation_id": "ours.after/Org/Ours-7B/1790000000",
            "model_id": "Org/Ours-7B",
            "evaluation_name": "geometry3k",
            "evaluation_result_id": "ours.after/Org/Ours-7B/1790000000/geometry3k/accuracy",
            "sample_id": "a",
            "sample_hash": sha256(asked),
            "interaction_type": "single_turn",
            "input": {"raw": "<image>a? Think.", "reference": ["truth of a"], "choices": ["1", "2"]},
            "output": {"raw": ["<answer>right</answer>"]},
            "messages": None,
            "answer_attribution": [
                {
                    "turn_idx": 0,
                    "source": "output.raw",
                    "extracted_value": "right",
                    "extraction_method": "custom",
                    "is_terminal": True,
                }
            ],
            "evaluation": {"score": 1.0, "is_correct": True},
            "token_usage": None,
            "performance": None,
            "error": None,
            "metadata": {"sample": "0", "kind": "math", "images": "1", "output_tokens": "7", "finish": "stop"},
        }
    ]


def test_a_data_set_on_the_hub_is_named(tmp_path: Path) -> None:
    publisher = Publisher(model="Org/Ours-7B", datasets={"geometry3k": "hiyouga/geometry3k:test"})

    aggregate, _ = every_eval_ever.write(found(tmp_path, answers("ab")), tmp_path / "out", publisher)

    assert json.loads(aggregate.read_text())["evaluation_results"][0]["source_data"] == {
        "dataset_name": "geometry3k",
        "source_type": "hf_dataset",
        "hf_repo": "hiyouga/geometry3k",
        "hf_split": "test",
        "samples_number": 2,
    }


def test_of_a_server_only_the_protocol_is_known(tmp_path: Path) -> None:
    served = found(tmp_path, answers("a"), summary={"engine": {"url": "http://127.0.0.1:8000/v1"}})

    results, _ = lm_eval.write(served, tmp_path / "lm")
    aggregate, _ = every_eval_ever.write(served, tmp_path / "eee", PUBLISHER)

    assert json.loads(results.read_text())["model_source"] == "local-chat-completions"
    assert "inference_engine" not in json.loads(aggregate.read_text())["model_info"]


def boxes(*found: tuple[str, tuple[float, float, float, float]], side: int = 100) -> dict[str, Any]:
    return {
        "space": {"system": "pixel", "width_px": side, "height_px": side},
        "boxes": [list(box) for _, box in found],
        "labels": [label for label, _ in found],
        "points": [],
        "count": None,
    }


DETECTED = [
    answer(
        "second",
        None,
        kind="detection",
        target=boxes(("cat", (10, 10, 30, 50)), ("dog", (50, 50, 90, 90))),
        prediction=boxes(("cat", (10, 10, 30, 52)), ("dog", (0, 0, 10, 10)), ("unicorn", (1, 1, 2, 2))),
        meta={"coco": {"image_id": 7}},
        parts={"f1": 0.5, "malformed": 0.0},
    ),
    answer(
        "first",
        None,
        kind="detection",
        target=boxes(("dog", (20, 20, 40, 40))),
        prediction=boxes(("dog", (20, 20, 40, 40))),
        meta={"coco": {"image_id": 3}},
        parts={"f1": 1.0, "malformed": 0.0},
    ),
]


def test_coco_results_have_their_exact_shape(tmp_path: Path) -> None:
    results, truth = coco.write(found(tmp_path, DETECTED, task="coco-val"), tmp_path / "out")

    assert (results.name, truth.name) == ("coco-val_results.json", "coco-val_truth.json")
    assert json.loads(results.read_text()) == [
        {"image_id": 3, "category_id": 18, "bbox": [20.0, 20.0, 20.0, 20.0], "score": 1.0},
        {"image_id": 7, "category_id": 17, "bbox": [10.0, 10.0, 20.0, 42.0], "score": 1.0},
        {"image_id": 7, "category_id": 18, "bbox": [0.0, 0.0, 10.0, 10.0], "score": 1.0},
    ]


def test_pycocotools_finds_in_the_files_what_the_evaluation_found(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results, truth = coco.write(found(tmp_path, DETECTED), tmp_path / "out")

    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO(str(truth))
        evaluation = COCOeval(annotated, annotated.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    categories = categories_of(DETECTED)
    ours = coco_map.stats(coco_truth(DETECTED, categories), coco_results(DETECTED, categories))
    assert [-1 if value is None else value for value in ours.values()] == pytest.approx(
        list(evaluation.stats), abs=1e-9
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(answers("a"), "has no detection task; its kinds are math", id="no detection"),
        pytest.param([*DETECTED, {**DETECTED[0], "sample": 1}], "several answers a problem", id="several answers"),
    ],
)
def test_what_coco_cannot_hold_is_refused(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        coco.write(found(tmp_path, rows), tmp_path / "out")


def test_vlmevalkit_reads_a_table_of_predictions(tmp_path: Path) -> None:
    rows = [
        answer("a", True, meta={"choices": ["one", "two"], "category": "count", "index": 12}, response="x\ty\n<z>"),
        answer("b", False),
    ]

    [path] = vlmevalkit.write(found(tmp_path, rows, task="MMStar"), tmp_path / "out")

    assert path.name == "Base-7B_MMStar.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == [
            {
                "index": "12",
                "question": "<image>a? Think.",
                "answer": "truth of a",
                "A": "one",
                "B": "two",
                "category": "count",
                "prediction": "x\ty\n<z>",
            },
            {
                "index": "b",
                "question": "<image>b? Think.",
                "answer": "truth of b",
                "A": "",
                "B": "",
                "category": "",
                "prediction": "<answer>wrong</answer>",
            },
        ]


def test_an_evaluation_that_goes_on_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"geometry3k has not finished \(no summary\.json\)"):
        found(tmp_path, answers("a"), summary=None)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        pytest.param(["lm-eval"], ["results_2026-09-21T14-13-20.250000.json", "samples_geometry3k_"], id="lm-eval"),
        pytest.param(["every-eval-ever", "--dataset", "geometry3k=a/b"], [".json", "_samples.jsonl"], id="eee"),
        pytest.param(["vlmevalkit", "--model", "Org/Ours"], ["Ours_geometry3k.tsv"], id="vlmevalkit"),
    ],
)
def test_the_command_prints_what_it_wrote(
    tmp_path: Path, arguments: list[str], names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "ours", answers("a"), summary={})

    assert exports.main([*arguments, str(run.path), "--out", str(tmp_path / "out")]) == 0

    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(names)
    assert all(name in line and Path(line).is_file() for name, line in zip(names, printed, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["coco"], "has no detection task", id="no detection"),
        pytest.param(["lm-eval", "--task", "mathvista"], "has no mathvista. Tasks: geometry3k", id="no task"),
        pytest.param(["every-eval-ever", "--model", "ours"], "'ours' is not ORGANISATION/NAME", id="no name"),
        pytest.param(["every-eval-ever", "--dataset", "x=a/b"], "'x' is not TASK=ORGANISATION/NAME", id="no data set"),
    ],
)
def test_wrong_input_ends_with_its_code(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "ours", answers("a"), summary={})

    assert exports.main([*arguments, str(run.path), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
