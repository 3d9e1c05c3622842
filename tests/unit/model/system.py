"""A whole Maestro in memory, with a broker that loses and doubles messages, workers that die or freeze, and a network
that delays, doubles and drops their X (`Repair`); everything around them is the model's.

Beside the product's rows the model keeps an account of its own: who holds a Run by right, and until when. `Violation`
is raised as soon as the rows say something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from maestro.runs import company, lifecycle
from maestro.runs.lifecycle import End, Event, Happening, Run, Step
from maestro.runs.model import Claimed, Counts, QueuedRun, Registration, RunPolicy, from_micros, micros, to_micros
from maestro.runs.repair import Repair

AUTOMATION = 1
REGISTRATION = Registration(uid="uid", namespace="team", name="model", queue="maestro.team.model")
POLICY = RunPolicy(
    max_attempts=2, heartbeat_timeout=60.0, timeout=600.0, cancel_grace=30.0, backoff_initial=20.0, backoff_factor=1.0
)
WAITS = (lifecycle.P, lifecycle.Q, lifecycle.T)


class Violation(AssertionError):  # noqa: N818 - what a check of the model finds
    """Something that must never happen has happened."""


@dataclass(frozen=True)
class Variant:
    """What of the dispatcher's design is left out, to see whether the model notices."""

    write_ahead: bool = True
    """Queued is written before the message is published."""
    repair: bool = True


@dataclass
class Message:
    """A copy on the broker."""

    run: int
    pub: int
    redelivered: bool = False


@dataclass
class Delivery:
    """A copy that a process holds and hasn't acknowledged."""

    message: Message
    process: str


@dataclass
class Process:
    """A worker. `older`: of the contract without attempts; its identity is its pod."""

    name: str
    older: bool = False
    hands: dict[int, int] = field(default_factory=dict)
    """The attempts that it believes to hold, by Run."""

    @property
    def pod(self) -> str:
        return self.name.partition("/")[0]


@dataclass
class Saying:
    """A report under way."""

    op: str
    process: str
    run: int
    attempt: int
    end: End | None = None


@dataclass
class Right:
    """Who holds a Run by right."""

    process: str
    attempt: int
    until: int
    """The latest instant to which its lease may reach."""


class System:
    """See the module. Every method is one thing that can happen."""

    def __init__(self, variant: Variant = Variant()) -> None:
        self.variant = variant
        self.now = to_micros(datetime.fromisoformat("2026-01-01T00:00:00+00:00"))
        self.runs: list[Run] = []
        self.queued_at: dict[int, int] = {}
        self.asked_at: dict[int, int] = {}
        self.attempts: dict[tuple[int, int], tuple[str | None, str]] = {}
        self.shut = False
        # the leader's row
        self.next_pub = 1
        self.confirmed_pub = 0
        self.started_pub = 0
        # the dispatcher's memory
        self.in_flight: dict[int, int] = {}
        self.unwritten: dict[int, int] = {}
        self.repair = self._new_repair()
        # the broker, the workers and the network between
        self.queue: deque[Message] = deque()
        self.confirms: list[int] = []
        self.unacked: list[Delivery] = []
        self.processes = {
            p.name: p for p in (Process("a/1"), Process("a/2"), Process("b/1"), Process("old", older=True))
        }
        self.sayings: list[Saying] = []
        # the model's own account
        self.rights: dict[int, Right] = {}
        self.ends: dict[int, tuple[int, str | None]] = {}

    # -- people and the clock ---------------------------------------------------------------------------------------

    def accept(self) -> None:
        self.runs.append(Run(max_attempts=POLICY.max_attempts, ready=1))

    def cancel(self, run: int, force: bool) -> None:
        self._happen(run, Happening(Event.CANCEL, force=force))
        if self.runs[run].state >= lifecycle.S:
            self.rights.pop(run, None)

    def pass_time(self, seconds: float) -> None:
        """Time passes, and the leader treats what it brings."""
        self.now += micros(seconds)
        for _ in range(10):
            due = [n for n, run in enumerate(self.runs) if run.alarm_at is not None and run.alarm_at <= self.now]
            if not due:
                return
            for run in due:
                held = self.runs[run].state == lifecycle.R
                self._happen(run, Happening(Event.ALARM))
                if held and self.runs[run].state != lifecycle.R:
                    self.rights.pop(run, None)
        raise Violation("the alarms never end")

    def shut_gateway(self) -> None:
        """The gate is shut and the dispatcher has seen it: from here on nothing starts."""
        for run, row in enumerate(self.runs):
            if row.state in WAITS:
                self._happen(run, Happening(Event.HOLD))
        self.shut = True

    def open_gateway(self) -> None:
        self.shut = False
        for run, row in enumerate(self.runs):
            if row.state == lifecycle.H:
                self._happen(run, Happening(Event.OPEN))

    # -- the dispatcher ---------------------------------------------------------------------------------------------

    def claim(self, *, crash: bool = False) -> None:
        """Claim the next Run and publish it; `crash`: die between the two."""
        run = next((n for n, row in enumerate(self.runs) if row.state == lifecycle.P and row.ready), None)
        if run is None or self.shut or run in self.unwritten.values():
            return
        pub, self.next_pub = self.next_pub, self.next_pub + 1
        if self.variant.write_ahead:
            self._write_queued(run, pub)
            self.in_flight[pub] = run
        else:
            self.unwritten[pub] = run
        if crash:
            self.crash_dispatcher()
        else:
            self._publish(run, pub)

    def confirm(self, index: int) -> None:
        """The broker's confirm of a publication arrives."""
        pub = self.confirms.pop(index)
        self.in_flight.pop(pub, None)
        if pub in self.unwritten:
            self._write_queued(self.unwritten.pop(pub), pub, blindly=True)
        self.confirmed_pub = max(self.confirmed_pub, min(self.in_flight, default=self.next_pub) - 1)

    def come_back(self, index: int) -> None:
        """A copy is returned instead of queued (its queue is gone for a moment)."""
        pub = self.confirms.pop(index)
        run = self.in_flight.pop(pub, None)
        self.queue = deque(message for message in self.queue if message.pub != pub)
        if run is not None:
            self._happen(run, Happening(Event.RETURN, pub=pub, reason="NoQueue"))

    def crash_dispatcher(self) -> None:
        """Its memory is gone; the next leader publishes again what is Queued above the watermark."""
        self.in_flight.clear()
        self.unwritten.clear()
        self.confirms.clear()
        self.repair = self._new_repair()
        for run, row in enumerate(self.runs):
            if row.state == lifecycle.Q and (row.pub or 0) > self.confirmed_pub:
                self.in_flight[row.pub or 0] = run
                self._publish(run, row.pub or 0)

    def look_after(self) -> None:
        """The repair takes one look at the queue."""
        if self.variant.repair:
            _run(self.repair.step(1))

    # -- the broker -------------------------------------------------------------------------------------------------

    def purge(self) -> None:
        self.queue.clear()

    def lose(self, index: int) -> None:
        del self.queue[index]

    def double(self, index: int) -> None:
        self.queue.append(Message(self.queue[index].run, self.queue[index].pub))

    def blip(self, process: str) -> None:
        """The process's connection breaks: what it holds goes to the head of the queue; it works on."""
        mine = [item for item in self.unacked if item.process == process]
        self.unacked = [item for item in self.unacked if item.process != process]
        for item in reversed(mine):
            self.queue.appendleft(Message(item.message.run, item.message.pub, redelivered=True))

    def dead_letter(self, index: int, reason: str) -> None:
        """A copy, an old one perhaps, ends in the dead-letter queue and is consumed from there."""
        message = self.queue[index]
        del self.queue[index]
        held = self.runs[message.run].state == lifecycle.R
        self._happen(message.run, Happening(Event.DEAD_LETTER, pub=message.pub, reason=reason))
        if held and self.runs[message.run].state != lifecycle.R:
            raise Violation("a dead letter ended an attempt that was under way")

    # -- workers ----------------------------------------------------------------------------------------------------

    def deliver(self, process: str, *, answered: bool = True) -> None:
        """The next copy goes to a process, which starts its Run; `answered`: it hears what came of it."""
        if not self.queue:
            return
        message = self.queue.popleft()
        self.unacked.append(Delivery(message, process))
        self._start(self.processes[process], message, answered)

    def start_again(self, index: int) -> None:
        """A process whose start wasn't answered repeats it."""
        delivery = self.unacked[index]
        self._start(self.processes[delivery.process], delivery.message, answered=True)

    def say(self, process: str, run: int, op: str, end: End | None = None) -> None:
        """A process sends a report about an attempt that it believes to hold; it arrives whenever, or never."""
        self.sayings.append(Saying(op, process, run, self.processes[process].hands[run], end))
        if op in ("finish", "release"):
            del self.processes[process].hands[run]
            self._settle(process, run)

    def hear(self, index: int, *, keep: bool = False) -> None:
        """A report arrives; `keep`: once more later."""
        saying = self.sayings[index] if keep else self.sayings.pop(index)
        self._report(saying)

    def die(self, process: str, *, seen: bool = True, told: bool = False) -> None:
        """A process is killed, and another starts in its place; `seen`: its pod is seen to end; `told`: it had been
        told to stop."""
        self.blip(process)
        self.processes[process].hands.clear()
        if not seen:
            return
        pod = self.processes[process].pod
        for other in self.processes.values():
            if other.pod == pod:
                self.blip(other.name)
                other.hands.clear()
        lost = self._running_in(pod)
        for run in lost:
            self._happen(run, Happening(Event.POD_GONE, company=len(lost) > 1, told=told))
            self.rights.pop(run, None)

    # -- when nothing fails any more ----------------------------------------------------------------------------------

    def settle_down(self) -> None:
        """Faults end here; every Run must end, by workers that work."""
        self.open_gateway()
        self.sayings.clear()
        for process in self.processes.values():
            self.blip(process.name)
            process.hands.clear()
        for _ in range(12 * len(self.runs) + 40):
            if all(row.state >= lifecycle.S for row in self.runs):
                return
            self.pass_time(3700)
            while self.confirms:
                self.confirm(0)
            for _ in self.runs:
                self.claim()
            self.look_after()
            for index in range(len(self.unacked)):
                self.start_again(index)
            while self.queue:
                self.deliver("b/1")
                for run in list(self.processes["b/1"].hands):
                    self.say("b/1", run, "finish", End.OK)
                    self.hear(len(self.sayings) - 1)
        stuck = [row for row in self.runs if row.state < lifecycle.S]
        raise Violation(f"{len(stuck)} Runs never end: {stuck[0]}")

    # -- the machinery ------------------------------------------------------------------------------------------------

    def _happen(self, run: int, happening: Happening) -> Step:
        row = self.runs[run]
        step = lifecycle.step(row, happening, POLICY, self.now)
        if step.attempt_end is not None:
            self.attempts[run, step.attempt_end.attempt] = (step.attempt_end.holder, step.attempt_end.outcome)
        lifecycle.apply(row, step.changes)
        self._check(run)
        return step

    def _check(self, run: int) -> None:
        row = self.runs[run]
        if run in self.ends and self.ends[run] != (row.state, row.reason):
            raise Violation(f"an end was changed: {self.ends[run]} became {(row.state, row.reason)}")
        if row.state >= lifecycle.S:
            self.ends[run] = (row.state, row.reason)
        right = self.rights.get(run)
        if row.state == lifecycle.R and right is not None and (row.lease_at or 0) > right.until:
            raise Violation("a lease was renewed by somebody who doesn't hold the Run")

    def _write_queued(self, run: int, pub: int, *, blindly: bool = False) -> None:
        row = self.runs[run]
        if blindly:
            lifecycle.apply(row, {"state": lifecycle.Q, "pub": pub, "ready": 0})
            self._check(run)
        else:
            self._happen(run, Happening(Event.CLAIM, pub=pub))
        self.queued_at[run] = self.now

    def _publish(self, run: int, pub: int) -> None:
        self.queue.append(Message(run, pub))
        self.confirms.append(pub)

    def _start(self, process: Process, message: Message, answered: bool) -> None:
        row, run = self.runs[message.run], message.run
        before = (row.state, row.due_at, row.attempt)
        worker = process.pod if process.older else process.name
        pub = None if process.older else message.pub
        happening = Happening(Event.START, worker=worker, pub=pub, redelivered=message.redelivered, older=process.older)
        step = self._happen_start(run, happening)
        if step.status == 200:
            if row.attempt != before[2]:
                self._began(run, worker, process, before)
            elif run in self.rights and not process.older:
                self.rights[run].until = self.now + micros(POLICY.heartbeat_timeout)
            self.started_pub = max(self.started_pub, message.pub)
        if not answered:
            return
        if step.status == 200:
            process.hands[run] = row.attempt
        else:
            self._settle(process.name, run)

    def _running_in(self, pod: str) -> list[int]:
        return [
            run
            for run, row in enumerate(self.runs)
            if row.state == lifecycle.R and (row.holder or "").partition("/")[0] == pod
        ]

    def _company(self, run: int, pod: str) -> tuple[bool, bool]:
        """What `runs/company.py` finds out for a start."""
        if self.runs[run].alone == lifecycle.ALONE:
            return any(other != run for other in self._running_in(pod)), False
        return False, any(
            row.alone == lifecycle.ALONE
            and (row.holder or "").partition("/")[0] == pod
            and (row.state == lifecycle.R or (row.state == lifecycle.Q and self._asks(other, row)))
            for other, row in enumerate(self.runs)
        )

    def _asks(self, run: int, row: Run) -> bool:
        return row.holder_pub == row.pub and self.now - self.asked_at.get(run, 0) < company.ASKS_AGAIN

    def _happen_start(self, run: int, happening: Happening) -> Step:
        # the account is kept after the table has spoken: until then the right of the one before it counts
        row = self.runs[run]
        step = lifecycle.step(row, happening, POLICY, self.now)
        if step.attempt_end is not None:
            self.attempts[run, step.attempt_end.attempt] = (step.attempt_end.holder, step.attempt_end.outcome)
        lifecycle.apply(row, step.changes)
        return step

    def _began(self, run: int, worker: str, process: Process, before: tuple[int, int | None, int]) -> None:
        state, due_at, _ = before
        right = self.rights.get(run)
        if right is not None and right.until > self.now and right.process != worker:
            raise Violation("an attempt began while another was alive")
        if self.shut and state != lifecycle.R:  # an older worker whose container began anew goes on with its Run
            raise Violation("a Run started behind a shut gateway")
        if due_at is not None and due_at > self.now and state != lifecycle.R:
            raise Violation("a Run started before it was due")
        if self.runs[run].alone == lifecycle.ALONE and len(self._running_in(process.pod)) > 1 and not process.older:
            raise Violation("a Run that has to be alone began beside another")
        lease = POLICY.timeout + POLICY.cancel_grace if process.older else POLICY.heartbeat_timeout
        self.rights[run] = Right(worker, self.runs[run].attempt, self.now + micros(lease))
        self._check(run)

    def _report(self, saying: Saying) -> None:
        process, row = self.processes[saying.process], self.runs[saying.run]
        worker = process.pod if process.older else process.name
        right = self.rights.get(saying.run)
        mine = right is not None and right.process == worker and (process.older or right.attempt == saying.attempt)
        event = {"finish": Event.FINISH, "release": Event.RELEASE}.get(saying.op, Event.HEARTBEAT)
        happening = Happening(
            event,
            worker=worker,
            attempt=None if process.older else saying.attempt,
            older=process.older,
            poll=saying.op == "poll",
            end=saying.end,
            prior=self.attempts.get((saying.run, saying.attempt)),
        )
        if mine and right is not None and event is Event.HEARTBEAT:
            right.until = max(right.until if process.older else 0, self.now + micros(POLICY.heartbeat_timeout))
        held = row.state == lifecycle.R
        if held and event is Event.FINISH and saying.op == "finish" and process.older and saying.end is End.TECHNICAL:
            happening.end = End.BUSINESS  # the older contract knows no kinds
        self._happen(saying.run, happening)
        if held and row.state != lifecycle.R:
            if not mine:
                raise Violation(f"a {saying.op} of a fenced attempt was accepted")
            self.rights.pop(saying.run, None)

    def _settle(self, process: str, run: int) -> None:
        self.unacked = [item for item in self.unacked if (item.process, item.message.run) != (process, run)]

    # -- what the repair asks the store ------------------------------------------------------------------------------

    def _new_repair(self) -> Repair:
        return Repair(_RepairStore(self), self._again, self.in_flight.__contains__, lambda: from_micros(self.now))

    async def _again(self, runs: Sequence[QueuedRun]) -> None:
        for item in runs:
            row = self.runs[item.seq]
            if row.state == lifecycle.Q and row.pub == item.pub:
                pub, self.next_pub = self.next_pub, self.next_pub + 1
                lifecycle.apply(row, {"pub": pub})
                self.in_flight[pub] = item.seq
                self._publish(item.seq, pub)


class _RepairStore:
    """The rows, as `RepairStore` shows them."""

    def __init__(self, system: System) -> None:
        self._system = system

    def registrations(self) -> Mapping[int, Registration]:
        return {AUTOMATION: REGISTRATION}

    async def counts(self) -> dict[int, Counts]:
        return {AUTOMATION: Counts(queued=sum(row.state == lifecycle.Q for row in self._system.runs))}

    async def queued_runs(self, automation: int, limit: int, *, below: int | None = None) -> list[QueuedRun]:
        system = self._system
        queued = [
            QueuedRun(run, row.pub or 0, from_micros(system.queued_at[run]))
            for run, row in enumerate(system.runs)
            if row.state == lifecycle.Q and (below is None or (row.pub or 0) < below)
        ]
        return sorted(queued, key=lambda item: item.pub)[:limit]

    async def started_pub(self, epoch: int, automation: int) -> int:
        return self._system.started_pub

    async def republish(self, epoch: int, items: Sequence[QueuedRun]) -> list[Claimed]:
        raise NotImplementedError("the model publishes by itself")


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("nothing in the model waits")
