"""Which changes wake whom."""

from __future__ import annotations

from typing import Any

import pytest

from maestro.kube.filters import wakes_owner, wakes_primary

PRIMARY: dict[str, Any] = {
    "metadata": {
        "uid": "u1",
        "generation": 3,
        "resourceVersion": "10",
        "annotations": {"a": "1"},
        "labels": {"l": "1"},
    },
    "spec": {"x": 1},
    "status": {"phase": "Ready"},
}

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"uid": "u1", "generation": 1, "resourceVersion": "10", "labels": {"l": "1"}, "managedFields": [{}]},
    "spec": {"replicas": 1},
    "status": {"readyReplicas": 0},
}


def changed(obj: dict[str, Any], metadata: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": "11", **(metadata or {})}, **parts}


@pytest.mark.parametrize(
    "new",
    [
        changed(PRIMARY, {"generation": 4}, spec={"x": 2}),
        changed(PRIMARY, {"annotations": {"a": "2"}}),
        changed(PRIMARY, {"annotations": {}}),
        changed(PRIMARY, {"labels": {"l": "2"}}),
        changed(PRIMARY, {"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        changed(PRIMARY, {"uid": "u2"}),
        None,
    ],
)
def test_a_resource_wakes_its_reconciler(new: dict[str, Any] | None) -> None:
    assert wakes_primary(PRIMARY, new)
    assert wakes_primary(None, PRIMARY)


@pytest.mark.parametrize(
    "new",
    [
        PRIMARY,
        changed(PRIMARY, status={"phase": "Failed"}),
        changed(PRIMARY, {"managedFields": [{}]}),
        changed(PRIMARY, {"finalizers": []}),
    ],
)
def test_a_mere_status_wakes_nobody(new: dict[str, Any]) -> None:
    assert not wakes_primary(PRIMARY, new)


def test_no_annotations_and_none_at_all_are_the_same() -> None:
    bare = changed(PRIMARY, {"annotations": None})
    assert not wakes_primary(bare, changed(PRIMARY, {"annotations": {}}))


def test_what_never_was_wakes_nobody() -> None:
    assert not wakes_primary(None, None)
    assert not wakes_owner(None, None)


@pytest.mark.parametrize(
    "new",
    [
        changed(DEPLOYMENT, {"generation": 2}, spec={"replicas": 5}),
        changed(DEPLOYMENT, status={"readyReplicas": 1}),
        changed(DEPLOYMENT, {"labels": {}}),
        changed(DEPLOYMENT, {"ownerReferences": [{"uid": "o"}]}),
        changed(DEPLOYMENT, {"uid": "u2"}),
        None,
    ],
)
def test_a_child_wakes_its_owner(new: dict[str, Any] | None) -> None:
    assert wakes_owner(DEPLOYMENT, new)
    assert wakes_owner(None, DEPLOYMENT)


@pytest.mark.parametrize(
    "new",
    [
        changed(DEPLOYMENT),
        changed(DEPLOYMENT, {"generation": 2, "managedFields": [{"manager": "x"}]}),
        changed(DEPLOYMENT, {"annotations": {}}),
        {key: value for key, value in DEPLOYMENT.items() if key not in ("apiVersion", "kind")},
    ],
)
def test_bookkeeping_wakes_nobody(new: dict[str, Any]) -> None:
    assert not wakes_owner(DEPLOYMENT, new)
