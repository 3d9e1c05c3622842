"""Every Prometheus metric of Maestro, in one registry.

Labels are bounded by what exists: names of controllers, states, reasons of a closed list; `automation` and `schedule`
by the objects in the cluster, whose series `forget_automation` and `forget_schedule` remove when the object is gone. No
label ever holds a Run's id, a parameter or a message.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

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


BUILD_INFO = _gauge("maestro_build_info", "1; the label is the version that runs.", "version")
LEADER = _gauge("maestro_leader", "1 while this process holds the Lease.")
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
WATCH_RESTARTS = _counter("maestro_kube_watch_restarts_total", "Watches begun anew, by why.", "kind", "why")
CACHE_OBJECTS = _gauge("maestro_kube_cache_objects", "Objects held in memory.", "kind")
CACHE_PRUNED = _counter("maestro_kube_cache_pruned_total", "Objects whose deletion only a list showed.", "kind")

# -- Runs
RUNS_ACCEPTED = _counter("maestro_runs_accepted_total", "Runs accepted.", "automation")
RUNS_STARTED = _counter("maestro_runs_started_total", "Attempts begun.", "automation")
RUNS_FINISHED = _counter(
    "maestro_runs_finished_total", "Runs ended, by state (Succeeded, Failed, Canceled).", "automation", "state"
)
RUNS_RETRIED = _counter("maestro_runs_retried_total", "Attempts that failed and are tried again.", "automation")
RUNS_REFUSED = _counter(
    "maestro_runs_refused_total", "Runs not accepted, by why (Backlog, InvalidParameters, Conflict).", "why"
)
RUNS = _gauge("maestro_runs", "Runs by state (waiting, held, queued, running).", "automation", "state")
DEAD_LETTERS = _counter("maestro_dead_letters_total", "Dead letters taken, by the broker's reason.", "reason")
ACCEPT_TO_START_SECONDS = _histogram(
    "maestro_run_accept_to_start_seconds", "From accepted to the first attempt's start.", buckets=_SLOW
)
ATTEMPT_SECONDS = _histogram("maestro_run_attempt_seconds", "From an attempt's start to its end.", buckets=_SLOW)
TICKS = _counter(
    "maestro_ticks_total",
    "Ticks by their record (Started, Skipped, Missed) and reason.",
    "schedule",
    "record",
    "reason",
)

# -- dispatcher, broker, store
DISPATCHED = _counter("maestro_dispatch_published_total", "Messages handed to the broker, by result.", "result")
DISPATCH_LAG_SECONDS = _gauge("maestro_dispatch_lag_seconds", "Age of the oldest Run that could go but hasn't.")
DISPATCH_UNCONFIRMED = _gauge("maestro_dispatch_unconfirmed", "Messages the broker hasn't confirmed yet.")
CONFIRM_SECONDS = _histogram("maestro_broker_confirm_seconds", "From publish to the broker's confirm.", buckets=_FAST)
COMMIT_SIZE = _histogram(
    "maestro_store_commit_items",
    "Items (accepts, reports) that shared one transaction.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500),
)
COMMIT_SECONDS = _histogram("maestro_store_commit_seconds", "How long a group commit takes.", buckets=_FAST)
REPORTS = _counter("maestro_worker_reports_total", "Reports of workers by operation and answer.", "op", "status")

# -- HTTP
HTTP_REQUESTS = _counter("maestro_http_requests_total", "Requests by route template.", "route", "method", "code")
HTTP_SECONDS = _histogram("maestro_http_request_seconds", "How long a request takes.", "route", buckets=_FAST)

_BY_AUTOMATION: tuple[Any, ...] = (RUNS_ACCEPTED, RUNS_STARTED, RUNS_FINISHED, RUNS_RETRIED, RUNS)
_BY_SCHEDULE: tuple[Any, ...] = (TICKS,)


def forget_automation(automation_id: str) -> None:
    """Remove the series of an Automation that is gone."""
    for metric in _BY_AUTOMATION:
        metric.remove_by_labels({"automation": automation_id})


def forget_schedule(schedule_id: str) -> None:
    """Remove the series of a Schedule that is gone."""
    for metric in _BY_SCHEDULE:
        metric.remove_by_labels({"schedule": schedule_id})


def exposition() -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
