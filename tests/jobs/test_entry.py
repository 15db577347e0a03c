from __future__ import annotations

import pytest

from jobs import entry
from orchestrator.errors import InputError, Problem, RunFailed, all_at_once


def test_the_first_line_of_an_error_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    code = entry.exit_with(RunFailed("Ray worker: the engine on train2 died: no memory.\n\tclass_name: EngineActor"))

    assert code == 1
    assert capsys.readouterr().err == (
        "error: Ray worker: the engine on train2 died: no memory.\n\tclass_name: EngineActor\n"
    )


def test_of_many_problems_the_first_is_in_the_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem(place="steps", fact="It is 0."), Problem(place="seed", fact="It is 'x'.")]

    code = entry.exit_with(all_at_once("roles.train.with", problems))

    assert code == InputError.exit_code
    assert capsys.readouterr().err == ("error: roles.train.with: 2 problems. steps: It is 0.\n  seed: It is 'x'.\n")
