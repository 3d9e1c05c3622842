"""Random orders, loss and doubling: the store does to every Run exactly what the table says, and nothing gets stuck.

The model is a row for each Run in memory, changed by the pure table alone. The store is asked the same, in an order
that hypothesis makes up; messages are delivered late, twice, to two workers at once, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.integration.runs.world import World

from maestro.runs import lifecycle
from maestro.runs.lifecycle import End, Event, Happening, Run
from maestro.runs.model import NewRun, RunPolicy, to_micros

WORKERS = ("pod-1/a", "pod-1/b", "pod-2/a")
COMPARED = (
    *("state", "attempt", "max_attempts", "pub", "returns", "holder", "holder_pub", "slot", "due_at", "lease_at"),
    *("deadline_at", "expires_at", "cancel_at", "cancel_why", "reason", "end_report", "started_at", "alone"),
)
FINISHES = {
    End.OK: {"status": "completed"},
    End.TECHNICAL: {"status": "failed"},
    End.BUSINESS: {"status": "failed", "kind": "business"},
    End.CANCELED: {"status": "canceled"},
}
POLICY = {"max_attempts": 2, "heartbeat_timeout": 60, "timeout": 300, "cancel_grace": 30, "backoff_initial": 5}
REPORTS = ("progress", "poll", "release")
workers = st.sampled_from(WORKERS)


class Lives(RuleBasedStateMachine):
    """Set `world` on a subclass."""

    world: World
    shape: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.world.advance(24 * 3600)
        while self.world.due().handled:
            pass
        self.automation = self.world.automation(**POLICY, **self.shape)
        self.solution = self.world.solution
        self.policy = RunPolicy(**POLICY, **self.shape)
        self.model: dict[UUID, Run] = {}
        self.seqs: dict[int, UUID] = {}
        self.keys: dict[UUID, int] = {}
        self.attempts: dict[tuple[UUID, int], tuple[str | None, str]] = {}
        self.messages: list[tuple[UUID, int]] = []
        self.asked: dict[UUID, int] = {}
        self.ends: dict[UUID, int] = {}

    # -- the model ---------------------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        return to_micros(self.world.now)

    def happen(self, id_: UUID, happening: Happening) -> lifecycle.Step:
        run = self.model[id_]
        step = lifecycle.step(run, happening, self.policy, self.now)
        lifecycle.apply(run, step.changes)
        if step.attempt_end is not None:
            self.attempts[id_, step.attempt_end.attempt] = (step.attempt_end.holder, step.attempt_end.outcome)
        return step

    def some(self, data: st.DataObject, *states: int) -> UUID | None:
        among = [id_ for id_, run in self.model.items() if not states or run.state in states]
        return data.draw(st.sampled_from(among)) if among else None

    # -- rules -------------------------------------------------------------------------------------------------------

    @rule(n=st.integers(1, 4), key=st.integers(0, 1), delay=st.sampled_from([None, None, 20]))
    def accept(self, n: int, key: int, delay: int | None) -> None:
        from datetime import timedelta

        due = None if delay is None else self.world.now + timedelta(seconds=delay)
        accepted = self.world.accept_all([NewRun(self.automation, {"k": key}, not_before=due) for _ in range(n)])
        for one in accepted:
            self.model[one.id] = Run(
                state=lifecycle.P,
                max_attempts=self.policy.max_attempts,
                keyed=bool(self.policy.ordering_key),
                due_at=None if due is None else to_micros(due),
            )
            self.keys[one.id] = key
            self.seqs[self.world.get(one.id).seq] = one.id

    @rule(limit=st.integers(1, 5))
    def claim(self, limit: int) -> None:
        claimed = self.world.claim(self.automation, limit)
        slots = dict(self.world.rows("SELECT seq, slot FROM run WHERE automation_id = :a", {"a": self.automation}))
        for run in claimed:
            assert self.model[run.id].state == lifecycle.P
            self.happen(run.id, Happening(Event.CLAIM, pub=run.pub, slot=slots[run.seq]))
            self.messages.append((run.id, run.pub))

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), worker=workers, redelivered=st.booleans())
    def deliver(self, data: st.DataObject, worker: str, redelivered: bool) -> None:
        """Any copy that was ever published, whether it was delivered before or not."""
        id_, pub = data.draw(st.sampled_from(self.messages))
        happening = Happening(Event.START, worker=worker, pub=pub, redelivered=redelivered)
        happening.company, happening.barred = self.company(id_, worker)
        answer = self.world.start(id_, worker, pub=pub, epoch=self.world.epoch, redelivered=redelivered)
        step = self.happen(id_, happening)
        assert (answer.status, answer.attempt) == (step.status, step.attempt)
        if step.status == 429 and self.model[id_].alone == lifecycle.ALONE:
            self.asked[id_] = self.now

    def company(self, id_: UUID, worker: str) -> tuple[bool, bool]:
        """What a start of this worker finds: others in its pod, one there that has to be alone."""
        if self.model[id_].state != lifecycle.Q:
            return False, False
        pod = worker.partition("/")[0]
        there = [
            (other, run) for other, run in self.model.items() if other != id_ and (run.holder or "").startswith(pod)
        ]
        if self.model[id_].alone == lifecycle.ALONE:
            return any(run.state == lifecycle.R for _, run in there), False
        return False, any(
            run.state == lifecycle.R
            or (run.state == lifecycle.Q and run.holder_pub == run.pub and self.now - self.asked[other] < 10_000_000)
            for other, run in there
            if run.alone == lifecycle.ALONE
        )

    @rule(data=st.data(), worker=workers)
    def deliver_many(self, data: st.DataObject, worker: str) -> None:
        """One request: two Runs' starts, and the end of one that the worker has."""
        from maestro.runs.reports import Report

        reports, expected = [], []
        mine = [id_ for id_, run in self.model.items() if (run.state, run.holder) == (lifecycle.R, worker)]
        if mine:
            reports.append(Report("finish", mine[0], worker, self.model[mine[0]].attempt, status="completed"))
            end = Happening(Event.FINISH, worker=worker, attempt=self.model[mine[0]].attempt, end=End.OK)
            expected.append(self.happen(mine[0], end).status)
        queued = [id_ for id_, run in self.model.items() if run.state == lifecycle.Q]
        for id_ in data.draw(st.permutations(queued))[:2]:
            pub = self.model[id_].pub
            reports.append(Report("start", id_, worker, pub=pub, epoch=self.world.epoch))
            happening = Happening(Event.START, worker=worker, pub=pub)
            happening.company, happening.barred = self.company(id_, worker)
            step = self.happen(id_, happening)
            expected.append(step.status)
            if step.status == 429 and self.model[id_].alone == lifecycle.ALONE:
                self.asked[id_] = self.now
        assert [answer.status for answer in self.world.do(self.world.store.reports(reports))] == expected

    @precondition(lambda self: self.model)
    @rule(data=st.data(), worker=workers, end=st.sampled_from(list(FINISHES)), attempt=st.integers(1, 3))
    def finish(self, data: st.DataObject, worker: str, end: End, attempt: int) -> None:
        id_ = self.some(data, lifecycle.R) or self.some(data)
        assert id_ is not None
        self.say_finish(id_, worker, end, attempt)

    @precondition(lambda self: any(run.state == lifecycle.R for run in self.model.values()))
    @rule(data=st.data(), end=st.sampled_from(list(FINISHES)), twice=st.booleans())
    def finish_by_holder(self, data: st.DataObject, end: End, twice: bool) -> None:
        id_ = self.some(data, lifecycle.R)
        assert id_ is not None
        run = self.model[id_]
        holder, attempt = run.holder or "", run.attempt
        for _ in range(1 + twice):
            assert self.say_finish(id_, holder, end, attempt) == 200

    def say_finish(self, id_: UUID, worker: str, end: End, attempt: int) -> int:
        more: dict[str, Any] = dict(FINISHES[end])
        answer = self.world.finish(id_, more.pop("status"), attempt=attempt, worker=worker, **more)
        prior = self.attempts.get((id_, attempt))
        step = self.happen(id_, Happening(Event.FINISH, worker=worker, attempt=attempt, end=end, prior=prior))
        assert answer.status == step.status
        return step.status

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(), worker=workers, attempt=st.integers(1, 2), op=st.sampled_from(["progress", "poll", "release"])
    )
    def other_reports(self, data: st.DataObject, worker: str, attempt: int, op: str) -> None:
        id_ = self.some(data, lifecycle.R) or self.some(data)
        assert id_ is not None
        answer = self.world.report(op, id_, worker, attempt=attempt)
        event = Event.RELEASE if op == "release" else Event.HEARTBEAT
        step = self.happen(id_, Happening(event, worker=worker, attempt=attempt, poll=op == "poll"))
        assert answer.status == step.status
        assert op == "release" or answer.status != 200 or answer.cancellation_requested == step.cancel

    @precondition(lambda self: self.model)
    @rule(data=st.data(), force=st.booleans())
    def cancel(self, data: st.DataObject, force: bool) -> None:
        id_ = self.some(data)
        assert id_ is not None
        answer = self.world.do(self.world.store.cancel(id_, force=force))
        assert answer.status == self.happen(id_, Happening(Event.CANCEL, force=force)).status

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        from maestro.runs.model import Unpublished

        id_, pub = data.draw(st.sampled_from(self.messages))
        seq = next(seq for seq, known in self.seqs.items() if known == id_)
        self.world.do(self.world.store.unpublished(self.world.epoch, [Unpublished(seq, pub, "NoQueue")]))
        self.happen(id_, Happening(Event.RETURN, pub=pub, reason="NoQueue"))

    @rule(seconds=st.sampled_from([1, 6, 11, 31, 61, 301]))
    def time_passes(self, seconds: int) -> None:
        self.world.advance(seconds)
        for _ in range(20):
            alarms = self.world.rows(
                "SELECT seq FROM run WHERE automation_id = :a AND alarm_at <= :now ORDER BY alarm_at, seq",
                {"a": self.automation, "now": self.now},
            )
            if not self.world.due().handled:
                return
            self.ring([self.seqs[seq] for (seq,) in alarms])
        raise AssertionError("the alarms never end")

    def ring(self, alarms: list[UUID]) -> None:
        """Leases of one worker that run out while it has others in hand are lost in company."""
        silent: dict[str, list[UUID]] = defaultdict(list)
        for id_ in alarms:
            if lifecycle.lease_ran_out(self.model[id_], self.now):
                silent[self.model[id_].holder or ""].append(id_)
        in_company: set[UUID] = set()
        for holder, lost in silent.items():
            held = [id_ for id_, run in self.model.items() if (run.state, run.holder) == (lifecycle.R, holder)]
            if len(held) > 1:
                in_company.update(lost)
                for id_ in set(held).difference(lost):
                    self.happen(id_, Happening(Event.NEIGHBOR_LOST))
        for id_ in alarms:
            self.happen(id_, Happening(Event.ALARM, company=id_ in in_company))

    @rule(pod=st.sampled_from(["pod-1", "pod-2"]), told=st.booleans())
    def pod_ends(self, pod: str, told: bool) -> None:
        self.world.do(self.world.store.pod_gone(pod, automation=self.automation, told=told))
        held = [
            id_
            for id_, run in self.model.items()
            if run.state == lifecycle.R and (run.holder or "").startswith(f"{pod}/")
        ]
        for id_ in held:
            self.happen(id_, Happening(Event.POD_GONE, company=len(held) > 1, told=told))

    @rule()
    def gateway_shuts(self) -> None:
        self.world.do(self.world.store.hold(self.solution))
        for id_, run in self.model.items():
            if run.state in (lifecycle.P, lifecycle.Q, lifecycle.T):
                self.happen(id_, Happening(Event.HOLD))

    @rule()
    def gateway_opens(self) -> None:
        self.world.do(self.world.store.open_gateway(self.solution))
        for id_, run in self.model.items():
            if run.state == lifecycle.H:
                self.happen(id_, Happening(Event.OPEN))

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def the_rows_are_the_models(self) -> None:
        columns = ", ".join(COMPARED)
        rows = self.world.rows(f"SELECT seq, {columns} FROM run WHERE automation_id = :a", {"a": self.automation})
        assert len(rows) == len(self.model)
        for seq, *values in rows:
            run = self.model[self.seqs[seq]]
            assert dict(zip(COMPARED, values, strict=True)) == {name: getattr(run, name) for name in COMPARED}

    @invariant()
    def who_must_be_alone_is(self) -> None:
        for run in self.model.values():
            if run.state == lifecycle.R and run.alone == lifecycle.ALONE:
                pod = (run.holder or "").partition("/")[0]
                there = [
                    other
                    for other in self.model.values()
                    if other.state == lifecycle.R and (other.holder or "").startswith(pod)
                ]
                assert there == [run]

    @invariant()
    def no_end_is_ever_changed(self) -> None:
        for id_, run in self.model.items():
            if run.state >= lifecycle.S:
                assert self.ends.setdefault(id_, run.state) == run.state

    @invariant()
    def alarms_ring_in_time(self) -> None:
        rows = self.world.rows("SELECT seq, alarm_at, ready FROM run WHERE automation_id = :a", {"a": self.automation})
        for seq, alarm_at, ready in rows:
            run = self.model[self.seqs[seq]]
            run.ready = ready  # with an ordering key the store decides, see the next invariant
            due = lifecycle.alarm_of(run)
            assert due is None or (alarm_at is not None and alarm_at <= due)

    @invariant()
    def of_a_key_the_first_goes(self) -> None:
        if not self.policy.ordering_key:
            return
        rows = self.world.rows("SELECT seq, ready FROM run WHERE automation_id = :a", {"a": self.automation})
        ready = {self.seqs[seq] for seq, is_ready in rows if is_ready}
        by_key: dict[int, list[UUID]] = defaultdict(list)
        for seq, id_ in sorted(self.seqs.items()):
            assert seq
            by_key[self.keys[id_]].append(id_)
        for runs in by_key.values():
            flight = [id_ for id_ in runs if self.model[id_].state in (lifecycle.Q, lifecycle.R, lifecycle.T)]
            assert len(flight) <= 1
            waiting = [id_ for id_ in runs if self.model[id_].state in (lifecycle.H, lifecycle.P)]
            may_go = not flight and bool(waiting) and self.is_due(waiting[0])
            assert [id_ for id_ in waiting if id_ in ready] == (waiting[:1] if may_go else [])

    def is_due(self, id_: UUID) -> bool:
        run = self.model[id_]
        # between its instant and the next look at the clock either is right
        return run.state == lifecycle.P and (run.due_at is None or run.due_at <= self.now)

    @invariant()
    def the_counts_are_right(self) -> None:
        counted = self.world.rows(
            "SELECT state, sum(n) FROM run_count WHERE automation_id = :a GROUP BY state", {"a": self.automation}
        )
        present: dict[int, int] = defaultdict(int)
        for run in self.model.values():
            present[run.state] += 1
        assert {state: int(n) for state, n in counted if n} == dict(present)

    @invariant()
    def slots_are_kept(self) -> None:
        slots = [run.slot for run in self.model.values() if run.slot is not None]
        assert len(slots) == len(set(slots))
        if self.policy.parallelism is not None:
            busy = sum(run.state in (lifecycle.Q, lifecycle.R) for run in self.model.values())
            assert busy == len(slots) <= self.policy.parallelism

    def teardown(self) -> None:
        """Whatever happened: with workers that work, everything ends."""
        self.gateway_opens()
        for _ in range(len(self.model) * 8 + 8):
            if all(run.state >= lifecycle.S for run in self.model.values()):
                return
            self.time_passes(301)
            self.claim(100)
            for id_, run in list(self.model.items()):
                if run.state == lifecycle.Q:
                    self.world.start(id_, "pod-9/z", pub=run.pub)
                    self.happen(id_, Happening(Event.START, worker="pod-9/z", pub=run.pub))
                    self.say_finish(id_, "pod-9/z", End.OK, run.attempt)
            self.the_rows_are_the_models()
        raise AssertionError(f"stuck: {[run for run in self.model.values() if run.state < lifecycle.S]}")


def check(world: World, shape: dict[str, Any]) -> None:
    factory: Callable[[], Lives] = type("TheseLives", (Lives,), {"world": world, "shape": shape})
    run_state_machine_as_test(
        factory,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.parametrize(
    "shape",
    [{}, {"ordering_key": ("k",)}, {"parallelism": 2}, {"ordering_key": ("k",), "parallelism": 1, "window": 2}],
    ids=["plain", "keys", "slots", "keys and slots"],
)
def test_the_store_does_what_the_table_says(store: World, shape: dict[str, Any]) -> None:
    check(store, shape)
