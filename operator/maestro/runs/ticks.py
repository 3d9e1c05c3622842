"""The tick ledger: every tick of a Schedule ends in one record, written together with the Run that it starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from maestro.runs import dispatch
from maestro.runs.database import Row, Sql, Transaction, as_uuid_or_none, clean
from maestro.runs.errors import Backlog, NeverFits, Refused, UnknownAutomation
from maestro.runs.model import NewRun, RunState, from_micros, new_run_id, to_micros
from maestro.runs.store import RunStore
from maestro.runtime.clock import Clock, utcnow

KEPT = 1000
"""Records of a Schedule that are kept: the newest."""
RECENT = 10
_PRUNE_EVERY = 64

_COLUMNS = "t.at, t.mark, t.outcome, t.reason, t.run_id, t.open, t.job, t.late, t.recorded_at, t.ended, t.user_name"
_BEGIN = Sql("""
    INSERT INTO schedule (uid, id, cursor, timetable, run_now) VALUES (:uid, :id, :cursor, :timetable, :run_now)
    ON CONFLICT (uid) DO UPDATE
    SET cursor = CASE WHEN schedule.cursor > excluded.cursor THEN schedule.cursor ELSE excluded.cursor END,
        timetable = excluded.timetable, run_now = coalesce(excluded.run_now, schedule.run_now)""")
_OPEN_ACCOUNT = Sql("""
    INSERT INTO schedule (uid, id, cursor, timetable) VALUES (:uid, :id, :cursor, '') ON CONFLICT (uid) DO NOTHING""")
_ASK = Sql("""
    INSERT INTO tick (schedule_uid, at, mark, outcome, reason, open, late, recorded_at, user_name)
    SELECT :uid, :at, :mark, 3, :reason, 1, 0, :now, :user
    WHERE NOT EXISTS (SELECT 1 FROM tick WHERE schedule_uid = :uid AND mark = :mark AND (:once = 1 OR at = :at))
    RETURNING at""")
_TAKE = Sql("""
    INSERT INTO tick (schedule_uid, at, mark, outcome, reason, run_id, open, job, late, recorded_at, user_name)
    VALUES (:uid, :at, :mark, :outcome, :reason, :run_id, :open, :job, :late, :now, :user)
    ON CONFLICT (schedule_uid, at, mark) DO UPDATE
    SET outcome = excluded.outcome, reason = excluded.reason, run_id = excluded.run_id, open = excluded.open,
        job = excluded.job, late = excluded.late, recorded_at = excluded.recorded_at
    WHERE tick.outcome = 3 AND (excluded.outcome <> 3 OR excluded.reason <> tick.reason) RETURNING at""")
_REFUSE = Sql("""
    UPDATE tick SET outcome = 1, reason = :reason, run_id = NULL, open = 0, job = NULL
    WHERE schedule_uid = :uid AND at = :at AND mark = :mark""")
_COUNT = Sql("""
    UPDATE schedule SET started = started + :started, skipped = skipped + :skipped, missed = missed + :missed,
      last_tick = CASE WHEN last_tick IS NULL OR last_tick < :last_tick THEN :last_tick ELSE last_tick END
    WHERE uid = :uid RETURNING started + skipped + missed""")
_PRUNE = Sql("""
    DELETE FROM tick WHERE schedule_uid = :uid AND open = 0
      AND at < (SELECT at FROM tick WHERE schedule_uid = :uid ORDER BY at DESC LIMIT 1 OFFSET :kept)""")
_SCHEDULE = Sql("""
    SELECT cursor, timetable, started, skipped, missed, last_tick, last_success_at, run_now, last_end
    FROM schedule WHERE uid = :uid""")
_OPEN_OF = Sql(f"""
    SELECT {_COLUMNS}, r.state, r.attempt FROM tick t LEFT JOIN run r ON r.id = t.run_id
    WHERE t.schedule_uid = :uid AND t.open = 1 ORDER BY t.at""")  # noqa: S608 - our own names
_LATEST = Sql(f"""
    SELECT {_COLUMNS}, NULL, NULL FROM tick t WHERE t.schedule_uid = :uid AND t.outcome <> 3
    ORDER BY t.at DESC LIMIT :limit""")  # noqa: S608
_PAGE = Sql(f"""
    SELECT {_COLUMNS}, NULL, NULL FROM tick t
    WHERE t.schedule_uid = :uid AND t.at < :before AND t.outcome {{in :outcomes}}
    ORDER BY t.at DESC, t.mark LIMIT :limit""")  # noqa: S608
_OPEN = Sql("""
    SELECT t.schedule_uid, t.at, t.mark, t.run_id, r.state, r.attempt, r.ended_at, t.outcome
    FROM tick t LEFT JOIN run r ON r.id = t.run_id WHERE t.open = 1""")
_SETTLE = Sql("""
    UPDATE tick SET open = 0, ended = :ended, ended_at = :ended_at
    WHERE schedule_uid = :uid AND at = :at AND mark = :mark AND open = 1 AND outcome = 0 RETURNING schedule_uid""")
_SUCCEEDED = Sql("""
    UPDATE schedule SET last_success_at = :ended_at
    WHERE uid = :uid AND (last_success_at IS NULL OR last_success_at < :ended_at)""")
_ENDED = Sql("""
    UPDATE schedule SET last_end = :ended, last_end_at = :ended_at
    WHERE uid = :uid AND (last_end_at IS NULL OR last_end_at <= :ended_at)""")
_UIDS = Sql("SELECT uid, id FROM schedule")
_STARTED = Sql("""
    SELECT at FROM tick WHERE schedule_uid = :uid AND outcome = 0 AND at >= :since AND at <= :until""")
_FORGET = (Sql("DELETE FROM tick WHERE schedule_uid = :uid"), Sql("DELETE FROM schedule WHERE uid = :uid"))


class Outcome(IntEnum):
    """What became of a tick; the numbers are the store's."""

    STARTED = 0
    SKIPPED = 1
    MISSED = 2
    WAITING = 3

    @property
    def word(self) -> str:
        """As status, HTTP and metrics say it."""
        return self.name.capitalize()


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be recorded of a tick.

    Attributes
    ----------
    run
        The Run that it starts; exactly where the outcome is Started.
    due
        When it should have been recorded; the tick and its jitter.
    mark
        Empty for the timetable's own; what else starts a Run has a mark of its own.
    """

    at: datetime
    outcome: Outcome
    reason: str | None = None
    run: NewRun | None = None
    due: datetime | None = None
    mark: str = ""
    user: str | None = None


@dataclass(frozen=True, slots=True)
class TickView:
    """A record of the ledger. `state` and `attempt`: of its Run, where that goes on."""

    at: datetime
    mark: str
    outcome: Outcome
    reason: str | None
    run: UUID | None
    open: bool
    job: str | None
    late: float
    recorded_at: datetime
    ended: str | None
    user: str | None
    state: RunState | None = None
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What the ledger knows of one Schedule.

    Attributes
    ----------
    cursor
        Up to here every tick was accounted for.
    timetable
        A hash of what makes the ticks; another one is another timetable.
    waiting, running
        Records that wait to start, and those whose Run hasn't ended; the oldest first.
    recent
        The last ten, the newest first; without what waits.
    last_tick
        The last tick that started a Run.
    run_now
        The last value of the annotation that was carried out.
    last_end
        The state in which the Run that ended last did so.
    """

    uid: str
    cursor: datetime
    timetable: str
    started: int = 0
    skipped: int = 0
    missed: int = 0
    last_tick: datetime | None = None
    last_success_at: datetime | None = None
    run_now: str | None = None
    last_end: str | None = None
    waiting: tuple[TickView, ...] = ()
    running: tuple[TickView, ...] = ()
    recent: tuple[TickView, ...] = ()


class OpenTick(NamedTuple):
    """A record that isn't settled, as `TickLedger.open` sees all of them."""

    uid: str
    at: int
    mark: str
    run: UUID | None
    state: int | None
    attempt: int | None
    ended_at: int | None
    waiting: bool

    @property
    def ended(self) -> bool:
        """Whether its Run has (or is gone from the store, which forgets only what has ended)."""
        return not self.waiting and (self.state is None or RunState.of(self.state).ended)


@dataclass(slots=True)
class Written:
    """What one `record` came to."""

    account: Account
    runs: dict[tuple[datetime, str], UUID] = field(default_factory=dict)
    """The Runs that were started, by tick and mark."""
    refused: dict[tuple[datetime, str], Refused] = field(default_factory=dict)
    counted: list[tuple[Outcome, str | None, float]] = field(default_factory=list)
    """Outcome, reason and lateness (seconds) of what was really written, for the metrics."""


class TickLedger:
    """The ledger's face over the run store. Every method may raise StoreUnavailable; with an `epoch` StaleEpoch."""

    def __init__(self, store: RunStore, clock: Clock = utcnow) -> None:
        self._store = store
        self._clock = clock

    async def account(self, uid: str) -> Account | None:
        """What is known of a Schedule; None: nothing yet."""
        return await self._store.read(lambda transaction: _account(transaction, uid))

    async def record(
        self,
        uid: str,
        schedule_id: str,
        timetable: str,
        cursor: datetime,
        entries: Sequence[Entry],
        *,
        epoch: int | None = None,
        run_now: str | None = None,
    ) -> Written:
        """Write the records of ticks, their Runs, and how far the Schedule is accounted for, in one transaction.

        A tick that has a record already isn't recorded again, and starts nothing: only what waits can become
        something else. A Run that the store refuses makes the record Skipped.

        Parameters
        ----------
        timetable, cursor
            See Account; the cursor never goes back.
        run_now
            The value of the annotation that is carried out by this.
        """

        def write(transaction: Transaction) -> Written:
            dispatch.fence(transaction, epoch)
            begun = {
                "uid": uid,
                "id": schedule_id,
                "cursor": to_micros(cursor),
                "timetable": timetable,
                "run_now": run_now,
            }
            transaction.run(_BEGIN, begun)
            return _record(transaction, self._store, uid, entries, to_micros(self._clock()))

        return await self._store.write(write, max(len(entries), 1))

    async def ask(
        self,
        uid: str,
        schedule_id: str,
        made: datetime,
        ticks: Sequence[datetime],
        *,
        reason: str,
        mark: str,
        user: str | None,
        once: bool,
    ) -> frozenset[datetime]:
        """Have ticks started that somebody asked for; they wait until the leader comes to them.

        Parameters
        ----------
        made
            When the Schedule was made, where nothing is known of it yet.
        once
            The mark names one tick, whenever it was asked for.

        Returns
        -------
        The instants that weren't there already.
        """

        def write(transaction: Transaction) -> frozenset[datetime]:
            transaction.run(_OPEN_ACCOUNT, {"uid": uid, "id": schedule_id, "cursor": to_micros(made)})
            common = {
                "uid": uid,
                "mark": mark,
                "reason": reason,
                "now": to_micros(self._clock()),
                "user": clean(user),
                "once": int(once),
            }
            asked = transaction.each(_ASK, [{**common, "at": to_micros(at)} for at in sorted(ticks)])
            return frozenset(from_micros(row[0][0]) for row in asked if row)

        return await self._store.write(write, len(ticks))

    async def started(self, uid: str, since: datetime, until: datetime) -> frozenset[datetime]:
        """Instants between the two (inclusive) that have started a Run."""
        given = {"uid": uid, "since": to_micros(since), "until": to_micros(until)}
        rows = await self._store.read(lambda transaction: transaction.all(_STARTED, given))
        return frozenset(from_micros(row[0]) for row in rows)

    async def page(
        self, uid: str, outcomes: Collection[Outcome], limit: int, before: datetime | None = None
    ) -> list[TickView]:
        """Records, the newest first; `before`: only those of earlier instants."""
        given = {
            "uid": uid,
            "outcomes": [int(outcome) for outcome in outcomes],
            "limit": limit,
            "before": (1 << 62) if before is None else to_micros(before),
        }
        rows = await self._store.read(lambda transaction: transaction.all(_PAGE, given))
        return [_view(row) for row in rows]

    async def open(self) -> list[OpenTick]:
        """What isn't settled, of all Schedules."""
        rows = await self._store.read(lambda transaction: transaction.all(_OPEN))
        return [
            OpenTick(uid, at, mark, as_uuid_or_none(run), state, attempt, ended_at, outcome == Outcome.WAITING)
            for uid, at, mark, run, state, attempt, ended_at, outcome in rows
        ]

    async def settle(self, ticks: Sequence[OpenTick], *, epoch: int | None = None) -> frozenset[str]:
        """Note the ends of Runs; the UIDs of the Schedules that this concerns."""

        def write(transaction: Transaction) -> frozenset[str]:
            dispatch.fence(transaction, epoch)
            now = to_micros(self._clock())
            ends = [_end(tick, now) for tick in sorted(ticks)]
            touched = {row[0][0] for row in transaction.each(_SETTLE, ends) if row}
            transaction.many(_ENDED, ends)
            transaction.many(_SUCCEEDED, [end for end in ends if end["ended"] == RunState.SUCCEEDED])
            return frozenset(touched)

        return await self._store.write(write, len(ticks))

    async def known(self) -> Mapping[str, str]:
        """The ids (`<namespace>.<name>`) of all Schedules of which something is known, by UID."""
        rows = await self._store.read(lambda transaction: transaction.all(_UIDS))
        return dict(rows)

    async def forget(self, uid: str, *, epoch: int | None = None) -> None:
        """The Schedule is gone, and nothing of it goes on."""

        def write(transaction: Transaction) -> None:
            dispatch.fence(transaction, epoch)
            for statement in _FORGET:
                transaction.run(statement, {"uid": uid})

        await self._store.write(write)


def _end(tick: OpenTick, now: int) -> dict[str, Any]:
    ended = RunState.of(tick.state).value if tick.state is not None else "Unknown"
    return {
        "uid": tick.uid,
        "at": tick.at,
        "mark": tick.mark,
        "ended": ended,
        "ended_at": now if tick.ended_at is None else tick.ended_at,
    }


def _record(transaction: Transaction, store: RunStore, uid: str, entries: Sequence[Entry], now: int) -> Written:
    written: list[tuple[Entry, NewRun | None]] = []
    for entry in entries:
        run = entry.run
        if run is not None and run.run_id is None:
            run.run_id = new_run_id()
        taken = transaction.all(_TAKE, _row(transaction, uid, entry, run, now))
        if taken:
            written.append((entry, run))
    starting = [(entry, run) for entry, run in written if run is not None]
    answers = store.accept_in(transaction, [[run] for _, run in starting]) if starting else []
    result = Written(account=Account(uid, from_micros(0), ""))
    for (entry, run), answer in zip(starting, answers, strict=True):
        if isinstance(answer, Refused):
            result.refused[entry.at, entry.mark] = answer
            refusal = {"uid": uid, "at": to_micros(entry.at), "mark": entry.mark, "reason": _why(answer)}
            transaction.run(_REFUSE, refusal)
        else:
            assert run.run_id is not None
            result.runs[entry.at, entry.mark] = run.run_id
    _count(transaction, uid, [entry for entry, _ in written], result, now)
    account = _account(transaction, uid)
    assert account is not None, "it was just written"
    result.account = account
    return result


def _row(transaction: Transaction, uid: str, entry: Entry, run: NewRun | None, now: int) -> dict[str, Any]:
    return {
        "uid": uid,
        "at": to_micros(entry.at),
        "mark": entry.mark,
        "outcome": int(entry.outcome),
        "reason": entry.reason,
        "run_id": transaction.uuid(run.run_id) if run is not None else None,
        "open": int(entry.outcome in (Outcome.STARTED, Outcome.WAITING)),
        "job": run.job.name if run is not None and run.job is not None else None,
        "late": max(now - to_micros(entry.due or entry.at), 0),
        "now": now,
        "user": clean(entry.user),
    }


def _count(transaction: Transaction, uid: str, entries: Sequence[Entry], result: Written, now: int) -> None:
    numbers = {Outcome.STARTED: 0, Outcome.SKIPPED: 0, Outcome.MISSED: 0}
    last = 0
    for entry in entries:
        outcome, reason = entry.outcome, entry.reason
        refusal = result.refused.get((entry.at, entry.mark))
        if refusal is not None:
            outcome, reason = Outcome.SKIPPED, _why(refusal)
        if outcome is Outcome.WAITING:
            continue
        numbers[outcome] += 1
        result.counted.append((outcome, reason, max(now - to_micros(entry.due or entry.at), 0) / 1e6))
        if outcome is Outcome.STARTED and not entry.mark:
            last = max(last, to_micros(entry.at))
    if not any(numbers.values()):
        return
    total = transaction.one(
        _COUNT,
        {
            "uid": uid,
            "started": numbers[Outcome.STARTED],
            "skipped": numbers[Outcome.SKIPPED],
            "missed": numbers[Outcome.MISSED],
            "last_tick": last or None,
        },
    )
    if total is not None and (total[0] % _PRUNE_EVERY < sum(numbers.values())):
        transaction.run(_PRUNE, {"uid": uid, "kept": KEPT})


def _why(refusal: Refused) -> str:
    if isinstance(refusal, Backlog | NeverFits):
        return "Backlog"
    return "AutomationNotFound" if isinstance(refusal, UnknownAutomation) else "InvalidParameters"


def _account(transaction: Transaction, uid: str) -> Account | None:
    row = transaction.one(_SCHEDULE, {"uid": uid})
    if row is None:
        return None
    cursor, timetable, started, skipped, missed, last_tick, last_success_at, run_now, last_end = row
    unsettled = [_view(found) for found in transaction.all(_OPEN_OF, {"uid": uid})]
    recent = transaction.all(_LATEST, {"uid": uid, "limit": RECENT})
    return Account(
        uid=uid,
        cursor=from_micros(cursor),
        timetable=timetable,
        started=started,
        skipped=skipped,
        missed=missed,
        last_tick=None if last_tick is None else from_micros(last_tick),
        last_success_at=None if last_success_at is None else from_micros(last_success_at),
        run_now=run_now,
        last_end=last_end,
        waiting=tuple(tick for tick in unsettled if tick.outcome is Outcome.WAITING),
        running=tuple(tick for tick in unsettled if tick.outcome is Outcome.STARTED),
        recent=tuple(_view(found) for found in recent),
    )


def _view(row: Row) -> TickView:
    at, mark, outcome, reason, run, is_open, job, late, recorded_at, ended, user, state, attempt = row
    return TickView(
        at=from_micros(at),
        mark=mark,
        outcome=Outcome(outcome),
        reason=reason,
        run=as_uuid_or_none(run),
        open=bool(is_open),
        job=job,
        late=late / 1e6,
        recorded_at=from_micros(recorded_at),
        ended=ended,
        user=user,
        state=None if state is None else RunState.of(state),
        attempt=attempt or 0,
    )
