"""The Job of a Run's attempt."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.automation.worlds import INSTALLATION, automation

from maestro.resources import names
from maestro.runs.model import TickJob
from maestro.workload.job import job, parameter_env


def _env(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_job() -> None:
    of = automation(
        {"launch": "Job", "run": {"timeout": "10m", "cancelGrace": "20s"}, "worker": {"image": "i", "args": ["x"]}}
    )
    body = job(of, INSTALLATION, "0192aaaa-0000-7000-8000-000000000001", 2, {"url": "u"}, [])
    assert body["metadata"]["name"] == "0192aaaa-0000-7000-8000-000000000001-2"
    labels = {"maestro-operator.io/run": "0192aaaa-0000-7000-8000-000000000001", "maestro-operator.io/attempt": "2"}
    spec = body["spec"]
    assert labels.items() <= body["metadata"]["labels"].items()
    assert labels.items() <= spec["template"]["metadata"]["labels"].items()
    assert spec["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] == 620 + 600
    assert "ttlSecondsAfterFinished" not in spec  # its end has to be recorded first
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (init,) = pod["initContainers"]
    assert (init["image"], init["args"]) == ("maestro:1", ["fetch-parameters"])
    env, init_env = _env(pod["containers"][0]), _env(init)
    assert env["MAESTRO_ATTEMPT"] == "2"
    assert env["MAESTRO_PARAMETERS_FILE"] == init_env["MAESTRO_PARAMETERS_FILE"] == "/var/run/maestro/parameters.json"
    assert "MAESTRO_BROKER_URL" not in env
    assert "PARAM_URL" in env
    assert "PARAM_URL" not in init_env
    sources = pod["volumes"][0]["projected"]["sources"]
    assert [list(source) for source in sources] == [["serviceAccountToken"]]


@pytest.mark.parametrize(
    ("parameters", "hidden", "expected"),
    [
        (
            {"a": "x", "n": 1, "f": 1.5, "t": True},
            (),
            {"PARAM_A": "x", "PARAM_N": "1", "PARAM_F": "1.5", "PARAM_T": "true"},
        ),
        ({"l": [1], "o": {}, "z": None}, (), {}),
        ({"key": "s3cret", "a": "x"}, ("key",), {"PARAM_A": "x"}),
        ({"price-list.id": "x"}, (), {"PARAM_PRICE_LIST_ID": "x"}),
        ({"a-b": "first", "a_b": "second"}, (), {"PARAM_A_B": "first"}),
        ({"a": "$(SECRET)$"}, (), {"PARAM_A": "$$(SECRET)$$"}),
        ({"a": "x" * 40_000, "b": "nul\0"}, (), {}),
        ({"ümlaut": "ü"}, (), {"PARAM__MLAUT": "ü"}),
    ],
)
def test_parameters_in_the_environment(
    parameters: dict[str, Any], hidden: tuple[str, ...], expected: dict[str, str]
) -> None:
    found = parameter_env(parameters, hidden)
    assert {variable["name"]: variable["value"] for variable in found} == expected


def test_a_variable_of_the_automations_own_wins_over_a_parameter() -> None:
    of = automation({"launch": "Job", "worker": {"image": "i", "env": [{"name": "PARAM_A", "value": "mine"}]}})
    body = job(of, INSTALLATION, "r", 1, {"a": "theirs"})
    env = body["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [variable["value"] for variable in env if variable["name"] == "PARAM_A"] == ["mine"]


def test_the_job_of_a_tick_is_named_after_it_and_goes_with_the_schedule() -> None:
    tick = TickJob("nightly", "uid-of-the-schedule", names.tick_job("nightly", 31_556_880))
    body = job(automation(), INSTALLATION, "0192aaaa-0000-7000-8000-000000000001", 2, {}, tick=tick)
    assert body["metadata"]["name"] == "nightly-31556880-2"
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Schedule", "nightly", "uid-of-the-schedule")
    assert body["metadata"]["labels"]["maestro-operator.io/schedule"] == "nightly"
    assert body["spec"]["template"]["metadata"]["labels"]["maestro-operator.io/schedule"] == "nightly"
    assert "MAESTRO_BROKER_URL" not in _env(body["spec"]["template"]["spec"]["containers"][0])
