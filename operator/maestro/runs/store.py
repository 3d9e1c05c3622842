"""The run store: the truth about every Run. An asyncio face over one writer thread and a few readers."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar, cast
from uuid import UUID

from maestro.runs import accept, alarms, dispatch, keys, migrate, queries, registry, reporting, retention
from maestro.runs.changes import Changes, Ledger
from maestro.runs.database import Database, Sql, Transaction
from maestro.runs.errors import NotEnded, StoreUnavailable, UnknownRun
from maestro.runs.model import (
    Accepted,
    Claimed,
    Counts,
    Due,
    HourCount,
    KeyView,
    Leadership,
    LogLine,
    NewRun,
    Orphan,
    Page,
    Parameters,
    QueuedRun,
    Registration,
    RunFilter,
    RunView,
    Summary,
    Unpublished,
    copy_of,
    to_micros,
)
from maestro.runs.registry import Registry
from maestro.runs.reports import CancelAnswer, Report, ReportAnswer
from maestro.runs.restored import Restorations
from maestro.runs.unknown import UnknownRuns
from maestro.runs.writer import Writer, single
from maestro.runtime.clock import Clock, utcnow

OnWork = Callable[[frozenset[int]], None]
"""Called with the keys of the Automations for which something may be claimable; on the writer's thread."""

READERS = 4
CANCEL_BATCH = 500
_PROBE = Sql("UPDATE leader SET epoch = epoch WHERE id = 1")
_UNPAUSE = Sql("UPDATE automation SET failures = 0 WHERE pk = :pk AND failures > 0")
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class RunStore:
    """Every method may raise StoreUnavailable; the next call tries again.

    `epoch` arguments fence the controller's writes: StaleEpoch when a later leader has taken the store (None: no
    fence, for tools and tests). Automations are named by the key that `register` returns.
    """

    def __init__(self, database: Database, store_id: str, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._registry = Registry()
        self._here = reporting.Here(writer=secrets.token_hex(4), store_id=store_id)
        self._callbacks: list[OnWork] = []
        self._replay_callbacks: list[Callable[[], None]] = []
        self.restorations = Restorations(self, clock)
        self.unknown_runs = UnknownRuns(self)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="run-store-reader")
        self._writer = Writer(
            database,
            {
                "accept": self.accept_in,
                "reports": self._report_batch,
                "call": single(lambda transaction, action: action(transaction)),
            },
            counted=("accept", "reports"),
        )

    @classmethod
    def open(cls, url: str, *, clock: Clock = utcnow) -> RunStore:
        """Opens the store at an SQLAlchemy URL (`sqlite:///path`, `postgresql://…`), creating or migrating it under
        a lock. Blocks; call it before the loop runs or in a thread. Raises StoreUnavailable, ValueError (the URL)."""
        database = Database(url)
        migrate.upgrade(database)
        with database.write() as transaction:
            store_id = dispatch.prepare(transaction)
        store = cls(database, store_id, clock)
        with database.read() as transaction:
            store._registry.load(transaction)
        return store

    async def close(self) -> None:
        """Finishes what is being written and closes every connection."""
        await asyncio.to_thread(self._writer.close)
        self._readers.shutdown()
        self._database.close()

    async def ping(self) -> str | None:
        """None when the store can be written to, else what is wrong with it: for readiness and conditions."""
        try:
            await self.write(lambda transaction: transaction.run(_PROBE))
        except StoreUnavailable as error:
            return str(error)
        return self._writer.problem

    def on_work(self, callback: OnWork) -> None:
        """Registers a callback for: an accept, a retry come due, a slot, a key or a full window set free. It must not
        block."""
        self._callbacks.append(callback)

    def on_replay_end(self, callback: Callable[[], None]) -> None:
        """Registers a callback for the ends of replayed Runs that this process writes; on the writer's thread. It must
        not block."""
        self._replay_callbacks.append(callback)

    # -- Automations ---------------------------------------------------------------------------------------------

    async def register(self, registration: Registration) -> int:
        """Writes what is known of an Automation, by its uid; only a newer generation overwrites. Returns its key."""
        known = self._registry.by_uid(registration.uid)
        if known is not None and known.registration == registration:
            return known.pk

        def write(transaction: Transaction) -> int:
            pk = self._registry.write(transaction, registration)
            self._announce(transaction, {pk})
            return pk

        return await self.write(write)

    def registrations(self) -> Mapping[int, Registration]:
        """The live registrations by key, from memory."""
        return self._registry.live

    def live(self, automation_id: str) -> tuple[int, Registration] | None:
        """The live registration of `<namespace>.<name>`, from memory."""
        return self._registry.by_id(automation_id)

    def launches_apart(self, automation: int) -> bool:
        """Whether Runs were accepted here that are launched as Jobs although the Automation has a queue."""
        return automation in self._registry.apart

    def registration(self, automation: int) -> Registration | None:
        """The registration with this key, live or of an object that is gone, from memory."""
        known = self._registry.get(automation)
        return None if known is None else known.registration

    def key_of(self, uid: str) -> int | None:
        """The key of the object with this UID, live or gone, from memory."""
        known = self._registry.by_uid(uid)
        return None if known is None else known.pk

    def keys_named(self, automation_id: str) -> frozenset[int]:
        """The keys of every object that has or had this id (`<namespace>.<name>`), from memory."""
        return self._registry.keys_named(automation_id)

    async def refresh(self) -> None:
        """Reads registrations that other replicas wrote; called by whoever polls, and after an id isn't known."""
        await self.read(self._registry.load)

    async def deregister(self, uid: str, *, epoch: int | None = None) -> bool:
        """The object is gone: its waiting Runs end Canceled/AutomationDeleted, in batches; Running ones go on.
        The row stays until `reaped`. False: not known."""

        def mark(transaction: Transaction) -> int | None:
            dispatch.fence(transaction, epoch)
            return self._registry.delete(transaction, uid, self._now())

        pk = await self.write(mark)
        if pk is None:
            return False

        def cancel(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            solution = self._registry.known(transaction, pk).solution
            return alarms.cancel_waiting(self.changes(transaction), pk, solution, CANCEL_BATCH)

        while await self.write(cancel) == CANCEL_BATCH:
            pass
        return True

    async def orphans(self, known_uids: Collection[str]) -> list[Orphan]:
        """Registrations whose uid isn't among the known ones, deregistered or not, until they are reaped."""
        return await self.read(lambda transaction: registry.orphans(transaction, self._registry, known_uids))

    async def reaped(self, uid: str, *, epoch: int | None = None) -> None:
        """What belonged to the Automation outside is gone (queue, users); its registration may go with its Runs."""

        def write(transaction: Transaction) -> None:
            dispatch.fence(transaction, epoch)
            self._registry.reaped(transaction, uid, self._now())

        await self.write(write)

    async def unpause(self, automation: int, *, epoch: int | None = None) -> None:
        """Forgets the failures in a row, so that a paused Automation is dispatched again."""

        def write(transaction: Transaction) -> None:
            dispatch.fence(transaction, epoch)
            if transaction.run(_UNPAUSE, {"pk": automation}):
                self._announce(transaction, {automation})

        await self.write(write)

    # -- accept --------------------------------------------------------------------------------------------------

    async def accept(self, runs: Sequence[NewRun]) -> list[Accepted]:
        """Accepts a list, all or nothing, in one transaction; an answer for each, in order.

        Raises IdempotencyConflict, Backlog, NeverFits, UnknownAutomation, InvalidRun.
        """
        if not runs:
            return []
        return cast(list[Accepted], await self._writer.submit("accept", runs, len(runs)))

    async def retry(self, run_id: UUID, *, by: str | None = None, parameters: Parameters | None = None) -> Accepted:
        """A new linked Run (`copy_of`) of an ended one. Raises UnknownRun, NotEnded, Backlog, UnknownAutomation."""
        original = await self.get(run_id)
        if original is None:
            raise UnknownRun(run_id)
        if not original.state.ended:
            raise NotEnded(run_id)
        return (await self.accept([copy_of(original, by=by, parameters=parameters)]))[0]

    # -- the leader's dispatch -----------------------------------------------------------------------------------

    async def win_leadership(self) -> Leadership:
        """Takes the store: a new epoch, which ends every older one."""
        return await self.write(dispatch.win)

    async def claim(
        self, epoch: int, automation: int, limit: int, *, only_replays: bool = False, apart: bool = False
    ) -> list[Claimed]:
        """Writes up to `limit` Runs Queued, each with its publication number, in the order in which they must be
        published: priority, fairness, acceptance. Empty when nothing may go (suspended, paused, window full, slots
        taken, keys busy, Runs of the Solution still held). `only_replays`: the Solution's gateway is shut. `apart`:
        of an Automation with a queue only the Runs that are launched as Jobs (otherwise all but these)."""

        def write(transaction: Transaction) -> list[Claimed]:
            ledger = self._ledger(transaction)
            claimed = dispatch.claim(
                transaction,
                self._registry,
                ledger,
                epoch=epoch,
                automation=automation,
                limit=limit,
                only_replays=only_replays,
                apart=apart,
                now=self._now(),
            )
            ledger.flush()
            return claimed

        return await self.write(write, limit)

    async def queued_after(self, epoch: int, pub: int, limit: int) -> list[Claimed]:
        """Queued Runs whose publication number is greater than `pub`, in its order: what a new leader publishes
        again. Only reads: `epoch` is there so that the caller says who it is."""
        return await self.read(lambda transaction: dispatch.queued_after(transaction, self._registry, pub, limit))

    async def queued_runs(
        self, automation: int, limit: int, *, below: int | None = None, apart: bool = False
    ) -> list[QueuedRun]:
        """Queued Runs of an Automation, the oldest publications first; `below`: only smaller numbers; `apart`: those
        that are launched as Jobs although it has a queue (otherwise all but these)."""
        return await self.read(
            lambda transaction: dispatch.queued_runs(transaction, automation, limit, below, apart=apart)
        )

    async def started_pub(self, epoch: int, automation: int) -> int:
        """The highest publication number of this epoch that was started on the Automation's queue; 0: none yet."""
        return await self.read(lambda transaction: dispatch.started_pub(transaction, epoch, automation))

    async def republish(self, epoch: int, items: Sequence[QueuedRun]) -> list[Claimed]:
        """Gives each that is still Queued with its number a new one, in order; publish what is returned."""

        def write(transaction: Transaction) -> list[Claimed]:
            return dispatch.republish(transaction, self._registry, epoch, items, self._now())

        return await self.write(write, len(items))

    async def confirmed(self, epoch: int, pub: int) -> None:
        """Every publication up to `pub` was confirmed: the watermark. It never goes back."""
        await self.write(lambda transaction: dispatch.confirmed(transaction, epoch, pub))

    async def unpublished(self, epoch: int, items: Sequence[Unpublished]) -> int:
        """Publications that came back: Queued → Pending with a growing pause, where `pub` is still the Run's own
        (`JobInvalid`: Failed). Returns how many."""

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            return dispatch.unpublished(self.changes(transaction), items)

        return await self.write(write, len(items))

    async def due(self, now: datetime, limit: int = 500, *, epoch: int | None = None) -> Due:
        """Treats what the clock has brought: leases run out, timeouts, retries and `notBefore` come due, expiry."""

        def write(transaction: Transaction) -> Due:
            dispatch.fence(transaction, epoch)
            return alarms.due(self.changes(transaction, to_micros(now)), limit)

        return await self.write(write, limit)

    async def next_alarm(self) -> float | None:
        """Seconds until `due` has something to do (0: now); None: nothing is set."""
        at = await self.read(alarms.next_alarm)
        return None if at is None else max((at - self._now()) / 1e6, 0.0)

    async def pod_gone(
        self,
        pod_uid: str,
        *,
        automation: int | None = None,
        before: datetime | None = None,
        told: bool = False,
        epoch: int | None = None,
    ) -> int:
        """Attempts that this pod held (`before`: that began until then) are lost now. Returns how many.

        Several that are lost together cost nothing, and each of these Runs runs alone next. `told`: the pod had been
        told to stop; what it still held was given back, and costs nothing either."""

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            of = [automation] if automation is not None else [known.pk for known in self._registry.everything()]
            until = to_micros(before if before is not None else self._clock())
            return alarms.pod_gone(self.changes(transaction), pod_uid, of, until, told=told)

        return await self.write(write)

    async def hold(self, solution_id: str, *, limit: int = 500, epoch: int | None = None) -> int:
        """The gateway of `<namespace>.<solution>` is shut: Pending, Queued and Retrying Runs (but replays) become
        Held. Returns how many; less than `limit`: all of them are."""

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            return alarms.hold(self.changes(transaction), self._registry.of_solution(solution_id), limit)

        return await self.write(write, limit)

    async def open_gateway(self, solution_id: str, *, limit: int = 500, epoch: int | None = None) -> int:
        """The gateway is open: the oldest held Runs become Pending. Returns how many; 0: none is left."""
        solution = self._registry.solution(solution_id)
        if solution is None:
            return 0

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            return alarms.open_gateway(self.changes(transaction), solution, limit)

        return await self.write(write, limit)

    # -- workers and people --------------------------------------------------------------------------------------

    async def reports(self, items: Sequence[Report]) -> list[ReportAnswer]:
        """What workers report, an answer for each, in order. Reports about one Run take effect in their order."""
        if not items:
            return []
        return cast(list[ReportAnswer], await self._writer.submit("reports", items, len(items)))

    async def cancel(
        self, run_id: UUID, *, why: str = "Canceled", by: str | None = None, force: bool = False
    ) -> CancelAnswer:
        """Cancels a Run that isn't running; asks a running one to stop (`force`: ends it and fences the attempt).
        `why` is the reason that the Run ends with; `by` goes to the log only."""
        _log.info("cancel", extra={"run": str(run_id), "by": by, "force": force})
        return await self.write(
            lambda transaction: reporting.cancel(self.changes(transaction), run_id, why=why, force=force)
        )

    async def keys(self, automation: int, *, blocked: bool = True, limit: int = 100) -> list[KeyView]:
        """Ordering keys that are blocked (or all that have open Runs)."""
        return await self.read(lambda transaction: keys.listing(transaction, automation, blocked=blocked, limit=limit))

    async def release_key(self, automation: int, key: str) -> bool:
        """Unblocks an ordering key (`KeyView.key`). False: it wasn't blocked. Raises ValueError for what is no key."""
        name = (automation, UUID(hex=key))

        def write(transaction: Transaction) -> bool:
            released = keys.release(transaction, name, self._now())
            self._announce(transaction, {automation})
            return released

        return await self.write(write)

    # -- reading -------------------------------------------------------------------------------------------------

    async def get(self, run_id: UUID) -> RunView | None:
        """One Run with its attempts and progress."""
        return await self.read(lambda transaction: queries.get(transaction, run_id))

    async def list_runs(self, filter: RunFilter | None = None, limit: int = 50, cursor: str | None = None) -> Page:
        """Runs, newest first (without attempts). Raises ValueError for a cursor that isn't one of ours."""
        wanted = filter or RunFilter()
        return await self.read(lambda transaction: queries.list_runs(transaction, wanted, limit, cursor))

    async def logs(self, run_id: UUID, after: int = 0, limit: int = 500) -> list[LogLine]:
        """Log lines of a Run in order, those with a number greater than `after`."""
        return await self.read(lambda transaction: queries.logs(transaction, run_id, after, limit))

    async def last_params(self, automation: int, user: str) -> Parameters | None:
        """The parameters of the user's last Run of an Automation."""
        return await self.read(lambda transaction: queries.last_params(transaction, automation, user))

    async def counts(self) -> dict[int, Counts]:
        """Of every Automation that has Runs; cheap, however many there are. Dead letters of no Automation are counted
        under the key 0."""
        limits = {pk: item.policy.pause_after_failures for pk, item in self._registry.live.items()}
        return await self.read(lambda transaction: queries.counts(transaction, limits, self._now()))

    async def summary(self, automation: int) -> Summary:
        """Counts, last Run and recent failures of one Automation."""
        registration = self._registry.live.get(automation)
        limit = 0 if registration is None else registration.policy.pause_after_failures
        return await self.read(lambda transaction: queries.summary(transaction, automation, limit, self._now()))

    async def per_hour(self, hours: int = 24, automation: int | None = None) -> list[HourCount]:
        """Ended Runs by hour, oldest first, hours without any included."""
        return await self.read(lambda transaction: queries.per_hour(transaction, hours, automation, self._now()))

    # -- retention -----------------------------------------------------------------------------------------------

    async def prune(self, now: datetime, *, epoch: int | None = None) -> int:
        """Deletes a small batch of what `history` no longer keeps (the last failure always stays), and old
        idempotency keys. Returns how many Runs went; call it again while it isn't 0."""

        def write(transaction: Transaction) -> int:
            dispatch.fence(transaction, epoch)
            self._registry.load(transaction)
            self._cancel_left_over(transaction)
            ledger = self._ledger(transaction, to_micros(now))
            return retention.prune(transaction, self._registry, ledger, to_micros(now), self._here.writer)

        return await self.write(write)

    def _cancel_left_over(self, transaction: Transaction) -> None:
        """Runs that a replica accepted before it learned that their Automation was deleted."""
        for known in self._registry.everything():
            if known.deleted:
                alarms.cancel_waiting(self.changes(transaction), known.pk, known.solution, CANCEL_BATCH)

    # -- the machinery -------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return to_micros(self._clock())

    def _ledger(self, transaction: Transaction, now: int | None = None) -> Ledger:
        return Ledger(transaction, self._registry, self._here.writer, self._now() if now is None else now)

    def changes(self, transaction: Transaction, now: int | None = None) -> Changes:
        """A unit of work that tells of new work once it is durable."""
        moment = self._now() if now is None else now
        changes = Changes(transaction, self._registry, self._ledger(transaction, moment), moment)
        transaction.after_commit.append(lambda: self._tell(changes.work))
        transaction.after_commit.append(lambda: self._tell_replays(changes))
        return changes

    def admit(self, transaction: Transaction, runs: Sequence[NewRun]) -> list[tuple[int, UUID]]:
        """Accepts Runs of Maestro's own in a transaction of `write`, whatever `maxPending` says: number and id of each.
        Raises UnknownAutomation."""
        ledger = self._ledger(transaction)
        made, work = accept.admit(transaction, self._registry, ledger, runs, self._now())
        ledger.flush()
        self._announce(transaction, work)
        return made

    @property
    def clock(self) -> Clock:
        """The clock that the store goes by."""
        return self._clock

    def automations_of(self, solution_id: str) -> list[int]:
        """The keys of the Automations of `<namespace>.<solution>`, those that are gone included, from memory."""
        return self._registry.of_solution(solution_id)

    def _tell_replays(self, changes: Changes) -> None:
        if changes.replays_ended:
            for callback in self._replay_callbacks:
                callback()

    def _announce(self, transaction: Transaction, automations: Collection[int]) -> None:
        transaction.after_commit.append(lambda: self._tell(automations))

    def _tell(self, automations: Collection[int]) -> None:
        if automations:
            for callback in self._callbacks:
                callback(frozenset(automations))

    @property
    def registry(self) -> Registry:
        """What is known of Automations, for the areas that keep tables of their own."""
        return self._registry

    def accept_in(self, transaction: Transaction, lists: list[Any]) -> Sequence[Any]:
        """Accepts lists of Runs within a transaction; for each the answers, or the Refused that it gets."""
        ledger = self._ledger(transaction)
        answers, work = accept.accept(transaction, self._registry, ledger, lists, self._now())
        ledger.flush()
        self._announce(transaction, work)
        return answers

    def _accept_batch(self, transaction: Transaction, lists: list[Any]) -> Sequence[Any]:
        return self.accept_in(transaction, lists)

    def _report_batch(self, transaction: Transaction, lists: list[Any]) -> Sequence[Any]:
        everything = [report for one_list in lists for report in one_list]
        answers = iter(reporting.report(self.changes(transaction), self._here, everything))
        return [[next(answers) for _ in one_list] for one_list in lists]

    async def write(self, action: Callable[[Transaction], _T], weight: int = 1) -> _T:
        """Runs `action` in a transaction of the one writer, together with others (`weight`: about how many rows it
        writes); it may run again after a deadlock. For the areas that keep tables of their own."""
        return cast(_T, await self._writer.submit("call", action, weight))

    async def read(self, action: Callable[[Transaction], _T]) -> _T:
        """Runs `action` in a reading transaction, on a thread of its own."""

        def look() -> _T:
            with self._database.read() as transaction:
                return action(transaction)

        return await asyncio.get_running_loop().run_in_executor(self._readers, look)
