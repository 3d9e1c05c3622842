"""The metrics of Runs: what was committed counts, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.runs.world import World

from maestro.runs.database import Retry, Transaction
from maestro.runs.errors import Backlog, StoreUnavailable
from maestro.runs.model import Counts, NewRun
from maestro.runs.observed import RunGauges
from maestro.runtime.metrics import REGISTRY


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(f"sqlite:///{tmp_path}/store.db")
    yield world
    world.close()


class Samples:
    """The registry's samples, as changes since this was made."""

    def __init__(self) -> None:
        self._before = self._all()

    @staticmethod
    def _all() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for metric in REGISTRY.collect()
            for sample in metric.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        key = (f"maestro_{name}", frozenset(labels.items()))
        return self._all().get(key, 0.0) - self._before.get(key, 0.0)


def name_of(world: World, automation: int) -> str:
    registration = world.store.registration(automation)
    assert registration is not None
    return registration.id


def test_a_life_with_a_retry(world: World) -> None:
    automation = world.automation(backoff_initial=1.0)
    name, samples = name_of(world, automation), Samples()
    (run,) = world.accept(automation)
    world.claim(automation)
    world.advance(2)
    world.start(run)
    assert world.start(run, redelivered=True).status == 200, "adopted: no other attempt"
    world.advance(20)
    world.finish(run, "failed")
    world.advance(60)
    world.due()
    world.claim(automation)
    world.start(run)
    world.advance(3)
    world.heartbeat(run, attempt=2)
    world.advance(4)
    world.finish(run, attempt=2)
    assert world.finish(run, attempt=2).status == 200, "a repeated finish counts once"

    assert samples("runs_accepted_total", automation=name) == 1
    assert samples("runs_started_total", automation=name) == 2
    assert samples("runs_retried_total", automation=name) == 1
    assert samples("runs_finished_total", automation=name, state="Succeeded", reason="") == 1
    assert samples("runs_finished_total", automation=name, state="Failed", reason="TechnicalFailure") == 0
    assert samples("run_accept_to_start_seconds_count") == 1
    assert samples("run_accept_to_start_seconds_sum") == pytest.approx(2)
    assert samples("run_accept_to_start_seconds_bucket", le="1.0") == 0
    assert samples("run_accept_to_start_seconds_bucket", le="2.5") == 1
    assert samples("run_attempt_seconds_count") == 2
    assert samples("run_attempt_seconds_sum") == pytest.approx(27)
    assert samples("run_attempt_seconds_bucket", le="10.0") == 1
    assert samples("run_attempt_seconds_bucket", le="+Inf") == 2


def test_lost_released_and_canceled(world: World) -> None:
    automation = world.automation(max_attempts=2, heartbeat_timeout=30)
    name, samples = name_of(world, automation), Samples()
    lost, released, waiting = world.accept(automation, 3)
    world.claim(automation)
    world.start(lost)
    world.start(released)
    world.report("release", released, attempt=1)
    world.do(world.store.cancel(waiting))
    world.advance(40)
    world.due()
    assert samples("runs_started_total", automation=name) == 2
    assert samples("runs_retried_total", automation=name) == 1, "one that was given back hasn't failed"
    assert samples("runs_finished_total", automation=name, state="Canceled", reason="Canceled") == 1
    assert samples("run_attempt_seconds_count") == 2
    assert samples("run_attempt_seconds_sum") == pytest.approx(40)


def test_what_is_told_twice_or_refused_is_not_accepted(world: World) -> None:
    automation = world.automation(max_pending=2)
    name, samples = name_of(world, automation), Samples()
    first, again = (NewRun(automation, idempotency_key="k", body_hash=b"h") for _ in range(2))
    world.accept_all([first])
    assert world.accept_all([again])[0].replayed
    with pytest.raises(Backlog):
        world.accept(automation, 2)
    assert samples("runs_accepted_total", automation=name) == 1


def test_commits_tell_their_items_and_time(world: World) -> None:
    automation, samples = world.automation(), Samples()
    world.together(world.store.accept([NewRun(automation)] * 3), world.store.accept([NewRun(automation)] * 4))
    assert samples("store_commit_items_sum") == 7
    commits = samples("store_commit_seconds_count")
    world.claim(automation)
    assert samples("store_commit_items_sum") == 7, "a claim isn't an item"
    assert samples("store_commit_seconds_count") == commits + 1


def test_a_transaction_that_is_rolled_back_counts_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    automation = world.automation()
    run = world.running(automation)
    name, samples = name_of(world, automation), Samples()
    commit = world.store._database._commit

    def fail(transaction: Transaction) -> None:
        transaction.connection.connection.driver_connection.rollback()  # type: ignore[union-attr]
        raise Retry("somebody else was faster")

    with monkeypatch.context() as patched:
        patched.setattr(world.store._database, "_commit", fail)
        with pytest.raises(StoreUnavailable):
            world.accept(automation)
        with pytest.raises(StoreUnavailable):
            world.finish(run)
    for metric in ("runs_accepted_total", "runs_started_total", "runs_retried_total"):
        assert samples(metric, automation=name) == 0
    assert samples("runs_finished_total", automation=name, state="Succeeded", reason="") == 0
    assert samples("run_attempt_seconds_count") == 0
    assert samples("store_commit_seconds_count") == samples("store_commit_items_sum") == 0

    tries = iter([fail, fail])
    monkeypatch.setattr(world.store._database, "_commit", lambda t: next(tries, commit)(t))
    world.finish(run)
    assert samples("runs_finished_total", automation=name, state="Succeeded", reason="") == 1, (
        "the third try is the one"
    )
    assert samples("run_attempt_seconds_count") == 1


def test_nothing_is_left_of_a_reaped_automation(world: World) -> None:
    automation = world.automation()
    registration = world.store.registration(automation)
    assert registration is not None
    name, run = registration.id, world.running(automation)

    def series() -> set[str]:
        return {s.name for m in REGISTRY.collect() for s in m.samples if s.labels.get("automation") == name}

    assert "maestro_runs_started_total" in series()
    world.do(world.store.deregister(registration.uid))
    assert "maestro_runs_started_total" in series(), "its pods are still at work"
    world.do(world.store.reaped(registration.uid))
    assert series() == set()
    world.finish(run)
    assert series() == set(), "the last Run doesn't bring them back"


def test_one_of_the_same_name_keeps_the_series(world: World) -> None:
    automation = world.automation()
    old = world.store.registration(automation)
    assert old is not None
    world.accept(automation)
    world.do(world.store.deregister(old.uid))
    successor = world.registration()
    successor = type(old)(**{**{f: getattr(old, f) for f in old.__dataclass_fields__}, "uid": successor.uid})
    key = world.do(world.store.register(successor))
    world.accept(key)
    world.do(world.store.reaped(old.uid))
    assert REGISTRY.get_sample_value("maestro_runs_accepted_total", {"automation": old.id}) == 2


def test_the_gauge_of_runs(world: World) -> None:
    automation = world.automation(window=2)
    name, gauges = name_of(world, automation), RunGauges()

    def shown() -> dict[str, float]:
        return {
            sample.labels["state"]: sample.value
            for metric in REGISTRY.collect()
            if metric.name == "maestro_runs"
            for sample in metric.samples
            if sample.labels["automation"] == name
        }

    run, *_ = world.accept(automation, 5)
    assert {claimed.id for claimed in world.claim(automation)} > {run}
    world.start(run)
    gauges.show(world.do(world.store.counts()), world.store.registrations())
    assert shown() == {"waiting": 3, "held": 0, "queued": 1, "running": 1}
    registration = world.store.registrations()[automation]
    gauges.show({automation: Counts(held=4)}, {automation: registration})
    assert shown() == {"waiting": 0, "held": 4, "queued": 0, "running": 0}
    gauges.show({}, {})
    assert shown() == {}


def test_lost_attempts_are_counted_by_what_showed_it(world: World) -> None:
    automation = world.automation(max_attempts=2, heartbeat_timeout=30)
    name, samples = name_of(world, automation), Samples()
    silent, killed, canceled = world.accept(automation, 3)
    world.claim(automation)
    for run in (silent, killed, canceled):
        world.start(run, f"pod-of-{run}/process")
    world.do(world.store.cancel(canceled))
    world.do(world.store.pod_gone(f"pod-of-{killed}"))
    world.advance(40)
    world.due()
    assert samples("attempts_lost_total", automation=name, cause="pod") == 1
    assert samples("attempts_lost_total", automation=name, cause="lease") == 2, "one of them ended its Run"
    assert samples("runs_finished_total", automation=name, state="Canceled", reason="Canceled") == 1
    world.due()
    world.claim(automation)
    world.start(silent)
    world.advance(40)
    world.due()
    assert samples("attempts_lost_total", automation=name, cause="lease") == 3
    assert samples("runs_finished_total", automation=name, state="Failed", reason="WorkerLost") == 1


def test_a_timeout_and_a_finish_lose_no_attempt(world: World) -> None:
    automation = world.automation(timeout=10, cancel_grace=5, heartbeat_timeout=300)
    name, samples = name_of(world, automation), Samples()
    late, done = world.accept(automation, 2)
    world.claim(automation)
    world.start(late)
    world.start(done)
    world.finish(done, "failed", kind="business")
    for _ in range(2):
        world.advance(20)
        world.due()
    assert samples("runs_finished_total", automation=name, state="Failed", reason="Timeout") == 1
    assert samples("runs_finished_total", automation=name, state="Failed", reason="BusinessFailure") == 1
    assert samples("attempts_lost_total", automation=name, cause="lease") == 0


def test_reasons_are_bounded(world: World) -> None:
    automation = world.automation()
    name, samples = name_of(world, automation), Samples()
    for n, run in enumerate(world.accept(automation, 3)):
        world.do(world.store.cancel(run, why=f"because of {n}"))
    assert samples("runs_finished_total", automation=name, state="Canceled", reason="Other") == 3


def test_dead_letters_are_shown_by_automation(world: World) -> None:
    automation = world.automation()
    registrations, gauges = world.store.registrations(), RunGauges()
    name = registrations[automation].id

    def shown(automation: str) -> float | None:
        return REGISTRY.get_sample_value("maestro_dead_letters", {"automation": automation})

    gauges.show({automation: Counts(dead_lettered=2), 0: Counts(dead_lettered=5)}, registrations)
    assert (shown(name), shown("")) == (2, 5)
    gauges.show({}, {})
    assert (shown(name), shown("")) == (None, 0)
