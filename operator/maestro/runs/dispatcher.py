"""The leader's dispatch: claims what may go, publishes it, and keeps the watermark of what was confirmed.

A claim writes a Run Queued with its publication number before anything is published. Confirms only move the watermark:
up to it every publication has arrived or was written back to Pending. A new leader publishes everything Queued above it
once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

from maestro.runs.errors import StaleEpoch, StoreUnavailable
from maestro.runs.messages import Message, MessageMaker, headers_of
from maestro.runs.model import Claimed, Counts, Due, Leadership, QueuedRun, Registration, Unpublished
from maestro.runs.observed import RunGauges
from maestro.runs.repair import GRACE_SECONDS, Repair, RepairStore
from maestro.runs.restored import Restorations, Restored
from maestro.runtime import metrics
from maestro.runtime.backoff import Backoff
from maestro.runtime.clock import Clock, utcnow
from maestro.runtime.tasks import run_until

log = logging.getLogger(__name__)

Pubs = Sequence[int]
T = TypeVar("T")

CONFIRMED, NO_QUEUE, UNCONFIRMED = "Confirmed", "NoQueue", "Unconfirmed"
JOB_REFUSED, JOB_INVALID = "JobRefused", "JobInvalid"


class DispatchStore(RepairStore, Protocol):
    """What of the run store the dispatcher uses; see `RunStore`."""

    def on_work(self, callback: Callable[[frozenset[int]], None]) -> None: ...
    def registrations(self) -> Mapping[int, Registration]: ...
    def launches_apart(self, automation: int) -> bool: ...
    async def refresh(self) -> None: ...
    async def win_leadership(self) -> Leadership: ...
    async def claim(
        self, epoch: int, automation: int, limit: int, *, only_replays: bool = False, apart: bool = False
    ) -> list[Claimed]: ...
    async def queued_after(self, epoch: int, pub: int, limit: int) -> list[Claimed]: ...
    async def confirmed(self, epoch: int, pub: int) -> None: ...
    async def unpublished(self, epoch: int, items: Sequence[Unpublished]) -> int: ...
    async def due(self, now: datetime, limit: int = 500, *, epoch: int | None = None) -> Due: ...
    async def next_alarm(self) -> float | None: ...
    async def hold(self, solution_id: str, *, limit: int = 500, epoch: int | None = None) -> int: ...
    async def open_gateway(self, solution_id: str, *, limit: int = 500, epoch: int | None = None) -> int: ...
    async def counts(self) -> dict[int, Counts]: ...

    @property
    def restorations(self) -> Restorations: ...


class Transport(Protocol):
    """Carries messages; settles each exactly once through the listeners, which may be called in any thread."""

    @property
    def room(self) -> int:
        """How many messages may be handed over now; 0 while there is no connection."""

    def listen(
        self,
        *,
        on_confirm: Callable[[Pubs], None],
        on_return: Callable[[Pubs], None],
        on_lost: Callable[[Pubs], None],
        on_state: Callable[[object], None],
    ) -> None: ...

    def publish(self, batch: Sequence[Message]) -> None: ...


class Flow(NamedTuple):
    """Runs of an Automation that are claimed together: those that go its way, or those that are launched as Jobs
    although it has a queue. Neither waits behind the other."""

    automation: int
    apart: bool


class JobRefused(Exception):  # noqa: N818 - an answer, as the state table names it
    """Kubernetes didn't take a Run's Job. `final`: it never will (an invalid Job), else it is tried again."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class JobLauncher(Protocol):
    """Makes the Kubernetes Job of a Run (`launch: Job`)."""

    async def launch(self, run: Claimed, registration: Registration) -> None:
        """Make the Job; one of that name that is there already is the same. Raises JobRefused."""


Gateway = Callable[[str], bool]
"""Says whether the gateway of a Solution (by its id) is shut."""


def always_open(_solution_id: str) -> bool:
    """The gateway where nothing can shut it."""
    return False


class Dispatcher:
    """One leadership's dispatch. `run` it once.

    Parameters
    ----------
    gateway
        Asked for each Solution before its Runs are claimed: shut means that only replays go.
    batch
        The most Runs of one claim: the larger, the cheaper each; Automations take turns by the batch.
    poll_seconds
        How often work is looked for that nobody announced (accepted by another replica), and gateways are looked at.
    repair_seconds, grace_seconds
        How often queues are looked at for what they lost; how long a Run must have been Queued first.
    launches
        How many Jobs are being made at a time.
    observe
        Called with a result (`Confirmed`, `NoQueue`, `Unconfirmed`) and the number of publications it is about.
    """

    def __init__(
        self,
        store: DispatchStore,
        transport: Transport,
        launcher: JobLauncher | None = None,
        *,
        clock: Clock = utcnow,
        gateway: Gateway = always_open,
        batch: int = 1000,
        poll_seconds: float = 1.0,
        watermark_seconds: float = 0.5,
        repair_seconds: float = 15.0,
        grace_seconds: float = GRACE_SECONDS,
        launches: int = 16,
        backoff: Backoff | None = None,
        observe: Callable[[str, int], None] | None = None,
    ) -> None:
        self._store = store
        self._transport = transport
        self._launcher = launcher
        self._clock = clock
        self._gateway = gateway
        self._batch = batch
        self._poll_seconds = poll_seconds
        self._watermark_seconds = watermark_seconds
        self._repair_seconds = repair_seconds
        self._launches = launches
        self._backoff = backoff or Backoff(initial=0.2, maximum=15.0)
        self._observe = observe

        self._loop: asyncio.AbstractEventLoop | None = None
        self._leadership: Leadership | None = None
        self._headers: Mapping[str, int | str] = {}
        self._makers: dict[int, MessageMaker] = {}
        self._ready: dict[Flow, None] = {}
        # Since when an Automation has had Runs that could go: until a claim finds no more of them.
        self._behind: dict[Flow, datetime] = {}
        self._gauges = RunGauges()
        self._go = asyncio.Event()
        self._alarm = asyncio.Event()
        self._losses = asyncio.Event()
        self._came_back: list[tuple[int, str]] = []
        self._back = asyncio.Event()
        # Run by publication number, in ascending order: claims are one after the other, each with higher numbers.
        self._in_flight: dict[int, int] = {}
        self._again: deque[Claimed] = deque()
        self._claiming = asyncio.Lock()
        self._last_pub = 0
        self._watermark = self._saved_watermark = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._shut_seen: set[str] = set()
        self._moved = asyncio.Event()
        self._renewing = False
        self._repair = Repair(store, self._republish, self._in_flight.__contains__, clock, grace_seconds=grace_seconds)

    # --- seen from outside -------------------------------------------------------------------------------------------

    @property
    def leadership(self) -> Leadership | None:
        """What was won; None before `run` has won it."""
        return self._leadership

    @property
    def in_flight(self) -> int:
        """Publications that aren't settled, Jobs being made included."""
        return len(self._in_flight)

    @property
    def last_pub(self) -> int:
        """The highest publication number given out so far."""
        return self._last_pub

    def lost(self, queue: str) -> None:
        """The queue was declared anew, or emptied: everything that was in it is published again, at once."""
        for key, registration in self._store.registrations().items():
            if registration.queue == queue:
                self._repair.lost(key, self._last_pub + 1)
                self._losses.set()

    @property
    def lag(self) -> float:
        """Seconds that some Automation has had Runs that could go, the longest of all; 0: none has."""
        since = min(self._behind.values(), default=None)
        return 0.0 if since is None else max((self._clock() - since).total_seconds(), 0.0)

    def shut_seen(self, solution_id: str) -> bool:
        """True once nothing of the Solution but replays can be dispatched: its gate was seen and its Runs are held."""
        return solution_id in self._shut_seen

    def gateway_moved(self, solution_id: str) -> None:
        """Look at the gateways now: this one was shut or opened. For the loop's own thread."""
        self._shut_seen.discard(solution_id)
        self._moved.set()

    def wake(self, automations: Iterable[int] = ()) -> None:
        """Look for work of these Automations now. For the loop's own thread."""
        self._wake(Flow(key, apart) for key in automations for apart in (False, True) if self._flows(key, apart))

    def _flows(self, key: int, apart: bool) -> bool:
        return not apart or self._store.launches_apart(key)

    def _wake(self, flows: Iterable[Flow]) -> None:
        now = self._clock()
        for flow in flows:
            self._ready[flow] = None
            self._behind.setdefault(flow, now)
        self._go.set()
        self._alarm.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Win the leadership in the store and dispatch until `stop` is set.

        Raises
        ------
        StaleEpoch
            Another leader has taken the store; nothing more is published from here.
        """
        self._loop = asyncio.get_running_loop()
        self._listen()
        try:
            await run_until(stop, self._lead(stop))
        finally:
            for job in self._jobs:
                job.cancel()
            await asyncio.gather(*self._jobs, return_exceptions=True)
            self._loop = None
        await self._save_watermark_at_the_end()

    async def _lead(self, stop: asyncio.Event) -> None:
        await self._insist(self._begin)
        steps = (
            self._claim_step,
            self._due_step,
            self._back_step,
            self._watermark_step,
            self._sweep_step,
            self._repair_step,
        )
        await run_until(stop, *map(self._forever, steps))

    # --- beginning ---------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Win, and note what the leader before may not have published: everything Queued above its watermark."""
        won = await self._store.win_leadership()
        self._take_over(won, await self._unconfirmed(won))
        log.info("dispatch begins: epoch %d, %d Runs in flight are published again", won.epoch, self.in_flight)

    async def _begin_anew(self, restored: Restored) -> None:
        """The store was restored: under its new id everything Queued is published again, from the oldest on."""
        shown = restored.publication
        log.error(
            "the run store was restored from a backup that is older than the broker's messages (%s: store %s, "
            "epoch %s, publication %s, Run %s). What was accepted since isn't in it: GET /api/v1/unknown-runs lists "
            "what workers speak of",
            *(restored.how, shown.store, shown.epoch, shown.pub, shown.run),
        )
        metrics.STORE_RESTORED.inc()
        async with self._claiming:
            self._renewing = True
            try:
                won = await self._store.restorations.begin_anew(self._epoch)

                async def take_over() -> None:
                    in_flight = await self._unconfirmed(won)
                    self._in_flight.clear()
                    self._again.clear()
                    self._take_over(won, in_flight)

                await self._insist(take_over)
            finally:
                self._renewing = False
        log.warning("dispatch begins anew: store %s, %d Queued Runs are published again", won.store_id, self.in_flight)

    async def _unconfirmed(self, won: Leadership) -> list[Claimed]:
        in_flight: list[Claimed] = []
        after = won.confirmed_pub
        while found := await self._store.queued_after(won.epoch, after, self._batch):
            in_flight += found
            after = found[-1].pub
        return in_flight

    def _take_over(self, won: Leadership, in_flight: list[Claimed]) -> None:
        self._leadership = won
        self._headers = headers_of(won)
        self._makers.clear()
        self._last_pub = won.next_pub - 1
        self._watermark = self._saved_watermark = won.confirmed_pub
        self._note(in_flight)
        self._again.extend(in_flight)
        self.wake(self._store.registrations())

    def _listen(self) -> None:
        self._store.on_work(self._threadsafe(self.wake))
        self._transport.listen(
            on_confirm=self._threadsafe(self._hear_confirmed),
            on_return=self._threadsafe(lambda pubs: self._hear_back(pubs, NO_QUEUE)),
            on_lost=self._threadsafe(lambda pubs: self._hear_back(pubs, UNCONFIRMED)),
            on_state=self._threadsafe(lambda _state: self._go.set()),
        )

    def _threadsafe(self, callback: Callable[[T], None]) -> Callable[[T], None]:
        """Wrap a callback so that any thread may call it; after the end of `run` it does nothing."""

        def call(what: T) -> None:
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(callback, what)

        return call

    @property
    def _epoch(self) -> int:
        assert self._leadership is not None, "run() wins the leadership first"
        return self._leadership.epoch

    # --- steps: each is repeated for ever, with a pause where the store is away -----------------------------------

    async def _forever(self, step: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            try:
                await step()
                failures = 0
            except StoreUnavailable as error:
                failures += 1
                log.warning("%s: the run store is away: %s", step.__name__.strip("_"), error)
                await asyncio.sleep(self._backoff.delay(failures))

    async def _insist(self, once: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            try:
                return await once()
            except StoreUnavailable as error:
                failures += 1
                log.warning("%s: the run store is away: %s", once.__name__.strip("_"), error)
                await asyncio.sleep(self._backoff.delay(failures))

    async def _claim_step(self) -> None:
        if (ready := await self._next_ready()) is None:
            self._hand_over([self._again.popleft() for _ in range(min(self._batch, len(self._again)))])
            return
        flow, registration = ready
        jobs = flow.apart or registration.launch == "Job"
        limit = self._batch if jobs else min(self._batch, self._transport.room)
        try:
            async with self._claiming:
                # Asked in turn with the holding: what was asked before might be claimed after everything was held.
                shut = self._gateway(registration.solution_id)
                claimed = await self._store.claim(
                    self._epoch, flow.automation, limit, only_replays=shut, apart=flow.apart
                )
                self._send(claimed)
        except StoreUnavailable:
            self._ready[flow] = None
            raise
        if len(claimed) == limit:
            self._ready[flow] = None  # behind the others: they take turns by the batch
        elif flow in self._ready:
            self._behind[flow] = self._clock()  # more came meanwhile
        else:
            self._behind.pop(flow, None)

    async def _due_step(self) -> None:
        self._alarm.clear()
        done = await self._store.due(self._clock(), self._batch, epoch=self._epoch)
        if done.automations:
            self.wake(done.automations)
        if done.handled >= self._batch:
            return
        until = await self._store.next_alarm()
        await _event_or(self._alarm, self._poll_seconds if until is None else min(until, self._poll_seconds))

    async def _back_step(self) -> None:
        """Write back what didn't reach a queue; only then does it stop holding the watermark down."""
        await self._back.wait()
        self._back.clear()
        taken, self._came_back = self._came_back, []
        items = [
            Unpublished(seq=seq, pub=pub, reason=reason)
            for pub, reason in taken
            if (seq := self._in_flight.get(pub)) is not None
        ]
        try:
            await self._store.unpublished(self._epoch, items)
        except StoreUnavailable:
            self._came_back = taken + self._came_back
            self._back.set()
            raise
        for item in items:
            self._in_flight.pop(item.pub, None)

    async def _watermark_step(self) -> None:
        await asyncio.sleep(self._watermark_seconds)
        await self._save_watermark()

    async def _sweep_step(self) -> None:
        """Look for what nobody announced: Runs that another replica accepted, gateways that moved."""
        await _event_or(self._moved, self._poll_seconds)
        self._moved.clear()
        metrics.DISPATCH_LAG_SECONDS.set(self.lag)
        metrics.DISPATCH_UNCONFIRMED.set(self.in_flight)
        await self._store.refresh()
        counts = await self._store.counts()
        self._gauges.show(counts, self._store.registrations())
        metrics.UNKNOWN_RUNS.set(sum(count.unknown for count in counts.values()))
        await self._follow_gateways(counts)
        if (restored := await self._store.restorations.noticed()) is not None:
            await self._begin_anew(restored)
        registrations = self._store.registrations()
        for key, count in counts.items():
            if self._may_move(key, count):
                # Whether some are launched apart, another replica may know: it is found out by trying.
                apart = registrations[key].launch == "Queue" and self._launcher is not None
                self._wake([Flow(key, False)] + [Flow(key, True)] * apart)

    def _may_move(self, key: int, count: Counts) -> bool:
        registration = self._store.registrations().get(key)
        if registration is None:
            return False
        # A claim also takes back what is Queued of an Automation that was suspended or paused.
        return count.queued > 0 if registration.suspended or count.paused else count.pending > 0

    async def _repair_step(self) -> None:
        await _event_or(self._losses, self._repair_seconds)
        self._losses.clear()
        if self._transport.room > 0:
            await self._repair.step(self._epoch)

    # --- claiming and sending ----------------------------------------------------------------------------------------

    async def _next_ready(self) -> tuple[Flow, Registration] | None:
        """Wait for an Automation that may have work and whose way out has room; take it out of the ready ones. None:
        first comes what is to be published again."""
        while True:
            self._go.clear()
            if self._again and self._transport.room > 0:
                return None
            registrations = self._store.registrations()
            for flow in list(self._ready):
                registration = registrations.get(flow.automation)
                if registration is None:
                    del self._ready[flow]
                    self._behind.pop(flow, None)
                elif self._has_room(flow, registration):
                    del self._ready[flow]
                    return flow, registration
            await self._go.wait()

    def _has_room(self, flow: Flow, registration: Registration) -> bool:
        if flow.apart or registration.launch == "Job":
            return self._launcher is not None and len(self._jobs) < self._launches
        return self._transport.room > 0

    async def _wait_for_room(self) -> None:
        while self._transport.room <= 0:
            self._go.clear()
            await self._go.wait()

    async def _republish(self, runs: Sequence[QueuedRun]) -> None:
        """Give Queued Runs new publication numbers and publish them, in turn with the claims and as room allows."""
        for start in range(0, len(runs), self._batch):
            await self._wait_for_room()
            async with self._claiming:
                self._send(await self._store.republish(self._epoch, runs[start : start + self._batch]))

    def _send(self, claimed: Sequence[Claimed]) -> None:
        if claimed:
            self._last_pub = claimed[-1].pub
            self._note(claimed)
            self._hand_over(claimed)

    def _note(self, claimed: Sequence[Claimed]) -> None:
        """From here each is in flight until it is confirmed or written back."""
        for run in claimed:
            self._in_flight[run.pub] = run.seq

    def _hand_over(self, claimed: Sequence[Claimed]) -> None:
        registrations = self._store.registrations()
        messages: list[Message] = []
        for run in claimed:
            registration = registrations.get(run.automation)
            if registration is None:
                self._hear_back([run.pub], UNCONFIRMED)  # gone meanwhile; its Runs are being canceled
            elif run.launch == "Job":
                self._launch(run, registration)
            else:
                messages.append(self._maker(run.automation, registration)(run))
        if messages:
            self._transport.publish(messages)

    def _maker(self, key: int, registration: Registration) -> MessageMaker:
        maker = self._makers.get(key)
        if maker is None or maker.registration is not registration:
            maker = self._makers[key] = MessageMaker(registration, self._headers)
        return maker

    def _launch(self, run: Claimed, registration: Registration) -> None:
        task = asyncio.create_task(self._make_job(run, registration), name=f"job of {run.id}")
        self._jobs.add(task)
        task.add_done_callback(self._job_made)

    async def _make_job(self, run: Claimed, registration: Registration) -> None:
        try:
            if self._launcher is None:
                raise JobRefused("nothing here makes Jobs", final=False)
            await self._launcher.launch(run, registration)
        except JobRefused as refusal:
            log.warning("Kubernetes refused the Job of Run %s: %s", run.id, refusal)
            self._hear_back([run.pub], JOB_INVALID if refusal.final else JOB_REFUSED)
        except Exception:
            # Whatever it was, the Run must not stay Queued with nothing on its way.
            log.exception("making the Job of Run %s failed", run.id)
            self._hear_back([run.pub], JOB_REFUSED)
        else:
            self._hear_confirmed([run.pub])

    def _job_made(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        self._go.set()

    # --- answers -----------------------------------------------------------------------------------------------------

    def _hear_confirmed(self, pubs: Pubs) -> None:
        for pub in pubs:
            self._in_flight.pop(pub, None)
        self._go.set()
        if self._observe is not None:
            self._observe(CONFIRMED, len(pubs))

    def _hear_back(self, pubs: Pubs, reason: str) -> None:
        self._came_back.extend((pub, reason) for pub in pubs)
        self._back.set()
        self._go.set()
        if self._observe is not None:
            self._observe(reason, len(pubs))

    async def _save_watermark(self) -> None:
        """Write how far everything is settled: below the oldest that is in flight."""
        if self._leadership is None or self._renewing:
            return
        self._watermark = max(self._watermark, next(iter(self._in_flight), self._last_pub + 1) - 1)
        if self._watermark > self._saved_watermark:
            reached = self._watermark
            await self._store.confirmed(self._epoch, reached)
            self._saved_watermark = reached

    async def _save_watermark_at_the_end(self) -> None:
        try:
            await self._save_watermark()
        except (StoreUnavailable, StaleEpoch) as error:
            log.warning("the watermark isn't saved, the next leader publishes some Runs again: %s", error)

    # --- gateways ----------------------------------------------------------------------------------------------------

    async def _follow_gateways(self, counts: Mapping[int, Counts]) -> None:
        registrations = self._store.registrations()
        solutions = {registration.solution_id for registration in registrations.values()}
        with_held = {
            registrations[key].solution_id for key, count in counts.items() if count.held and key in registrations
        }
        for solution in solutions:
            if self._gateway(solution):
                await self._shut(solution)
            else:
                self._shut_seen.discard(solution)
                if solution in with_held:
                    await self._open(solution)

    async def _shut(self, solution_id: str) -> None:
        # In turn with the claims: what was claimed before is taken back here, what comes after knows of the gate.
        async with self._claiming:
            while await self._store.hold(solution_id, limit=self._batch, epoch=self._epoch) >= self._batch:
                continue
        self._shut_seen.add(solution_id)

    async def _open(self, solution_id: str) -> None:
        while await self._store.open_gateway(solution_id, limit=self._batch, epoch=self._epoch):
            if self._gateway(solution_id):
                return


async def _event_or(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    if seconds <= 0:
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
