"""What the store remembers of Automations, and what becomes of their Runs when they are deleted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.integration.runs.world import World

from maestro.runs.errors import UnknownAutomation
from maestro.runs.model import NewRun, RunState


def test_only_a_newer_generation_overwrites(store: World) -> None:
    first = replace(store.registration(), generation=5)
    key = store.do(store.store.register(first))
    assert store.store.live(first.id) == (key, first)
    assert store.do(store.store.register(replace(first, generation=4, suspended=True))) == key
    assert store.store.registrations()[key].suspended is False
    assert store.do(store.store.register(replace(first, generation=6, suspended=True))) == key
    assert store.store.registrations()[key].suspended is True


def test_a_registration_survives_whole(store: World) -> None:
    registration = replace(
        store.registration(parallelism=3, ordering_key=("a", "b")),
        parameter_schema={"properties": {"a": {"default": [1, {"b": None}]}}},
        default_parameters={"a": "ä"},
        script_path="x.py",
    )
    key = store.do(store.store.register(registration))
    other = store.open()
    assert other.registrations()[key] == registration
    store.do(other.close())


def test_another_replica_learns_of_it(store: World) -> None:
    other = store.open()
    registration = store.registration()
    key = store.do(store.store.register(registration))
    assert other.live(registration.id) is None
    store.do(other.refresh())
    assert other.live(registration.id) == (key, registration)
    store.do(other.close())


def test_runs_follow_their_automation_into_another_solution(store: World) -> None:
    registration = store.registration()
    key = store.do(store.store.register(registration))
    (run,) = store.accept(key)
    moved = replace(registration, generation=2, solution="elsewhere")
    store.do(store.store.register(moved))
    assert store.do(store.store.hold(registration.solution_id)) == 0
    assert store.do(store.store.hold(moved.solution_id)) == 1
    assert store.get(run).solution_id == moved.solution_id
    store.do(store.store.open_gateway(moved.solution_id))


def test_what_waits_of_a_deleted_automation_is_canceled_and_what_runs_goes_on(store: World) -> None:
    registration = store.registration()
    key = store.do(store.store.register(registration))
    running = store.running(key)
    retrying = store.running(key)
    store.finish(retrying, "failed")
    held = store.accept(key, 2)
    store.do(store.store.hold(registration.solution_id))
    queued = store.accept(key, 600)
    store.do(store.store.open_gateway(registration.solution_id))
    store.claim(key, 300)

    assert store.do(store.store.deregister(registration.uid)) is True
    assert store.store.live(registration.id) is None
    for run in (held[0], held[1], queued[0], queued[-1]):
        assert (store.get(run).state, store.get(run).reason) == (RunState.CANCELED, "AutomationDeleted")
    assert store.do(store.store.counts())[key].waiting == 0
    assert store.claim(key) == []
    with pytest.raises(UnknownAutomation):
        store.accept(key)
    assert store.finish(running).status == 200
    assert store.do(store.store.deregister("no such uid")) is False


def test_what_fails_after_the_automation_was_deleted_ends(store: World) -> None:
    registration = store.registration(heartbeat_timeout=60)
    key = store.do(store.store.register(registration))
    failing, silent, drained = (store.running(key) for _ in range(3))
    store.do(store.store.deregister(registration.uid))
    store.finish(failing, "failed")
    store.report("release", drained, attempt=1)
    store.advance(61)
    store.due()
    for run in (failing, silent, drained):
        assert (store.get(run).state, store.get(run).reason) == (RunState.CANCELED, "AutomationDeleted")


def test_what_a_replica_accepted_too_late_ends(store: World) -> None:
    registration = store.registration()
    key = store.do(store.store.register(registration))
    unaware = store.open()
    store.do(store.store.deregister(registration.uid))
    (accepted,) = store.do(unaware.accept([NewRun(key)]))
    store.do(store.store.prune(store.now))
    assert store.state(accepted.id) is RunState.CANCELED
    store.do(unaware.close())


def test_one_that_is_made_again_under_the_same_name_is_a_new_one(store: World) -> None:
    first = store.registration()
    key = store.do(store.store.register(first))
    second = replace(first, uid=f"{first.uid}-again")
    second_key = store.do(store.store.register(second))
    assert second_key != key
    assert store.store.live(first.id) == (second_key, second)
    store.do(store.store.deregister(first.uid))
    assert store.store.live(first.id) == (second_key, second)
    # a cache that lags behind can't bring it back
    assert store.do(store.store.register(replace(first, generation=9))) == key
    assert store.store.live(first.id) == (second_key, second)


def test_orphans_are_listed_until_they_are_reaped(store: World) -> None:
    registration = store.registration()
    key = store.do(store.store.register(registration))
    store.running(key)
    known = {known.uid for known in store.store.registrations().values()} - {registration.uid}

    def mine() -> list[tuple[bool, int]]:
        orphans = store.do(store.store.orphans(known))
        return [(orphan.deregistered, orphan.open_runs) for orphan in orphans if orphan.automation == key]

    assert mine() == [(False, 1)]
    store.do(store.store.deregister(registration.uid))
    assert mine() == [(True, 1)]
    store.do(store.store.reaped(registration.uid))
    assert mine() == []
