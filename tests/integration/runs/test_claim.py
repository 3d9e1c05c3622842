"""Claiming: order, window, slots, ordering keys, gateway, suspension."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from tests.integration.runs.world import World

from maestro.runs.model import Claimed, NewRun, RunState


def ids(claimed: list[Claimed]) -> list[UUID]:
    return [run.id for run in claimed]


def test_in_order_of_acceptance_with_rising_numbers(store: World) -> None:
    automation = store.automation()
    runs = store.accept(automation, 30)
    first = store.claim(automation, 20)
    rest = store.claim(automation, 20)
    assert ids(first + rest) == runs
    pubs = [run.pub for run in first + rest]
    assert pubs == list(range(pubs[0], pubs[0] + 30))
    assert store.claim(automation, 20) == []


def test_priority_goes_first(store: World) -> None:
    automation = store.automation()
    low, normal, high = (store.accept(automation, 2, priority=priority) for priority in (-5, 0, 7))
    assert ids(store.claim(automation)) == high + normal + low


def test_fairness_keys_take_turns(store: World) -> None:
    automation = store.automation()
    a = store.accept(automation, 6, fairness_key="a")
    b = store.accept(automation, 2, fairness_key="b")
    assert ids(store.claim(automation, 4)) == [a[0], b[0], a[1], b[1]]
    c = store.accept(automation, 2, fairness_key="c")
    # one that comes later takes part from the present turn on: no debt, no privilege
    assert ids(store.claim(automation, 4)) == [a[2], c[0], a[3], c[1]]
    assert ids(store.claim(automation)) == a[4:]


def test_what_has_no_fairness_key_is_one_flow(store: World) -> None:
    automation = store.automation()
    a = store.accept(automation, 3, fairness_key="a")
    none = store.accept(automation, 2)
    assert ids(store.claim(automation)) == [a[0], none[0], a[1], none[1], a[2]]


def test_fairness_within_one_list(store: World) -> None:
    automation = store.automation()
    accepted = store.accept_all([NewRun(automation, fairness_key=key) for key in "aaabbc"])
    order = [accepted[index].id for index in (0, 3, 5, 1, 4, 2)]
    assert ids(store.claim(automation)) == order


def test_window(store: World) -> None:
    automation = store.automation(window=5)
    runs = store.accept(automation, 8)
    assert ids(store.claim(automation)) == runs[:5]
    assert store.claim(automation) == []
    store.start(runs[0])
    assert ids(store.claim(automation)) == runs[5:6]


def test_a_full_window_that_drains_is_announced(store: World) -> None:
    automation = store.automation(window=1)
    runs = store.accept(automation, 2)
    store.claim(automation)
    heard: list[frozenset[int]] = []
    store.store.on_work(heard.append)
    store.claim(automation)
    store.start(runs[0])
    assert heard == [frozenset({automation})]


def test_parallelism(store: World) -> None:
    automation = store.automation(parallelism=2)
    runs = store.accept(automation, 5)
    assert ids(store.claim(automation)) == runs[:2]
    assert store.claim(automation) == []
    store.start(runs[0])
    assert store.claim(automation) == []
    heard: list[frozenset[int]] = []
    store.store.on_work(heard.append)
    store.finish(runs[0])
    assert heard == [frozenset({automation})]
    assert ids(store.claim(automation)) == runs[2:3]
    store.start(runs[1])
    store.finish(runs[1], "failed")
    assert ids(store.claim(automation)) == runs[3:4], "one that is Retrying gives its slot up"


def test_less_parallelism_than_before(store: World) -> None:
    registration = store.registration(parallelism=3)
    automation = store.do(store.store.register(registration))
    runs = store.accept(automation, 5)
    store.claim(automation)
    smaller = replace(registration, generation=2, policy=replace(registration.policy, parallelism=1))
    store.do(store.store.register(smaller))
    for run in runs[:2]:
        store.start(run)
        store.finish(run)
        assert store.claim(automation) == []
    store.start(runs[2])
    store.finish(runs[2])
    assert ids(store.claim(automation)) == runs[3:4]


class TestOrderingKeys:
    def keyed(self, store: World, automation: int, *keys: str, **more: Any) -> list[UUID]:
        return [a.id for a in store.accept_all([NewRun(automation, {"k": key, "n": 1}, **more) for key in keys])]

    def test_one_of_a_key_at_a_time_others_in_parallel(self, store: World) -> None:
        automation = store.automation(ordering_key=("k",))
        a1, b1, a2, a3, b2 = self.keyed(store, automation, "a", "b", "a", "a", "b")
        assert ids(store.claim(automation)) == [a1, b1]
        store.start(a1)
        assert store.claim(automation) == []
        store.finish(a1)
        assert ids(store.claim(automation)) == [a2]
        store.do(store.store.cancel(a2))
        assert ids(store.claim(automation)) == [a3]
        store.start(b1)
        store.finish(b1, "failed", kind="business")
        assert ids(store.claim(automation)) == [b2]

    def test_the_priority_does_not_overtake_within_a_key(self, store: World) -> None:
        automation = store.automation(ordering_key=("k",))
        (first,) = self.keyed(store, automation, "a")
        (urgent,) = self.keyed(store, automation, "a", priority=9)
        assert ids(store.claim(automation)) == [first]
        store.start(first)
        store.finish(first)
        assert ids(store.claim(automation)) == [urgent]

    def test_a_retry_keeps_its_key(self, store: World) -> None:
        automation = store.automation(ordering_key=("k",), backoff_initial=10)
        a1, a2 = self.keyed(store, automation, "a", "a")
        store.claim(automation)
        store.start(a1)
        store.finish(a1, "failed")
        assert store.claim(automation) == []
        store.advance(10)
        store.due()
        (a3,) = self.keyed(store, automation, "a")
        assert ids(store.claim(automation)) == [a1]
        store.start(a1)
        store.finish(a1, attempt=2)
        assert ids(store.claim(automation)) == [a2]
        assert store.state(a3) is RunState.PENDING

    def test_one_that_came_back_stays_first(self, store: World) -> None:
        automation = store.automation(ordering_key=("k",))
        a1, a2 = self.keyed(store, automation, "a", "a")
        (claimed,) = store.claim(automation)
        store.unpublished(claimed)
        assert store.claim(automation) == []
        store.advance(1)
        store.due()
        assert ids(store.claim(automation)) == [a1]
        assert store.state(a2) is RunState.PENDING

    def test_a_key_waits_for_its_head_to_be_due(self, store: World) -> None:
        from datetime import timedelta

        automation = store.automation(ordering_key=("k",))
        (a1,) = self.keyed(store, automation, "a", not_before=store.now + timedelta(seconds=60))
        (a2,) = self.keyed(store, automation, "a")
        assert store.claim(automation) == []
        store.advance(60)
        store.due()
        assert ids(store.claim(automation)) == [a1]
        assert store.state(a2) is RunState.PENDING

    def test_a_failure_blocks_its_key_until_a_retry_succeeds(self, store: World) -> None:
        automation = store.automation(ordering_key=("k",), on_key_failure="Block")
        a1, a2, b1 = self.keyed(store, automation, "a", "a", "b")
        store.claim(automation)
        store.start(a1)
        store.finish(a1, "failed", kind="business")
        assert store.claim(automation) == []
        (blocked,) = store.do(store.store.keys(automation))
        assert (blocked.blocked_by, blocked.open_runs) == (a1, 1)
        copy = store.do(store.store.retry(a1)).id
        assert ids(store.claim(automation)) == [copy]
        store.start(copy)
        store.finish(copy, "failed", kind="business")
        assert store.claim(automation) == []
        again = store.do(store.store.retry(copy)).id
        assert ids(store.claim(automation)) == [again]
        store.start(again)
        store.finish(again)
        assert ids(store.claim(automation)) == [a2]
        assert store.do(store.store.keys(automation)) == []
        assert store.state(b1) is RunState.QUEUED

    def test_a_blocked_key_can_be_released(self, store: World) -> None:
        automation = store.automation(ordering_key=("k",), on_key_failure="Block")
        a1, a2 = self.keyed(store, automation, "a", "a")
        store.claim(automation)
        store.start(a1)
        store.finish(a1, "failed", kind="business")
        (blocked,) = store.do(store.store.keys(automation))
        assert store.do(store.store.release_key(automation, blocked.key)) is True
        assert store.do(store.store.release_key(automation, blocked.key)) is False
        assert ids(store.claim(automation)) == [a2]

    def test_nothing_is_left_of_a_key_that_is_done(self, store: World) -> None:
        automation = store.automation(ordering_key=("k",))
        self.keyed(store, automation, "a", "b", "a")
        for _ in range(2):
            store.claim(automation)
            store.finish_all(automation)
        assert store.rows("SELECT * FROM run_key WHERE automation_id = :a", {"a": automation}) == []


class TestGateway:
    def test_a_shut_gateway_takes_everything_back_that_does_not_run(self, store: World) -> None:
        automation = store.automation()
        running = store.running(automation)
        retrying = store.running(automation)
        store.finish(retrying, "failed")
        queued = store.accept(automation, 2)
        store.claim(automation)
        pending = store.accept(automation, 2)
        assert store.do(store.store.hold(store.solution)) == 5
        assert {store.state(run) for run in [retrying, *queued, *pending]} == {RunState.HELD}
        assert store.state(running) is RunState.RUNNING
        assert store.do(store.store.hold(store.solution)) == 0
        assert store.start(queued[0]).reason == "notDue"
        assert store.finish(running).status == 200

    def test_held_ones_go_first_and_in_order(self, store: World) -> None:
        automation = store.automation()
        held = store.accept(automation, 5)
        store.do(store.store.hold(store.solution))
        late = store.accept(automation, 1)
        assert store.do(store.store.open_gateway(store.solution, limit=3)) == 3
        assert store.claim(automation) == [], "no claim until no held one is left"
        assert store.do(store.store.open_gateway(store.solution, limit=3)) == 2
        assert store.do(store.store.open_gateway(store.solution, limit=3)) == 0
        assert ids(store.claim(automation)) == held + late

    def test_only_replays_pass_a_shut_gateway(self, store: World) -> None:
        automation = store.automation()
        original = store.running(automation)
        store.finish(original)
        ordinary = store.accept(automation)
        (replay,) = store.accept(automation, replay_of=original)
        assert ids(store.claim(automation, only_replays=True)) == [replay]
        assert store.do(store.store.hold(store.solution)) == 1
        (second,) = store.accept(automation, replay_of=original)
        assert ids(store.claim(automation)) == [second], "held ones are left: only replays go"
        assert store.state(ordinary[0]) is RunState.HELD

    def test_a_retry_that_was_held_keeps_its_due_time(self, store: World) -> None:
        automation = store.automation(backoff_initial=60)
        run = store.running(automation)
        store.finish(run, "failed")
        store.do(store.store.hold(store.solution))
        store.do(store.store.open_gateway(store.solution))
        assert store.claim(automation) == []
        store.advance(60)
        store.due()
        assert ids(store.claim(automation)) == [run]


class TestSuspension:
    def test_nothing_is_claimed_and_queued_ones_come_back(self, store: World) -> None:
        registration = store.registration()
        automation = store.do(store.store.register(registration))
        queued, pending = store.accept(automation, 2)
        store.claim(automation, 1)
        store.do(store.store.register(replace(registration, generation=2, suspended=True)))
        assert store.claim(automation) == []
        assert {store.state(queued), store.state(pending)} == {RunState.PENDING}
        assert store.start(queued).reason == "notDue"
        store.do(store.store.register(replace(registration, generation=3)))
        assert ids(store.claim(automation)) == [queued, pending]

    def test_many_technical_failures_in_a_row_pause(self, store: World) -> None:
        automation = store.automation(pause_after_failures=3, max_attempts=1)
        runs = store.accept(automation, 8)
        store.claim(automation, 5)
        for run, status in zip(runs, ("failed", "failed", "completed", "failed", "failed"), strict=False):
            store.start(run)
            store.finish(run, status)
        assert store.do(store.store.counts())[automation].failures_in_row == 2
        (next_run,) = store.claim(automation, 1)
        store.start(next_run.id)
        store.finish(next_run.id, "failed")
        counts = store.do(store.store.counts())[automation]
        assert (counts.failures_in_row, counts.paused) == (3, True)
        assert store.claim(automation) == []
        store.do(store.store.unpause(automation))
        assert len(store.claim(automation)) == 2


class TestANewLeader:
    def test_publishes_again_what_is_above_the_watermark(self, store: World) -> None:
        automation = store.automation()
        store.accept(automation, 5)
        claimed = store.claim(automation)
        store.do(store.store.confirmed(store.epoch, claimed[2].pub))
        store.do(store.store.confirmed(store.epoch, claimed[0].pub))
        leadership = store.do(store.store.win_leadership())
        store.epoch = leadership.epoch
        assert (leadership.confirmed_pub, leadership.next_pub) == (claimed[2].pub, claimed[-1].pub + 1)
        again = store.do(store.store.queued_after(leadership.epoch, leadership.confirmed_pub, 100))
        assert [run for run in again if run.automation == automation] == claimed[3:]


class TestRepair:
    def test_what_was_overtaken_gets_a_new_number(self, store: World) -> None:
        automation = store.automation()
        runs = store.accept(automation, 3)
        claimed = store.claim(automation)
        assert store.do(store.store.started_pub(store.epoch, automation)) == 0
        store.start(runs[1], pub=claimed[1].pub, epoch=store.epoch)
        assert store.do(store.store.started_pub(store.epoch, automation)) == claimed[1].pub
        assert store.do(store.store.started_pub(store.epoch + 1, automation)) == 0
        queued = store.do(store.store.queued_runs(automation, 10))
        assert [run.pub for run in queued] == [claimed[0].pub, claimed[2].pub]
        below = store.do(store.store.queued_runs(automation, 10, below=claimed[1].pub))
        (again,) = store.do(store.store.republish(store.epoch, below))
        assert again.id == runs[0]
        assert again.pub > claimed[2].pub
        assert store.do(store.store.republish(store.epoch, below)) == []
        assert store.unpublished(claimed[0]) == 0

    def test_workers_of_the_older_contract_count_too(self, store: World) -> None:
        automation = store.automation()
        first, second = store.accept(automation, 2)
        claimed = store.claim(automation)
        store.start(second, "pod", older=True)
        assert store.do(store.store.started_pub(store.epoch, automation)) == claimed[1].pub
        (again,) = store.do(store.store.republish(store.epoch, store.do(store.store.queued_runs(automation, 10))))
        store.start(first, "pod", older=True)
        assert store.do(store.store.started_pub(store.epoch, automation)) < again.pub, "it may have the first copy"

    def test_a_message_of_another_store_overtakes_nothing(self, store: World) -> None:
        automation = store.automation()
        (run,) = store.accept(automation)
        store.claim(automation)
        assert store.start(run, pub=10**9, epoch=store.epoch, store="another").status == 200
        assert store.do(store.store.started_pub(store.epoch, automation)) == 0
