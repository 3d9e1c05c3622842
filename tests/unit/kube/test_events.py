"""The body of an Event."""

from __future__ import annotations

from datetime import UTC, datetime

from maestro.kube.events import NOTE_LIMIT, event_body

INVOLVED = {
    "apiVersion": "maestro-operator.io/v1alpha1",
    "kind": "Automation",
    "metadata": {"namespace": "ns", "name": "orders", "uid": "u", "resourceVersion": "7"},
}
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def test_it_names_the_object_and_the_time() -> None:
    body = event_body(INVOLVED, "Normal", "Ready", "all is well", "Reconcile", "maestro", NOW)
    assert body["metadata"]["namespace"] == "ns"
    assert body["metadata"]["name"].startswith("orders.")
    assert body["eventTime"] == "2026-01-02T03:04:05.000678Z"
    assert body["regarding"]["uid"] == "u"
    assert body["reportingController"] == "maestro"


def test_two_events_have_two_names() -> None:
    names = {event_body(INVOLVED, "Normal", "R", "m", "A", "maestro", NOW)["metadata"]["name"] for _ in range(100)}
    assert len(names) == 100


def test_long_texts_are_cut_by_bytes() -> None:
    note = event_body(INVOLVED, "Warning", "R" * 500, "ä" * 5000, "A", "maestro", NOW)["note"]
    assert len(note.encode()) <= NOTE_LIMIT
    assert note.endswith("ä…")


def test_a_cluster_wide_object_gets_its_events_in_default() -> None:
    involved = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}
    assert event_body(involved, "Normal", "R", "m", "A", "maestro", NOW)["metadata"]["namespace"] == "default"
