"""The alerts and the documentation name metrics that exist, with labels that they have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

# Each import registers what its module measures.
import maestro.app  # noqa: F401
from maestro.runtime.metrics import REGISTRY

ROOT = Path(__file__).resolve().parents[3]
SUFFIXES = ("_total", "_bucket", "_sum", "_count", "")


def metrics() -> dict[str, Metric]:
    """By name as Prometheus knows it, without a histogram's suffix."""
    return {
        metric.name + ("_total" if metric.type == "counter" else ""): metric
        for metric in REGISTRY.collect()
        if metric.name.startswith("maestro_")
    }


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load((ROOT / "manifests/monitoring/alerts.yaml").read_text())
    return [rule for group in found["spec"]["groups"] for rule in group["rules"]]


def labels_of(name: str) -> set[str]:
    # a histogram of many values at once registers no name, and has no labels
    return set(getattr(REGISTRY._names_to_collectors.get(name), "_labelnames", ()))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_names_metrics_and_labels_that_exist(rule: dict[str, Any]) -> None:
    known = metrics()
    used = re.findall(r"(maestro_\w+)(\{[^}]*\})?", rule["expr"])
    assert used
    for name, selector in used:
        base = name.removesuffix("_bucket")
        assert base in known, name
        assert name == base or known[base].type == "histogram", name
        assert set(re.findall(r"(\w+)=", selector)) <= labels_of(base)
        for by in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(by.split(", ")) - {"le"} <= labels_of(base), by
    assert {"summary", "description"} == set(rule["annotations"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_documentation_lists_every_metric_and_no_other() -> None:
    section = (ROOT / "docs/operations.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = {f"maestro_{name}" for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed == set(metrics())
