"""What transactions did to Runs, for the metrics: gathered while one works, counted once it is durable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from maestro.runs import lifecycle
from maestro.runs.model import NOTHING_TO_DO, Counts, Registration, RunState
from maestro.runs.registry import Registry
from maestro.runtime import metrics

_STATES = ("waiting", "held", "queued", "running")
NOBODY = 0
"""The key under which dead letters of no Automation are counted."""
END_REASONS = frozenset(
    {
        *(lifecycle.BUSINESS, lifecycle.TECHNICAL, lifecycle.TIMEOUT, lifecycle.WORKER_LOST, lifecycle.BY_WORKER),
        *(lifecycle.EXPIRED, lifecycle.DEAD_LETTERED, lifecycle.JOB_INVALID, lifecycle.AUTOMATION_DELETED),
        *(lifecycle.CANCELED, NOTHING_TO_DO),
        # what the controllers of Schedules and Reprocessings say
        *("ScheduleDeleted", "Replaced", "ReprocessingEnded"),
    }
)
"""The label `reason` of Runs that ended: bounded, whatever else says why one did."""


def _numbers() -> dict[int, int]:
    return defaultdict(int)


@dataclass(slots=True)
class Observed:
    """Of one transaction, by the Automations' keys; times in microseconds."""

    accepted: dict[int, int] = field(default_factory=_numbers)
    started: dict[int, int] = field(default_factory=_numbers)
    retried: dict[int, int] = field(default_factory=_numbers)
    lost: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(int))
    """By Automation and what told that the attempt is over."""
    finished: dict[tuple[int, int, str | None], int] = field(default_factory=lambda: defaultdict(int))
    """By Automation, state and reason."""
    waits: list[int] = field(default_factory=list)
    """From accepted to the first start."""
    attempts: list[int] = field(default_factory=list)
    """From an attempt's start to its end."""

    def __bool__(self) -> bool:
        return bool(self.accepted or self.started or self.retried or self.lost or self.finished or self.attempts)

    def count(self, registry: Registry) -> None:
        """Adds it to the metrics."""
        for metric, numbers in (
            (metrics.RUNS_ACCEPTED, self.accepted),
            (metrics.RUNS_STARTED, self.started),
            (metrics.RUNS_RETRIED, self.retried),
        ):
            for automation, n in numbers.items():
                name = _name(registry, automation)
                if n and name is not None:
                    metric.labels(name).inc(n)
        for (automation, cause), n in self.lost.items():
            name = _name(registry, automation)
            if name is not None:
                metrics.ATTEMPTS_LOST.labels(name, cause).inc(n)
        for (automation, state, reason), n in self.finished.items():
            name = _name(registry, automation)
            if name is not None:
                metrics.RUNS_FINISHED.labels(name, RunState.of(state).value, _bounded(reason)).inc(n)
        metrics.ACCEPT_TO_START_SECONDS.observe_all(_seconds(self.waits))
        metrics.ATTEMPT_SECONDS.observe_all(_seconds(self.attempts))


def _name(registry: Registry, automation: int) -> str | None:
    """None for one of which nothing is left: its series are gone, and must not come back with its last Run."""
    known = registry.get(automation)
    return None if known is None or known.reaped else known.registration.id


def _bounded(reason: str | None) -> str:
    """Reasons come from a closed list; whatever else an ended Run may say is one label."""
    return reason or "" if reason is None or reason in END_REASONS else "Other"


def _seconds(micros: list[int]) -> list[float]:
    # another replica's clock may be a little ahead
    return [max(value, 0) / 1e6 for value in micros]


class RunGauges:
    """The gauges of Runs by Automation and state, and of dead letters. Touches only what has changed since the last
    time."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[int, ...]] = {}

    def show(self, counts: Mapping[int, Counts], registrations: Mapping[int, Registration]) -> None:
        """Sets the gauges from the counts of the live Automations, and removes the series of the others."""
        shown: dict[str, tuple[int, ...]] = {}
        for key, registration in registrations.items():
            count = counts.get(key, Counts())
            numbers = (count.pending + count.retrying, count.held, count.queued, count.running, count.dead_lettered)
            shown[registration.id] = numbers
            if self._shown.get(registration.id) != numbers:
                for state, n in zip(_STATES, numbers, strict=False):
                    metrics.RUNS.labels(registration.id, state).set(n)
                metrics.DEAD_LETTERS.labels(registration.id).set(count.dead_lettered)
        for gone in self._shown.keys() - shown.keys():
            for gauge in (metrics.RUNS, metrics.DEAD_LETTERS):
                gauge.remove_by_labels({"automation": gone})
        metrics.DEAD_LETTERS.labels("").set(counts.get(NOBODY, Counts()).dead_lettered)
        self._shown = shown
