"""A Job's pod is seen to run by whoever follows Jobs, and its SDK speaks for itself: one attempt, whoever is first."""

from __future__ import annotations

from tests.integration.runs.world import World

from maestro.runs.model import RunState

POD, SDK = "pod-9", "pod-9/process-1"


def test_the_sdk_takes_over_the_attempt_that_its_pod_was_seen_to_begin(store: World) -> None:
    automation = store.automation(launch="Job", heartbeat_timeout=60, timeout=3600)
    (run,) = store.accept(automation)
    store.claim(automation)
    assert store.start(run, POD, job_pod=True).attempt == 1
    answer = store.start(run, SDK)
    assert (answer.status, answer.attempt) == (200, 1)
    assert store.start(run, "other/process-1").status == 409

    assert store.report("finish", run, SDK, attempt=1, status="completed").status == 200
    assert store.report("jobEnded", run, POD, attempt=1, status="failed").status == 409
    assert store.state(run) is RunState.SUCCEEDED


def test_from_then_on_it_has_heartbeats(store: World) -> None:
    automation = store.automation(launch="Job", heartbeat_timeout=60, timeout=3600)
    (run,) = store.accept(automation)
    store.claim(automation)
    store.start(run, POD, job_pod=True)
    store.start(run, SDK)
    store.advance(61)
    store.due()
    assert store.state(run) is RunState.RETRYING


def test_the_follower_comes_second(store: World) -> None:
    automation = store.automation(launch="Job")
    (run,) = store.accept(automation)
    store.claim(automation)
    assert store.start(run, SDK).attempt == 1
    assert store.start(run, POD, job_pod=True).status == 409
    assert store.report("finish", run, SDK, attempt=1, status="completed").status == 200
    assert store.state(run) is RunState.SUCCEEDED
