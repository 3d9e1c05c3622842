"""Specs checked against their kind's own schema."""

from __future__ import annotations

from typing import Any

import pytest

from maestro.http.errors import HttpError
from maestro.http.specs import SpecChecker
from maestro.resources import kinds

AUTOMATION, SCHEDULE = SpecChecker(kinds.AUTOMATION), SpecChecker(kinds.SCHEDULE)


def test_snake_case_is_taken_where_the_schema_has_such_a_field() -> None:
    spec = {
        "run": {"max_pending": 5, "retry": {"attempts": 1}},
        "default_parameters": {"some_name": {"in_here": 1}},
        "worker": {"env": [{"name": "A", "value_from": {"secret_key_ref": {"name": "s", "key": "k"}}}]},
    }
    assert AUTOMATION.check(spec) == {
        "run": {"maxPending": 5, "retry": {"attempts": 1}},
        "defaultParameters": {"some_name": {"in_here": 1}},
        "worker": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
    }


@pytest.mark.parametrize(
    ("checker", "spec", "path", "words"),
    [
        (AUTOMATION, {"colour": 1}, "colour", "unknown field"),
        (AUTOMATION, {"run": {"maxPendin": 1}}, "run.maxPendin", "unknown field"),
        (AUTOMATION, {"suspend": "yes"}, "suspend", "boolean"),
        (AUTOMATION, {"run": {"timeout": "1 day"}}, "run.timeout", "match"),
        (AUTOMATION, {"launch": "Pod"}, "launch", "Queue"),
        (AUTOMATION, {"worker": {"replicas": 100_000}}, "worker.replicas", "1000"),
        (AUTOMATION, {"worker": {"resources": {"limits": {"cpu": "much"}}}}, "worker.resources.limits.cpu", ""),
        (AUTOMATION, {"defaultParameters": []}, "defaultParams", "object"),
        (SCHEDULE, {}, "automation", "required"),
        (SCHEDULE, {"automation": "x", "schedule": ""}, "schedule", ""),
        (SCHEDULE, {"automation": "x", "exclude": {"dates": ["tomorrow"]}}, "exclude.dates.0", "date"),
    ],
)
def test_what_is_wrong_is_named(checker: SpecChecker, spec: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(HttpError) as error:
        checker.check(spec, names={"defaultParameters": "defaultParams"})
    assert error.value.status == 422
    assert error.value.details[0]["path"] == path
    assert words in error.value.message


def test_parts_of_a_pod_are_taken_as_kubernetes_takes_them() -> None:
    spec = {
        "worker": {
            "resources": {"limits": {"cpu": 1, "memory": "64Mi"}},
            "template": {"spec": {"nodeSelector": {"disk": "ssd"}}},
        }
    }
    assert AUTOMATION.check(spec) == spec
