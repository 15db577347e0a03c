from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.construct import settings
from jobs.construct.settings import Endpoint, Settings
from orchestrator import recipe
from tests.jobs.construct.work import CHECKOUT

ELSEWHERE: dict[str, Any] = {"url": "https://host/v1beta/openai", "model": "m"}


def given(**changes: Any) -> Settings:
    values = {"data": {"path": "{tiny.data}"}, "teacher": {"service": "big"}, "extractor": ELSEWHERE}
    return Settings.model_validate(values | changes)


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        pytest.param({}, "either a service of the recipe or has a url", id="neither"),
        pytest.param({"service": "a", "url": "https://h/v1", "model": "m"}, "either a service", id="both"),
        pytest.param({"url": "https://h/v1"}, "needs the name of its model", id="no model"),
        pytest.param({"service": "a", "model": "m"}, "come from its role", id="a service's model"),
        pytest.param({"url": "https://user:word@h/v1", "model": "m"}, "not the base URL", id="a password"),
        pytest.param({"url": "https://h/v1?key=1", "model": "m"}, "not the base URL", id="a query"),
        pytest.param(ELSEWHERE | {"body": {"n": 2}}, "n is set by the job itself", id="ours"),
    ],
)
def test_an_endpoint_that_cannot_be_meant_says_why(endpoint: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Endpoint.model_validate(endpoint)


def test_services_are_told_by_place() -> None:
    verify = {"endpoint": {"service": "third"}}

    assert settings.services(given(verify=verify)) == {
        "teacher.service": "big",
        "verify.endpoint.service": "third",
    }


def test_a_key_file_that_is_not_there_or_too_open_is_missing(tmp_path: Path) -> None:
    key = tmp_path / "a.key"
    lost = settings.missing(given(extractor=ELSEWHERE | {"api_key_file": str(key)}))
    key.write_text("k")
    key.chmod(0o640)
    open_to_others = settings.missing(given(extractor=ELSEWHERE | {"api_key_file": str(key)}))
    key.chmod(0o600)

    assert "extractor.api_key_file: " in str(lost[0])
    assert "cannot be read: No such file" in str(lost[0])
    assert "has mode 0640" in str(open_to_others[0])
    assert settings.missing(given(extractor=ELSEWHERE | {"api_key_file": str(key)})) == []


def test_bounds_are_ordered() -> None:
    with pytest.raises(ValidationError, match="least exceeds most"):
        given(facts={"least": 5, "most": 2})


def test_the_recipe_takes_a_teacher_elsewhere_as_its_comment_says(tmp_path: Path) -> None:
    key = tmp_path / "a.key"
    key.touch(mode=0o600)
    elsewhere = f"{{url: https://host/v1, model: m, api_key_file: {key}, budget_tokens: 20000000}}"
    overrides = ["roles.teacher=null", "roles.construct.needs=[extractor]", f"construct.teacher={elsewhere}"]

    written = recipe.load(CHECKOUT / "recipes/construct.yaml", overrides)
    read = Settings.model_validate(written.roles["construct"].settings)

    assert list(written.roles) == ["extractor", "construct"]
    assert (read.teacher.url, read.teacher.budget_tokens) == ("https://host/v1", 20_000_000)
    assert settings.services(read) == {"extractor.service": "extractor", "verify.endpoint.service": "extractor"}
