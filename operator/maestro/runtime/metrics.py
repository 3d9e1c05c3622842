"""Every Prometheus metric of Maestro, in one registry.

Labels are bounded by what exists: names of controllers, states, reasons of a closed list; `automation` by
what the run store remembers, which has `forget_automation` remove the series when nothing is left of one. No label ever
holds a Run's id, a parameter or a message.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=REGISTRY)


class BatchHistogram(Collector):
    """A histogram without labels that takes many values at once: one by one they cost ten times as much."""

    def __init__(self, name: str, text: str, *, buckets: Sequence[float]) -> None:
        self._name, self._text = name, text
        self._bounds = (*buckets, float("inf"))
        self._labels = (*(str(float(bound)) for bound in buckets), "+Inf")
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        self._lock = threading.Lock()
        REGISTRY.register(self)

    def observe_all(self, values: Sequence[float]) -> None:
        """Counts each value, in seconds."""
        if not values:
            return
        with self._lock:
            for value in values:
                self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += sum(values)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The histogram as it stands."""
        with self._lock:
            below, total = list(accumulate(self._counts)), self._sum
        buckets = [(label, float(n)) for label, n in zip(self._labels, below, strict=True)]
        return [HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=total)]


BUILD_INFO = _gauge("maestro_build_info", "1; the label is the version that runs.", "version")
LEADER = _gauge(
    "maestro_leader", "1 while this process does the controller's work: with all roles always, else once elected."
)
UP = _gauge("maestro_up", "1 while the dependency (broker, store, kube) answers.", "dependency")

# -- controllers
RECONCILES = _counter("maestro_reconcile_total", "Reconciles by how they ended (ok, error).", "controller", "result")
RECONCILE_SECONDS = _histogram(
    "maestro_reconcile_duration_seconds", "How long one reconcile takes.", "controller", buckets=_FAST
)
RECONCILES_RUNNING = _gauge("maestro_reconcile_running", "Reconciles under way.", "controller")
QUEUE_DEPTH = _gauge("maestro_workqueue_depth", "Keys that wait.", "queue")
QUEUE_DELAYED = _gauge("maestro_workqueue_delayed", "Keys whose time hasn't come.", "queue")
QUEUE_ADDS = _counter(
    "maestro_workqueue_adds_total", "Keys put on the queue; repeats of a waiting one count too.", "queue"
)
QUEUE_RETRIES = _counter("maestro_workqueue_retries_total", "Keys that come back after a failure.", "queue")
QUEUE_SECONDS = _histogram("maestro_workqueue_wait_seconds", "From due to taken.", "queue", buckets=_FAST)

# -- Kubernetes
KUBE_REQUESTS = _counter(
    "maestro_kube_requests_total", "Requests to the API server; code none: no answer.", "method", "code"
)
KUBE_EVENTS_DROPPED = _counter("maestro_kube_events_dropped_total", "Events that weren't sent.", "why")
NOTIFICATIONS = _counter("maestro_notifications_total", "Notifications, by what became of them.", "event", "result")
WATCH_RESTARTS = _counter("maestro_kube_watch_restarts_total", "Watches begun anew, by why.", "kind", "why")
CACHE_OBJECTS = _gauge("maestro_kube_cache_objects", "Objects held in memory.", "kind")
CACHE_PRUNED = _counter("maestro_kube_cache_pruned_total", "Objects whose deletion only a list showed.", "kind")

# -- Runs
RUNS_ACCEPTED = _counter("maestro_runs_accepted_total", "Runs accepted; what was told twice counts once.", "automation")
RUNS_STARTED = _counter("maestro_runs_started_total", "Attempts begun.", "automation")
RUNS_FINISHED = _counter(
    "maestro_runs_finished_total",
    "Runs ended, by state (Succeeded, Failed, Canceled) and reason (WorkerLost, Timeout, …).",
    "automation",
    "state",
    "reason",
)
RUNS_RETRIED = _counter("maestro_runs_retried_total", "Attempts that failed and are tried again.", "automation")
ATTEMPTS_LOST = _counter(
    "maestro_attempts_lost_total",
    "Attempts over without a word from their worker, by what showed it (lease, pod, job, restart, delivery).",
    "automation",
    "cause",
)
RUNS_REFUSED = _counter(
    "maestro_runs_refused_total", "Runs not accepted, by why (Backlog, InvalidParameters, Conflict).", "why"
)
RUNS = _gauge(
    "maestro_runs", "Runs by state (waiting, held, queued, running); told by the leader.", "automation", "state"
)
DEAD_LETTERS_RECORDED = _counter(
    "maestro_dead_letters_recorded_total",
    "Dead letters taken into the store, by why their queue gave them up; automation empty: of none.",
    "automation",
    "reason",
)
DEAD_LETTERS = _gauge(
    "maestro_dead_letters",
    "Dead letters that nobody has redriven or discarded; told by the leader; automation empty: of none.",
    "automation",
)
ACCEPT_TO_START_SECONDS = BatchHistogram(
    "maestro_run_accept_to_start_seconds", "From accepted to the first attempt's start.", buckets=_SLOW
)
ATTEMPT_SECONDS = BatchHistogram("maestro_run_attempt_seconds", "From an attempt's start to its end.", buckets=_SLOW)

# -- Reprocessings
REPROCESSING_PHASES = (
    *("Planning", "PendingApproval", "Approved", "Running", "RunningWithoutLock", "Stopped"),
    *("Finished", "Skipped", "Failure", "Canceled"),
)
REPROCESSINGS = _gauge("maestro_reprocessings", "Reprocessings that there are, by phase; told by the leader.", "phase")
REPROCESSING_DECISIONS = _counter(
    "maestro_reprocessing_decisions_total", "Decisions taken over, by which way they came.", "decision", "via"
)
REPLAYED_RUNS = Counter("maestro_replayed_runs_total", "Replayed Runs that have ended.", registry=REGISTRY)
GATEWAYS_SHUT = Gauge(
    "maestro_gateways_shut", "Solutions whose gateway is shut; told by the leader.", registry=REGISTRY
)
# -- Schedules
TICKS = _counter(
    "maestro_schedule_ticks_total", "Ticks by what became of them, and why.", "schedule", "outcome", "reason"
)
TICK_LATE_SECONDS = _histogram(
    "maestro_schedule_lateness_seconds",
    "From a tick (and its jitter) until its Run was accepted.",
    "schedule",
    buckets=(0.1, 1.0, 5.0, 30.0, 300.0, 3600.0),
)
NEXT_TICK = _gauge("maestro_schedule_next_tick_timestamp_seconds", "The next tick, as a Unix time.", "schedule")
SCHEDULES_ARMED = _gauge("maestro_schedules_armed", "Schedules whose next tick is waited for.")

# -- dispatcher, broker, store
DISPATCHED = _counter("maestro_dispatch_published_total", "Messages handed to the broker, by result.", "result")
REPUBLISHED = _counter(
    "maestro_dispatch_republished_total",
    "Queued Runs published again, by why (overtaken, canary, lost: their queue was declared anew).",
    "why",
)
DISPATCH_LAG_SECONDS = _gauge(
    "maestro_dispatch_lag_seconds",
    "How long some Automation has had Runs that could go: the longest of all; 0: none has.",
)
DISPATCH_UNCONFIRMED = _gauge(
    "maestro_dispatch_unconfirmed", "Publications that aren't settled: messages not confirmed, Jobs being made."
)
CONFIRM_SECONDS = _histogram("maestro_broker_confirm_seconds", "From publish to the broker's confirm.", buckets=_FAST)
COMMIT_SIZE = _histogram(
    "maestro_store_commit_items",
    "Runs accepted and reports that shared one transaction.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500),
)
COMMIT_SECONDS = _histogram(
    "maestro_store_commit_seconds", "From a transaction's begin until it is durable.", buckets=_FAST
)
STORE_RESTORED = _counter(
    "maestro_store_restored_total", "Times that the store was found older than the broker's messages: a backup of it."
)
UNKNOWN_RUNS = _gauge(
    "maestro_unknown_runs", "Runs that workers speak of and a restored store doesn't know; told by the leader."
)
REPORTS = _counter("maestro_worker_reports_total", "Reports of workers by operation and answer.", "op", "status")

# -- HTTP
HTTP_REQUESTS = _counter("maestro_http_requests_total", "Requests by route template.", "route", "method", "code")
HTTP_SECONDS = _histogram("maestro_http_request_seconds", "How long a request takes.", "route", buckets=_FAST)

_BY_AUTOMATION: tuple[Any, ...] = (
    RUNS_ACCEPTED,
    RUNS_STARTED,
    RUNS_FINISHED,
    RUNS_RETRIED,
    ATTEMPTS_LOST,
    RUNS,
    DEAD_LETTERS_RECORDED,
    DEAD_LETTERS,
)


def forget_automation(automation_id: str) -> None:
    """Remove the series of an Automation of which nothing is left."""
    for metric in _BY_AUTOMATION:
        metric.remove_by_labels({"automation": automation_id})


def forget_schedule(schedule_id: str) -> None:
    """Remove the series of a Schedule that is gone."""
    for metric in (TICKS, TICK_LATE_SECONDS, NEXT_TICK):
        metric.remove_by_labels({"schedule": schedule_id})


def exposition() -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
