"""What becomes of a Schedule's ticks: a chain of small policies for each. Pure; the time is handed in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from maestro.resources.schedule import MissedPolicy, ScheduleSpec
from maestro.runs.ticks import Account, Outcome, TickView
from maestro.schedule.cron import Tick

PUNCTUAL = timedelta(seconds=60)
"""A tick that is looked at within this time isn't one that an outage kept from running."""
MOST_ASKED = 10_000
"""So many ticks of one backfill may wait."""
CHUNK = 1000
"""So many ticks of a long outage are treated at a time."""

CONCURRENCY, GATEWAY, SUSPENDED = "Concurrency", "Gateway", "Suspended"
OUTAGE, DEADLINE, MAX_RUNS = "Outage", "Deadline", "MaxRuns"
RUN_NOW, BACKFILL = "RunNow", "Backfill"
"""Ticks that people asked for: they wait in the ledger until they start."""
AUTOMATION_NOT_FOUND, AUTOMATION_SUSPENDED = "AutomationNotFound", "AutomationSuspended"


@dataclass(frozen=True, slots=True)
class Target:
    """The Automation, as far as its ticks are concerned."""

    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """What the decision rests on.

    Attributes
    ----------
    target
        None: the Automation doesn't exist.
    blocked
        Its Solution's gateway is shut.
    due
        Ticks after the cursor whose time (with jitter) has come, ascending.
    more
        There are others, later than these, whose time has come too.
    """

    account: Account
    target: Target | None
    blocked: bool
    due: Sequence[Tick] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one tick."""

    at: datetime
    outcome: Outcome
    reason: str | None = None
    mark: str = ""


@dataclass(slots=True)
class Plan:
    """What is to be recorded, in order; how far the Schedule is then accounted for; which Runs give way."""

    verdicts: list[Verdict] = field(default_factory=list)
    cursor: datetime | None = None
    cancel: list[UUID] = field(default_factory=list)


def keep(spec: ScheduleSpec) -> int:
    """How many of the newest ticks some policy may want to run."""
    missed = spec.missed
    return missed.max_runs if "All" in (missed.on_outage, missed.on_resume, missed.on_blocked) else 1


def due_at(spec: ScheduleSpec, uid: str, at: datetime) -> datetime:
    """When a tick starts: `spec.jitter` later at most, by an amount that is always the same for it."""
    if spec.jitter is None:
        return at
    digest = hashlib.blake2b(f"{uid}/{at.timestamp():.0f}".encode(), digest_size=8).digest()
    return at + timedelta(seconds=spec.jitter.seconds * int.from_bytes(digest) / 2**64)


def plan(spec: ScheduleSpec, uid: str, seen: Observed, now: datetime) -> Plan:
    """Decide about what waited, then about what is due."""
    draft = _Draft(spec, uid, seen, now)
    draft.waited()
    draft.came()
    draft.trim()
    return draft.made


# --- the chain: the first policy that has something to say decides ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Case:
    """One tick, and the world that it meets. `newest`: no later one is due; `spare`: so many later ones are due that no
    policy wants it any more."""

    spec: ScheduleSpec
    tick: Tick
    target: Target | None
    blocked: bool
    late: timedelta
    running: bool
    newest: bool
    spare: bool


_Policy = Callable[[_Case], Verdict | None]


def _calendar(case: _Case) -> Verdict | None:
    return _skipped(case, case.tick.skip) if case.tick.skip is not None else None


def _automation(case: _Case) -> Verdict | None:
    if case.target is None:
        return _skipped(case, AUTOMATION_NOT_FOUND)
    return _skipped(case, AUTOMATION_SUSPENDED) if case.target.suspended else None


def _suspended(case: _Case) -> Verdict | None:
    return _kept_back(case, SUSPENDED, case.spec.missed.on_resume) if case.spec.suspend else None


def _gateway(case: _Case) -> Verdict | None:
    return _kept_back(case, GATEWAY, case.spec.missed.on_blocked) if case.blocked else None


def _deadline(case: _Case) -> Verdict | None:
    return _missed(case, DEADLINE) if _too_late(case.spec, case.late) else None


def _outage(case: _Case) -> Verdict | None:
    policy = case.spec.missed.on_outage
    if case.late <= PUNCTUAL and not case.spare:
        # With Latest, one of several that came together is enough.
        return None if case.newest or policy != "Latest" else _missed(case, OUTAGE)
    if policy == "All":
        return _skipped(case, MAX_RUNS) if case.spare else None
    return None if policy == "Latest" and case.newest else _missed(case, OUTAGE)


def _concurrency(case: _Case) -> Verdict | None:
    if not case.running or case.spec.concurrency_policy == "Allow":
        return None
    if case.spec.concurrency_policy == "Replace":
        return _waiting(case, CONCURRENCY)
    if case.late > PUNCTUAL and case.spec.missed.on_outage == "All":
        return _waiting(case, OUTAGE)
    return _skipped(case, CONCURRENCY)


POLICIES: tuple[_Policy, ...] = (_calendar, _automation, _suspended, _gateway, _deadline, _outage, _concurrency)


def _kept_back(case: _Case, reason: str, policy: MissedPolicy) -> Verdict:
    if policy == "None":
        return _skipped(case, reason)
    if case.spare:
        return _skipped(case, MAX_RUNS if policy == "All" else reason)
    return _waiting(case, reason)


def _too_late(spec: ScheduleSpec, late: timedelta) -> bool:
    limit = spec.starting_deadline_seconds
    return limit is not None and late > timedelta(seconds=limit)


def _skipped(case: _Case, reason: str) -> Verdict:
    return Verdict(case.tick.at, Outcome.SKIPPED, reason)


def _missed(case: _Case, reason: str) -> Verdict:
    return Verdict(case.tick.at, Outcome.MISSED, reason)


def _waiting(case: _Case, reason: str) -> Verdict:
    return Verdict(case.tick.at, Outcome.WAITING, reason)


# --- a pass over everything ------------------------------------------------------------------------------------------


class _Draft:
    """A plan in the making."""

    def __init__(self, spec: ScheduleSpec, uid: str, seen: Observed, now: datetime) -> None:
        self._spec, self._uid, self._seen, self._now = spec, uid, seen, now
        self._running = bool(seen.account.running)
        self._waiting: list[Verdict] = []
        self.made = Plan()

    def waited(self) -> None:
        """What waits: it starts, oldest first, as soon as nothing keeps it back and its policy still wants it."""
        free = [tick for tick in self._seen.account.waiting if self._free(tick)]
        wanted = self._wanted(free)
        for tick in self._seen.account.waiting:
            if tick not in free:
                self._waiting.append(_verdict(tick, Outcome.WAITING, tick.reason))
            elif tick not in wanted:
                self._decide(_verdict(tick, Outcome.SKIPPED, tick.reason))
            elif not tick.mark and _too_late(self._spec, self._late(tick.at)):
                self._decide(_verdict(tick, Outcome.MISSED, DEADLINE))
            elif self._running and self._spec.concurrency_policy != "Allow" and tick.reason != RUN_NOW:
                self._waiting.append(_verdict(tick, Outcome.WAITING, tick.reason))
            else:
                self._decide(_verdict(tick, Outcome.STARTED))

    def came(self) -> None:
        """What is due."""
        due, spare = self._seen.due, 0
        firing = [tick for tick in due if tick.skip is None]
        if self._seen.more:
            due, spare = due[:CHUNK], CHUNK
        elif len(firing) > (wanted := keep(self._spec)):
            spare = due.index(firing[-wanted])
        for number, tick in enumerate(due):
            case = _Case(
                spec=self._spec,
                tick=tick,
                target=self._seen.target,
                blocked=self._seen.blocked,
                late=self._late(tick.at),
                running=self._running,
                newest=not self._seen.more and bool(firing) and tick is firing[-1],
                spare=number < spare,
            )
            self._take(next(filter(None, (policy(case) for policy in POLICIES)), Verdict(tick.at, Outcome.STARTED)))
            self.made.cursor = tick.at

    def trim(self) -> None:
        """Of what waits for one thing only so many are kept as its policy may want to run."""
        before = {(tick.at, tick.mark): tick.reason for tick in self._seen.account.waiting}
        by_reason: dict[str, list[Verdict]] = {}
        for verdict in self._waiting:
            by_reason.setdefault(verdict.reason or "", []).append(verdict)
        for reason, verdicts in by_reason.items():
            most = self._most(reason)
            surplus = len(verdicts) - most
            for number, verdict in enumerate(verdicts):
                if number < surplus:
                    why = reason if most == 1 else MAX_RUNS
                    self.made.verdicts.append(replace(verdict, outcome=Outcome.SKIPPED, reason=why))
                elif before.get((verdict.at, verdict.mark)) != reason:
                    self.made.verdicts.append(verdict)
        if any(verdict.reason == CONCURRENCY for verdict in self._waiting):
            self.made.cancel = [tick.run for tick in self._seen.account.running if tick.run is not None]

    def _free(self, tick: TickView) -> bool:
        """Whether nothing keeps it back; what a person has asked for now isn't held by what is suspended."""
        target = self._seen.target
        if target is None or self._seen.blocked:
            return False
        return tick.reason == RUN_NOW or not (self._spec.suspend or target.suspended)

    def _wanted(self, free: Sequence[TickView]) -> list[TickView]:
        """Those that their policy, as it is now, wants to run."""
        found: list[TickView] = []
        for reason in dict.fromkeys(tick.reason or "" for tick in free):
            of_reason = [tick for tick in free if tick.reason == reason]
            if self._policy(reason) != "None":
                found += of_reason[-self._most(reason) :]
        return found

    def _policy(self, reason: str) -> MissedPolicy:
        missed = self._spec.missed
        policies: dict[str, MissedPolicy] = {
            SUSPENDED: missed.on_resume,
            GATEWAY: missed.on_blocked,
            OUTAGE: missed.on_outage,
        }
        return policies.get(reason, "Latest")

    def _most(self, reason: str) -> int:
        if reason in (RUN_NOW, BACKFILL):
            return MOST_ASKED
        return self._spec.missed.max_runs if self._policy(reason) == "All" else 1

    def _late(self, at: datetime) -> timedelta:
        return self._now - due_at(self._spec, self._uid, at)

    def _take(self, verdict: Verdict) -> None:
        if verdict.outcome is Outcome.WAITING:
            self._waiting.append(verdict)
        else:
            self._decide(verdict)

    def _decide(self, verdict: Verdict) -> None:
        self.made.verdicts.append(verdict)
        self._running = self._running or verdict.outcome is Outcome.STARTED


def _verdict(tick: TickView, outcome: Outcome, reason: str | None = None) -> Verdict:
    return Verdict(tick.at, outcome, reason, tick.mark)


def timetable_hash(spec: ScheduleSpec) -> str:
    """The same for specs with the same ticks: where it changes, the Schedule starts afresh."""
    parts = spec.dump()
    wanted = {key: parts.get(key) for key in ("schedule", "schedules", "timeZone", "dst", "exclude")}
    return hashlib.blake2b(repr(wanted).encode(), digest_size=8).hexdigest()


def rules_of(spec: ScheduleSpec) -> Iterable[str]:
    """The rules, as they are written."""
    return spec.schedules if spec.schedules is not None else [spec.schedule or ""]
