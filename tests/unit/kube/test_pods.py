"""When something in a pod has ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from maestro.kube.pods import pod_end


def pod(
    phase: str = "Running", state: dict[str, Any] | None = None, last: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": "p", "uid": "u", "labels": {"l": "v"}},
        "status": {
            "phase": phase,
            "containerStatuses": [
                {"name": "sidecar", "state": {"terminated": {"containerID": "s", "exitCode": 0}}},
                {"name": "worker", "state": state or {"running": {}}, "lastState": last or {}},
            ],
        },
    }


def terminated(id_: str = "c1", code: int = 137) -> dict[str, Any]:
    return {
        "terminated": {
            "containerID": id_,
            "exitCode": code,
            "reason": "OOMKilled",
            "finishedAt": "2026-01-01T10:00:00Z",
        }
    }


def test_a_running_pod_has_not_ended() -> None:
    assert pod_end(None, pod()) is None
    assert pod_end(pod("Pending"), pod()) is None
    assert pod_end(None, None) is None


def test_a_deleted_pod_is_gone() -> None:
    end = pod_end(pod(), None)
    assert end is not None
    assert (end.uid, end.gone, end.at) == ("u", True, None)
    assert end.labels == {"l": "v"}


def test_a_pod_that_ended_is_told_once() -> None:
    over = pod("Failed", terminated())
    end = pod_end(pod(), over)
    assert end is not None
    assert (end.gone, end.reason, end.exit_code) == (True, "OOMKilled", 137)
    assert end.at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert pod_end(over, pod("Failed", terminated())) is None
    assert pod_end(over, None) is None


def test_a_container_that_ended_leaves_the_pod() -> None:
    ended = pod("Running", terminated())
    end = pod_end(pod(), ended)
    assert end is not None
    assert not end.gone
    assert pod_end(ended, pod("Running", None, terminated())) is None, "started anew: the same end"
    again = pod_end(pod("Running", None, terminated("c1")), pod("Running", None, terminated("c2")))
    assert again is not None
    assert again.exit_code == 137


def test_a_sidecar_does_not_count() -> None:
    assert pod_end(pod(), pod("Running")) is None


def test_an_evicted_pod_says_why() -> None:
    evicted = pod("Failed")
    evicted["status"]["reason"] = "Evicted"
    end = pod_end(pod(), evicted)
    assert end is not None
    assert (end.reason, end.exit_code) == ("Evicted", None)


def deleting(pod: dict[str, Any], *, by: str, grace: int = 30) -> dict[str, Any]:
    pod["metadata"] |= {"deletionTimestamp": by, "deletionGracePeriodSeconds": grace}
    return pod


class TestToldToStop:
    def test_a_pod_that_was_deleted_and_then_went(self) -> None:
        end = pod_end(deleting(pod(), by="2026-01-01T10:00:30Z"), None)
        assert end is not None
        assert end.told

    def test_one_that_was_killed_at_the_end_of_its_grace(self) -> None:
        killed = terminated()
        killed["terminated"]["reason"] = "Error"
        end = pod_end(pod(), deleting(pod("Failed", killed), by="2026-01-01T10:00:00Z"))
        assert end is not None
        assert end.told

    def test_not_one_that_ran_out_of_memory_meanwhile(self) -> None:
        end = pod_end(pod(), deleting(pod("Failed", terminated()), by="2026-01-01T10:00:00Z"))
        assert end is not None
        assert not end.told

    def test_not_one_that_had_ended_before(self) -> None:
        crashed = terminated()
        crashed["terminated"]["reason"] = "Error"
        end = pod_end(pod(), deleting(pod("Failed", crashed), by="2026-01-01T10:00:31Z"))
        assert end is not None
        assert not end.told

    def test_not_one_that_went_by_itself(self) -> None:
        end = pod_end(pod(), pod("Failed", terminated()))
        assert end is not None
        assert not end.told
