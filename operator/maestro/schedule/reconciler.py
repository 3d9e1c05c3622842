"""Brings about what Schedules ask for: observe → plan → record and start → one status."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Protocol

from pydantic import ValidationError

from maestro.kube.cache import ObjectCache, without_bookkeeping
from maestro.kube.client import KubeClient
from maestro.kube.errors import Conflict, NotFound, Unavailable
from maestro.kube.kinds import JOB, SCHEDULE, ObjectKey
from maestro.resources import Schedule, names
from maestro.runs.errors import StoreUnavailable
from maestro.runs.model import Registration
from maestro.runs.parameters import InvalidParameters, InvalidSchema, ParameterValidator
from maestro.runs.store import RunStore
from maestro.runs.ticks import Account, Entry, Outcome, TickLedger, Written
from maestro.runtime import metrics
from maestro.runtime.backoff import jittered
from maestro.runtime.clock import Clock, utcnow
from maestro.schedule import armed, plan
from maestro.schedule.armed import Problem
from maestro.schedule.calendarwatch import FRESH_SECONDS, Calendars
from maestro.schedule.cron import Tick, Timetable
from maestro.schedule.jobs import JobIndex, surplus
from maestro.schedule.loop import TickLoop
from maestro.schedule.starts import mark_of, run_of
from maestro.schedule.status import Facts, Note, build_status

log = logging.getLogger(__name__)

Object = dict[str, Any]

REPLACED = "Replaced"
"""Reason of a Run that gave way to a later tick."""
_SOON = 0.5
_CROWD, _PATIENCE = 16, 10
"""Where more Runs than this are on their way out, the status of a Schedule waits, so many times at most."""
_OUTAGE_SECONDS = 3.0


class Blocks(Protocol):
    """Whether the gateway of a Solution is shut."""

    def __call__(self, solution_id: str, /) -> bool: ...


@dataclass(slots=True)
class _Memory:
    """What is remembered of one Schedule, by its UID. All of it may be lost: it only saves reading."""

    generation: int = -1
    calendar: object = None
    timetable: Timetable | Problem | None = None
    account: Account | None = None
    rushed: bool = False
    waits: int = 0


@dataclass(frozen=True, slots=True)
class _Target:
    """The Automation that a Schedule starts Runs of."""

    key: int
    registration: Registration
    validator: ParameterValidator


@dataclass(slots=True)
class _Validators:
    """Compiled parameter schemas, by the Automation's key."""

    known: dict[int, tuple[Registration, ParameterValidator]] = field(default_factory=dict)

    def of(self, key: int, registration: Registration) -> ParameterValidator:
        found = self.known.get(key)
        if found is None or found[0] is not registration:
            made = ParameterValidator(registration.parameter_schema, registration.default_parameters)
            found = self.known[key] = registration, made
        return found[1]


class ScheduleReconciler:
    """One look at a Schedule: ticks that came, what waited, its Jobs and its status.

    Parameters
    ----------
    schedules, automations
        Caches of the objects; own status writes are entered in the first.
    jobs
        The Jobs of ticks, by their Schedule.
    blocked
        The gateway.
    epoch
        Of this leadership; every write to the store carries it.
    busy
        How many Runs are on their way out: the more, the later what only informs is written.
    """

    def __init__(
        self,
        kube: KubeClient,
        schedules: ObjectCache,
        automations: ObjectCache,
        store: RunStore,
        ledger: TickLedger,
        loop: TickLoop,
        *,
        jobs: JobIndex,
        calendars: Calendars,
        blocked: Blocks,
        epoch: Callable[[], int | None],
        busy: Callable[[], int] = lambda: 0,
        clock: Clock = utcnow,
    ) -> None:
        self._kube = kube
        self._schedules = schedules
        self._automations = automations
        self._store = store
        self._ledger = ledger
        self._loop = loop
        self._jobs = jobs
        self._calendars = calendars
        self._blocked = blocked
        self._epoch = epoch
        self._busy = busy
        self._clock = clock
        self._memory: dict[str, _Memory] = {}
        self._validators = _Validators()

    def forget(self, uid: str) -> None:
        """The Schedule is gone."""
        self._memory.pop(uid, None)

    def reread(self, uid: str) -> None:
        """The ledger has changed by another hand: look into it the next time."""
        if (memory := self._memory.get(uid)) is not None:
            memory.account = None

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at a Schedule and do what is to be done; the seconds until it is looked at again.

        Raises
        ------
        KubeError
            The API server refuses what it shouldn't.
        """
        obj = self._schedules.get(key.namespace, key.name)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            self._loop.disarm(key)
            return None
        try:
            schedule = Schedule.model_validate(obj)
        except ValidationError as error:
            self._loop.disarm(key)
            log.warning("Schedule %s can't be read by this version: %s", key, error)
            return None
        memory = self._memory.setdefault(schedule.metadata.uid, _Memory())
        try:
            again = await self._reconcile(key, schedule, obj, memory)
            return _look_again(schedule) if again is None else again
        except (StoreUnavailable, Unavailable) as error:
            # No growing pause: what is due is late enough as it is when the outage is over.
            memory.account = None
            log.warning("schedule: %s waits: %s", key, error)
            return jittered(_OUTAGE_SECONDS, 0.3)
        except Exception:
            memory.account = None  # whether something was written isn't known
            raise

    async def _reconcile(self, key: ObjectKey, schedule: Schedule, obj: Object, memory: _Memory) -> float | None:
        timetable = await self._timetable(schedule, memory)
        if isinstance(timetable, Problem):
            self._loop.disarm(key)
            account = memory.account = memory.account or await self._ledger.account(schedule.metadata.uid)
            return await self._tell(schedule, obj, Facts(account, timetable))
        target, problem = self._target(schedule)
        if problem is not None and problem.reason == "NotRegistered":
            return _SOON  # the Automation was just made; its ticks can wait for a moment
        now = self._clock()
        account = await self._account(schedule, obj, timetable, memory, now)
        stalled = problem is not None and problem.reason != plan.AUTOMATION_NOT_FOUND
        blocked = target is not None and self._blocked(target.registration.solution_id)
        again = False
        if not stalled:
            account, again = await self._pass(schedule, obj, timetable, target, blocked, account, now)
        memory.account = account
        following = self._arm(key, schedule, timetable, account, stalled=stalled, again=again)
        if again:
            return 0.0
        if self._hurries(memory):
            return random.uniform(1.0, 1.5 + self._busy() / 100)  # noqa: S311 - spreads load, keeps no secret
        await self._tidy(key, schedule)
        suspended = target is not None and target.registration.suspended
        facts = Facts(account, problem, following, blocked, suspended)
        return await self._tell(schedule, obj, facts)

    def _hurries(self, memory: _Memory) -> bool:
        """Whether ticks were recorded just now, and what they start (or what others start) is still on its way out: it
        goes before what is told of it, but not for ever."""
        if memory.rushed:
            memory.rushed, memory.waits = False, _PATIENCE
            return True
        memory.waits = memory.waits - 1 if self._busy() > _CROWD else 0
        return memory.waits > 0

    # -- observe

    async def _timetable(self, schedule: Schedule, memory: _Memory) -> Timetable | Problem:
        holidays, problem = await self._calendars.of(schedule)
        if problem is not None:
            return problem
        if memory.timetable is None or (memory.generation, memory.calendar) != (schedule.metadata.generation, holidays):
            memory.generation, memory.calendar = schedule.metadata.generation, holidays
            memory.timetable = armed.read(schedule.spec, holidays)
        return memory.timetable

    def _target(self, schedule: Schedule) -> tuple[_Target | None, Problem | None]:
        namespace, name = schedule.metadata.namespace, schedule.spec.automation
        obj = self._automations.get(namespace, name)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            text = f"there is no Automation {name} in namespace {namespace}; the Schedule arms itself when it appears"
            return None, Problem(plan.AUTOMATION_NOT_FOUND, text, waits=True)
        live = self._store.live(names.automation_id(namespace, name))
        if live is None or live[1].uid != obj["metadata"]["uid"]:
            return None, Problem("NotRegistered", f"Automation {name} is being taken in", waits=True)
        try:
            validator = self._validators.of(*live)
        except InvalidSchema as error:
            text = f"the parameterSchema of Automation {name} can't be used: {error}"
            return None, Problem("InvalidParameterSchema", text, waits=True)
        target = _Target(*live, validator)
        return target, armed.mismatch(schedule.spec, obj, live[1])

    async def _account(
        self, schedule: Schedule, obj: Object, timetable: Timetable, memory: _Memory, now: datetime
    ) -> Account:
        """The Schedule's account; opened where there is none, begun afresh where the timetable is another one."""
        uid, fingerprint = schedule.metadata.uid, plan.timetable_hash(schedule.spec)
        account = memory.account or await self._ledger.account(uid)
        if account is not None and account.timetable == fingerprint:
            since = schedule.status.last_schedule_time
            if since is None or since <= account.cursor:
                return account
            # A store that was restored: what was started since isn't started again.
            return (await self._record(schedule, since, ())).account
        if account is None or not account.timetable:
            made = schedule.metadata.creation_timestamp or now
            return (await self._record(schedule, max(made, schedule.status.last_schedule_time or made), ())).account
        dropped = [Entry(tick.at, Outcome.SKIPPED, tick.reason) for tick in account.waiting if not tick.mark]
        written = await self._record(schedule, now, dropped)
        text = "the rules, the time zone or the excluded days were changed: ticks are counted from now on"
        await self._event(obj, Note("Normal", "Rescheduled", text))
        return written.account

    # -- plan and act

    async def _pass(
        self,
        schedule: Schedule,
        obj: Object,
        timetable: Timetable,
        target: _Target | None,
        blocked: bool,
        account: Account,
        now: datetime,
    ) -> tuple[Account, bool]:
        """Decide about everything whose time has come; whether more of it is left."""
        spec, uid = schedule.spec, schedule.metadata.uid
        due, more = self._due(schedule, timetable, account.cursor, now)
        seen = plan.Observed(
            account,
            plan.Target(target.registration.suspended) if target is not None else None,
            blocked,
            due,
            more,
        )
        made = plan.plan(spec, uid, seen, now)
        entries = [self._entry(schedule, timetable, target, verdict) for verdict in made.verdicts]
        asked = self._run_now(schedule, timetable, target, account, now)
        if asked is not None:
            entries.append(asked)
        if entries or (made.cursor is not None and made.cursor > account.cursor):
            value = self._annotation(schedule) if asked is not None else None
            written = await self._record(schedule, made.cursor or account.cursor, entries, run_now=value)
            self._memory[uid].rushed = True
            await self._tell_missed(obj, written)
            account = written.account
        for run in made.cancel:
            await self._store.cancel(run, why=REPLACED, by=f"Schedule {schedule.id}")
        return account, more

    def _due(
        self, schedule: Schedule, timetable: Timetable, cursor: datetime, now: datetime
    ) -> tuple[list[Tick], bool]:
        limit = plan.CHUNK + plan.keep(schedule.spec)
        due: list[Tick] = []
        for tick in islice(timetable.ticks_after(cursor), limit + 1):
            if plan.due_at(schedule.spec, schedule.metadata.uid, tick.at) > now:
                return due, False
            due.append(tick)
        return due[:limit], len(due) > limit

    def _entry(self, schedule: Schedule, timetable: Timetable, target: _Target | None, verdict: plan.Verdict) -> Entry:
        due = plan.due_at(schedule.spec, schedule.metadata.uid, verdict.at)
        if verdict.outcome is not Outcome.STARTED:
            return Entry(verdict.at, verdict.outcome, verdict.reason, due=due, mark=verdict.mark)
        assert target is not None, "nothing starts without an Automation"
        try:
            run = run_of(
                schedule,
                target.key,
                target.registration,
                target.validator,
                timetable,
                verdict.at,
                verdict.mark,
            )
        except InvalidParameters as error:
            log.warning("Schedule %s: the parameters of %s don't match: %s", schedule.id, verdict.at, error)
            return Entry(verdict.at, Outcome.SKIPPED, "InvalidParameters", due=due, mark=verdict.mark)
        return Entry(verdict.at, Outcome.STARTED, run=run, due=due, mark=verdict.mark)

    def _annotation(self, schedule: Schedule) -> str | None:
        return schedule.metadata.annotations.get(names.ANNOTATION_RUN_NOW)

    def _run_now(
        self, schedule: Schedule, timetable: Timetable, target: _Target | None, account: Account, now: datetime
    ) -> Entry | None:
        """What the annotation asks for, once for each of its values."""
        value = self._annotation(schedule)
        if value is None or value == account.run_now or target is None:
            return None
        verdict = plan.Verdict(now.replace(microsecond=0), Outcome.STARTED, mark=mark_of("now", value))
        return self._entry(schedule, timetable, target, verdict)

    async def _record(
        self, schedule: Schedule, cursor: datetime, entries: Sequence[Entry], *, run_now: str | None = None
    ) -> Written:
        written = await self._ledger.record(
            schedule.metadata.uid,
            schedule.id,
            plan.timetable_hash(schedule.spec),
            cursor,
            entries,
            epoch=self._epoch(),
            run_now=run_now,
        )
        for outcome, reason, late in written.counted:
            metrics.TICKS.labels(schedule=schedule.id, outcome=outcome.word, reason=reason or "").inc()
            if outcome is Outcome.STARTED:
                metrics.TICK_LATE_SECONDS.labels(schedule=schedule.id).observe(late)
        return written

    def _arm(
        self, key: ObjectKey, schedule: Schedule, timetable: Timetable, account: Account, *, stalled: bool, again: bool
    ) -> datetime | None:
        """Have the loop wake the Schedule at its next tick, one that is left out included; the next that fires."""
        if stalled or again:
            self._loop.disarm(key)
            return None
        ticks = timetable.ticks_after(account.cursor)
        following = next(ticks, None)
        if following is None:
            self._loop.disarm(key)
            return None
        self._loop.arm(key, plan.due_at(schedule.spec, schedule.metadata.uid, following.at))
        while following is not None and following.skip is not None:
            following = next(ticks, None)
        if following is not None:
            metrics.NEXT_TICK.labels(schedule=schedule.id).set(following.at.timestamp())
        return following.at if following is not None else None

    async def _tidy(self, key: ObjectKey, schedule: Schedule) -> None:
        """Delete Jobs that have ended, but for the newest."""
        for job in surplus(self._jobs.of(key, schedule.metadata.uid), schedule.spec):
            try:
                await self._kube.delete(JOB, key.namespace, job["metadata"]["name"], uid=job["metadata"]["uid"])
            except Conflict:
                log.debug("Job %s is another one by now", job["metadata"]["name"])

    # -- tell

    async def _tell(self, schedule: Schedule, obj: Object, facts: Facts) -> float | None:
        status, notes = build_status(schedule, facts, self._clock())
        if status is None:
            return None
        meta = schedule.metadata
        try:
            written = await self._kube.patch_status(
                SCHEDULE, meta.namespace, meta.name, status, resource_version=meta.resource_version
            )
        except NotFound:
            return None
        except Conflict:
            await self._reread_object(meta.namespace, meta.name)
            return 0.0
        self._schedules.upsert(without_bookkeeping(written))
        for note in notes:
            await self._event(obj, note)
        return None

    async def _reread_object(self, namespace: str, name: str) -> None:
        try:
            self._schedules.upsert(without_bookkeeping(await self._kube.get(SCHEDULE, namespace, name)))
        except NotFound:
            log.debug("Schedule %s/%s is gone; the watch will say so", namespace, name)

    async def _tell_missed(self, obj: Object, written: Written) -> None:
        missed: dict[str, int] = {}
        for outcome, reason, _late in written.counted:
            if outcome is Outcome.MISSED and reason is not None:
                missed[reason] = missed.get(reason, 0) + 1
        for reason, n in missed.items():
            text = f"{n} tick{'s' if n > 1 else ''} missed ({reason}): Maestro didn't come to them in time"
            await self._event(obj, Note("Warning", "TicksMissed", text))

    async def _event(self, obj: Mapping[str, Any], note: Note) -> None:
        await self._kube.event(obj, type=note.type, reason=note.reason, message=note.message)


def _look_again(schedule: Schedule) -> float | None:
    """A calendar in a ConfigMap is looked at now and then: nothing tells of its change, or that it has come to be."""
    exclude = schedule.spec.exclude
    return jittered(FRESH_SECONDS / 5, 0.1) if exclude is not None and exclude.config_map is not None else None
