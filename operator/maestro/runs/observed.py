"""What transactions did to Runs, for the metrics: gathered while one works, counted once it is durable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from maestro.runs.model import Counts, Registration, RunState
from maestro.runs.registry import Registry
from maestro.runtime import metrics

_STATES = ("waiting", "held", "queued", "running")


def _numbers() -> dict[int, int]:
    return defaultdict(int)


@dataclass(slots=True)
class Observed:
    """Of one transaction, by the Automations' keys; times in microseconds."""

    accepted: dict[int, int] = field(default_factory=_numbers)
    started: dict[int, int] = field(default_factory=_numbers)
    retried: dict[int, int] = field(default_factory=_numbers)
    finished: dict[tuple[int, int], int] = field(default_factory=dict)
    """By Automation and state."""
    waits: list[int] = field(default_factory=list)
    """From accepted to the first start."""
    attempts: list[int] = field(default_factory=list)
    """From an attempt's start to its end."""

    def __bool__(self) -> bool:
        return bool(self.accepted or self.started or self.retried or self.finished or self.attempts)

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
        for (automation, state), n in self.finished.items():
            name = _name(registry, automation)
            if n and name is not None:
                metrics.RUNS_FINISHED.labels(name, RunState.of(state).value).inc(n)
        metrics.ACCEPT_TO_START_SECONDS.observe_all(_seconds(self.waits))
        metrics.ATTEMPT_SECONDS.observe_all(_seconds(self.attempts))


def _name(registry: Registry, automation: int) -> str | None:
    """None for one of which nothing is left: its series are gone, and must not come back with its last Run."""
    known = registry.get(automation)
    return None if known is None or known.reaped else known.registration.id


def _seconds(micros: list[int]) -> list[float]:
    # another replica's clock may be a little ahead
    return [max(value, 0) / 1e6 for value in micros]


class RunGauges:
    """The gauge of Runs by Automation and state. Touches only what has changed since the last time."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[int, ...]] = {}

    def show(self, counts: Mapping[int, Counts], registrations: Mapping[int, Registration]) -> None:
        """Sets the gauge from the counts of the live Automations, and removes the series of the others."""
        shown: dict[str, tuple[int, ...]] = {}
        for key, registration in registrations.items():
            count = counts.get(key, Counts())
            numbers = (count.pending + count.retrying, count.held, count.queued, count.running)
            shown[registration.id] = numbers
            if self._shown.get(registration.id) != numbers:
                for state, n in zip(_STATES, numbers, strict=True):
                    metrics.RUNS.labels(registration.id, state).set(n)
        for gone in self._shown.keys() - shown.keys():
            metrics.RUNS.remove_by_labels({"automation": gone})
        self._shown = shown
