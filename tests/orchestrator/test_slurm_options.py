from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator import slurm_options
from orchestrator.slurm_options import SiteOptions, SlurmOptions

TEXTS = (
    "partition",
    "account",
    "qos",
    "constraint",
    "reservation",
    "exclude",
    "gpu_type",
    "extra",
    "modules",
    "setup",
    "virtual_environment",
    "python",
)
GOOD: dict[str, Any] = {
    "partition": "gpu,big",
    "account": "proj-1@site",
    "qos": "normal",
    "constraint": "a100&nvlink|[h100*2]",
    "reservation": "r.1",
    "exclude": ["n1", "n[3-5,9]"],
    "gpu_type": "a100-80",
    "exclusive": True,
    "extra": ["--licenses=scratch:2", "--mail-user=me@site.org", "--contiguous"],
    "modules": ["gcc/13.2", "cuda/12.8+x"],
    "virtual_environment": "/a folder/venv",
    "container": {"engine": "pyxis", "image": "nvcr.io#nvidia/pytorch:25.01", "mounts": ["/a", "/a:/b", "/a:/b:ro"]},
    "environment": {"A": 1},
    "setup": "ulimit -n 9\nsource x.sh",
}


def test_what_sites_write_is_read() -> None:
    read = SiteOptions.model_validate(GOOD)

    assert read.setup == ("ulimit -n 9", "source x.sh")
    assert read.interpreter == "/a folder/venv/bin/python"


@pytest.mark.parametrize(
    "value", ["a\n#SBATCH --wrap=x", "-a", "", "a b", "a#b", 'a"b', "a'b", "a\\b", "$(a)", "a`b`", "a;b"]
)
@pytest.mark.parametrize("key", [key for key in TEXTS if key not in ("virtual_environment", "python", "setup")])
def test_no_option_can_hold_more_than_one_word(key: str, value: str) -> None:
    with pytest.raises(ValidationError):
        SiteOptions.model_validate({key: value})


@given(st.sampled_from(TEXTS), st.text(min_size=1, max_size=12))
def test_no_option_can_begin_a_line_of_its_own(key: str, value: str) -> None:
    try:
        read = SiteOptions.model_validate({key: [value] if key == "setup" else value})
    except ValidationError:
        return

    said = getattr(read, key)
    assert not any(
        ord(mark) < 32 and mark != "\t" for text in ([said] if isinstance(said, str) else said) for mark in text
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        pytest.param("--requeue", "'--requeue' would change --requeue, which is set for every run.", id="ours"),
        pytest.param("--dep=afterok:1", "'--dep=afterok:1' would change --dependency,", id="ours, cut short"),
        pytest.param("--no-k", "'--no-k' would change --no-kill,", id="breaks hetjobs"),
        pytest.param("--gpus=1", "'--gpus=1' would change --gpus-per-node,", id="a size"),
        pytest.param("--part=x", "'--part=x' has a key of its own. Write partition: instead.", id="a key"),
        pytest.param("-p x", "'-p x' is not an option of sbatch. Write --name or --name=value", id="a short one"),
        pytest.param("--comment", "'--comment' would change --comment,", id="the comment"),
    ],
)
def test_options_that_a_run_depends_on_are_refused(option: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SlurmOptions.model_validate({"extra": [option]})

    assert message in str(caught.value)


@pytest.mark.parametrize(
    "option", ["--gres=scratch:1", "--mem-bind=local", "--time-min=60", "--begin=now+1hour", "--nice"]
)
def test_other_options_are_taken(option: str) -> None:
    assert SlurmOptions.model_validate({"extra": [option]}).extra == (option,)


def test_two_interpreters_are_refused() -> None:
    with pytest.raises(ValidationError, match="name two interpreters"):
        SlurmOptions.model_validate({"python": "/p", "virtual_environment": "/v"})


def test_pyxis_gives_srun_only_options_of_its_own() -> None:
    with pytest.raises(ValidationError, match="'--overlap' is no option of pyxis"):
        SlurmOptions.model_validate({"container": {"engine": "pyxis", "image": "a", "options": ["--overlap"]}})


def test_a_later_layer_goes_before_an_earlier_one() -> None:
    site = SlurmOptions.model_validate({"partition": "a", "account": "x", "python": "/p", "environment": {"A": "1"}})
    role = SlurmOptions.model_validate({"partition": "b", "virtual_environment": "/v", "environment": {"B": "2"}})

    both = slurm_options.merged(site, role)

    assert (both.partition, both.account, both.interpreter) == ("b", "x", "/v/bin/python")
    assert both.environment == {"A": "1", "B": "2"}


def test_what_is_put_into_a_plan_is_read_back() -> None:
    options = SiteOptions.model_validate(GOOD)
    keys = slurm_options.NODE_KEYS + slurm_options.STEP_KEYS

    again = slurm_options.read(slurm_options.chosen(options, keys))

    assert again == options.model_copy(update={"environment": {}})
