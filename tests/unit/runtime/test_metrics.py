"""The metrics as a whole."""

from __future__ import annotations

from maestro.runtime.metrics import REGISTRY

BOUNDED = {
    "version", "dependency", "controller", "result", "queue", "method", "code", "why", "kind", "automation", "state",
    "op", "status", "route", "reason", "cause", "phase", "decision", "via", "schedule", "outcome", "event",
}  # fmt: skip


def test_every_metric_is_ours_or_the_process_and_labelled_by_something_bounded() -> None:
    for metric in REGISTRY.collect():
        assert metric.name.startswith(("maestro_", "process_", "python_"))
        assert metric.documentation
        for sample in metric.samples:
            if metric.name.startswith("maestro_"):
                assert set(sample.labels) - {"le"} <= BOUNDED
