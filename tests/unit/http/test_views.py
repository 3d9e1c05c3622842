"""What of a Run's attempts is shown: whose they were, and what a Job's container ended with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from maestro.http.directory import Directory
from maestro.http.gateway import OpenGateway
from maestro.http.views import RunViews
from maestro.runs.model import AttemptView, RunState, RunView
from maestro.runs.store import RunStore

AT = datetime(2030, 1, 1, tzinfo=UTC)
POD = "942a80e3-1111-4222-8333-444455556666"


class NoRegistrations:
    """A store that knows no Automation, so that no parameters are shown."""

    def registration(self, automation: int) -> None:
        return None


def attempts(holder: str, result: Any) -> list[dict[str, Any]]:
    """The attempts of a Run that failed in its second one, whose holder is given."""
    first = AttemptView(1, "job/before", AT, AT, "technical", "Error")
    last = AttemptView(2, holder, AT, AT, "failed", "Error")
    run = RunView(
        id=UUID(int=1), seq=1, automation=1, automation_id="team.video", solution_id="team.team",
        state=RunState.FAILED, reason="Error", message=None, error_class=None, parameters={}, result=result,
        attempt=2, max_attempts=3, accepted_at=AT, queued_at=AT, started_at=AT, ended_at=AT, due_at=None,
        expires_at=None, cancel_requested_at=None, last_heartbeat_at=None, holder=holder, priority=0,
        fairness_key=None, user=None, labels={}, reference=None, schedule=None, tick=None, copy_of=None,
        replay_of=None, attempts=(first, last),
    )  # fmt: skip
    views = RunViews(cast(RunStore, NoRegistrations()), cast(Directory, None), OpenGateway())
    shown: list[dict[str, Any]] = views.run(run)["attempts"]
    return shown


@pytest.mark.parametrize(
    ("holder", "result", "pod", "code"),
    [
        (POD, {"exitCode": 3, "reason": "Error"}, POD, 3),
        (POD, {"exitCode": 0}, POD, 0),
        ("job/uid-of-the-job", {"exitCode": 3}, None, 3),
        (POD, {"reason": "DeadlineExceeded"}, POD, None),
        (POD, {"exitCode": "3"}, POD, None),
        (POD, None, POD, None),
        # a worker of a queue wrote that result itself
        (f"{POD}/process", {"exitCode": 3}, POD, None),
    ],
)
def test_the_last_attempt_of_a_job_shows_its_exit_code(holder: str, result: Any, pod: str | None, code: int) -> None:
    first, last = attempts(holder, result)
    assert (last["pod"], last["worker"], last["exitCode"]) == (pod, holder, code)
    assert first["exitCode"] is None
