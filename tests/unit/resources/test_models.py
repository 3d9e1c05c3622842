"""The models as the rest of Maestro uses them: names, ids, defaults, round trip."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from maestro.resources import Automation, Reprocessing, Schedule, names

META = {"name": "films", "namespace": "media", "uid": "u", "generation": 3}


def _automation(**spec: object) -> Automation:
    return Automation.model_validate({"metadata": META, "spec": spec})


def test_ids_and_names_by_default() -> None:
    automation = _automation()
    assert automation.id == "media.films"
    assert automation.solution == "media"
    assert automation.solution_id == "media.media"
    assert automation.queue_name == "maestro.media.films"
    assert automation.queue_arguments == {"x-queue-type": "quorum"}
    assert automation.status.observed_generation == -1


def test_names_that_are_given() -> None:
    automation = _automation(solution="shop", queue={"name": "old", "arguments": {"x-dead-letter-exchange": "dlx"}})
    assert automation.solution_id == "media.shop"
    assert automation.queue_name == "old"
    assert automation.queue_arguments == {"x-dead-letter-exchange": "dlx"}


def test_empty_arguments_stay_empty() -> None:
    assert _automation(queue={"name": "old", "arguments": {}}).queue_arguments == {}


def test_job_mode_has_no_queue() -> None:
    automation = _automation(launch="Job")
    assert automation.queue_name is None
    assert automation.queue_arguments is None


def test_defaults() -> None:
    spec = _automation().spec
    assert spec.run.timeout.seconds == 4 * 3600
    assert spec.run.retry.attempts == 3
    assert spec.run.retry.backoff.max.seconds == 600
    assert spec.history.failed.ttl.seconds == 90 * 86400
    assert spec.history.failed.limit == 1000
    assert spec.worker.drain_timeout.seconds == 900
    assert spec.queue.deletion_policy == "IfEmpty"


def test_pod_fields_stay_raw() -> None:
    env = [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    template = {"spec": {"containers": [{"name": "worker", "stdin": True}]}}
    worker = _automation(worker={"env": env, "template": template, "resources": {"limits": {"cpu": 1}}}).spec.worker
    assert worker.env == env
    assert worker.template == template
    assert worker.resources == {"limits": {"cpu": 1}}


def test_dump_is_what_was_read() -> None:
    status = {
        "observedGeneration": 3,
        "conditions": [],
        "runs": {"waiting": 1, "succeeded24h": 2, "failed24h": 3},
        "queue": {"name": "q", "messages": 0},
    }
    automation = Automation.model_validate({"metadata": META, "spec": {}, "status": status})
    assert automation.status.dump() == status


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert _automation(worker={"image": "a", "colour": "red"}, shape="round").spec.worker.image == "a"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"launch": "Robot"}, "spec.launch"),
        ({"worker": {"concurrency": 0}}, "spec.worker.concurrency"),
        ({"run": {"retry": {"backoff": {"factor": 0.5}}}}, "spec.run.retry.backoff.factor"),
    ],
)
def test_a_refusal_names_the_field(spec: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _automation(**spec)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == field


def test_models_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _automation().spec.suspend = True  # type: ignore[misc]


def test_schedule_defaults() -> None:
    spec = Schedule.model_validate({"metadata": META, "spec": {"automation": "films", "schedule": "@daily"}}).spec
    assert (spec.time_zone, spec.launch, spec.concurrency_policy) == ("UTC", "Job", "Forbid")
    assert (spec.missed.on_outage, spec.missed.on_resume, spec.missed.on_blocked) == ("Latest", "None", "Latest")
    assert (spec.missed.max_runs, spec.dst.gap, spec.dst.overlap) == (100, "RunAfter", "First")


def test_the_immutable_part_of_a_reprocessing() -> None:
    spec = {"solution": "s", "select": {"states": ["Failed"]}, "decision": "Approved", "parallelism": 4, "resume": 2}
    reprocessing = Reprocessing.model_validate({"metadata": META, "spec": spec})
    assert reprocessing.solution_id == "media.s"
    assert reprocessing.immutable_fields() == {
        "solution": "s",
        "select": {"states": ["Failed"], "timeField": "scheduledTime"},
        "block": True,
        "drainTimeout": "15m",
        "cascade": {"enabled": True, "maxAdditions": 1000},
        "onFailure": "Stop",
        "autoApprove": False,
    }


def test_derived_names_fit() -> None:
    name = "a" * names.MAX_NAME
    assert len(names.broker_secret(name)) <= 63
    assert len(names.tick_job("a" * names.MAX_SCHEDULE_NAME, 29_000_000, 1000)) <= 63
    assert names.automation_labels(name).items() >= names.selector_labels(name).items()
    assert names.run_job("0190", 2) == "0190-2"
