from __future__ import annotations

from bench import cli


def test_each_command_is_compared_with_its_own_interpreter() -> None:
    found = cli.timings(
        {
            "pass": [30.0, 31.0, 29.0],
            "orchestrator --help": [90.0, 120.0, 60.0],
            "pass (TorchX)": [10.0, 10.0, 10.0],
            "torchx --help": [400.0, 500.0, 300.0],
        }
    )

    assert [(timing.name, timing.median_ms, timing.fastest_ms, timing.ratio) for timing in found] == [
        ("pass", 30.0, 29.0, 1.0),
        ("orchestrator --help", 90.0, 60.0, 3.0),
        ("pass (TorchX)", 10.0, 10.0, 1.0),
        ("torchx --help", 400.0, 300.0, 40.0),
    ]


def test_a_missed_target_is_named() -> None:
    slow = cli.timings({"pass": [30.0], "orchestrator --help": [151.0], "orchestrator submit --dry-run": [400.0]})

    assert cli.missed(slow) == ["orchestrator --help takes 5.0 times 'python -c pass'; the target is 5.0."]
