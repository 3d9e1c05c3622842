"""How Jobs end, and Jobs that never will."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.workload.states import terminated, waiting

from maestro.workload.jobend import job_end, stuck

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def _job(*conditions: tuple[str, str], **status: Any) -> dict[str, Any]:
    listed = [{"type": type_, "status": "True", "reason": reason} for type_, reason in conditions]
    return {"status": {"conditions": listed, **status}}


def _pod(state: dict[str, Any], *, init: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    inits = [{"name": "maestro-parameters", "state": init}] if init else []
    return {
        "status": {
            "containerStatuses": [{"name": "worker", "state": state}],
            "initContainerStatuses": inits,
            "startTime": "2030-01-01T00:00:00Z",
            **status,
        }
    }


FAILED = _job(("Failed", "BackoffLimitExceeded"))


@pytest.mark.parametrize(
    ("job", "pod", "expected"),
    [
        (_job(), None, None),
        (_job(("Suspended", "")), _pod({"running": {}}), None),
        (_job(("Complete", "CompletionsReached")), _pod(terminated(0, "Completed")), (True, "Completed", 0)),
        (_job(("Complete", "CompletionsReached")), None, (True, "Completed", 0)),
        (FAILED, _pod(terminated(3, "Error")), (False, "Error", 3)),
        (FAILED, _pod(terminated(137, "OOMKilled")), (False, "OOMKilled", 137)),
        (FAILED, _pod({}, reason="Evicted", message="The node was low on memory"), (False, "Evicted", None)),
        (FAILED, _pod({}, init=terminated(1, "Error")), (False, "PodFailed", None)),
        (FAILED, None, (False, "PodFailed", None)),
        (_job(("Failed", "DeadlineExceeded")), _pod(terminated(143, "Error")), (False, "DeadlineExceeded", 143)),
    ],
)
def test_job_end(
    job: dict[str, Any], pod: dict[str, Any] | None, expected: tuple[bool, str, int | None] | None
) -> None:
    end = job_end(job, pod)
    assert (None if end is None else (end.succeeded, end.reason, end.exit_code)) == expected


def test_what_is_told_of_an_end() -> None:
    end = job_end(FAILED, _pod(terminated(2, "Error", message="no disk")))
    assert end is not None
    told = end.with_log("line 1\nline 2\n")
    assert told.message() == "Error, exit code 2: no disk\nline 1\nline 2"
    assert told.result() == {"exitCode": 2, "reason": "Error", "log": "line 1\nline 2"}
    assert len(end.with_log("x" * 100_000).log) == 8000
    init = job_end(FAILED, _pod({}, init=terminated(1, "Error")))
    assert init is not None
    assert "maestro-parameters ended with exit code 1" in init.message()


@pytest.mark.parametrize(
    ("pod", "job", "minutes", "expected"),
    [
        (_pod(waiting("ContainerCreating")), {}, 60, None),
        (_pod(waiting("ImagePullBackOff")), {}, 1, None),
        (_pod(waiting("ImagePullBackOff")), {}, 2, "ImagePullBackOff"),
        (_pod(waiting("ErrImagePull")), {}, 2, "ImagePullBackOff"),
        (_pod({}, init=waiting("CreateContainerConfigError")), {}, 2, "CreateContainerConfigError"),
        (_pod(waiting("InvalidImageName")), {}, 0, "InvalidImageName"),
        (None, _job(startTime="2030-01-01T00:00:00Z"), 4, None),
        (None, _job(startTime="2030-01-01T00:00:00Z"), 5, "NoPod"),
        (None, _job(startTime="2030-01-01T00:00:00Z", active=1), 60, None),
        (None, _job(), 60, None),
    ],
)
def test_stuck(pod: dict[str, Any] | None, job: dict[str, Any], minutes: int, expected: str | None) -> None:
    end = stuck(job, pod, NOW + timedelta(minutes=minutes))
    assert (end.reason if end is not None else None) == expected
