"""An SDK worker that works on one Run, as a Kubernetes Job would start it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.integration.sdk.conftest import World
from tests.workers.processes import until


@pytest.mark.parametrize(
    ("how", "code", "state"), [("well", 0, "Succeeded"), ("business", 3, "Failed"), ("technical", 1, "Retrying")]
)
def test_exit_code_and_end(make_world: Callable[..., World], how: str, code: int, state: str) -> None:
    world = make_world(backoff_initial=60.0, backoff_max=60.0)
    [job] = world.maestro.submit(world.automation, [{"how": how}])
    until(lambda: world.maestro.run(job)["state"] == "Queued", "it is due")
    first = world.worker("first", "ends", ready=False, MAESTRO_RUN_ID=job, MAESTRO_ATTEMPT="1")
    assert first.wait() == code
    assert world.maestro.run(job)["state"] == state
    # the pod of a Job that was already done: an ended Run leaves nothing to do, one that waits isn't its business
    second = world.worker("second", "ends", ready=False, MAESTRO_RUN_ID=job)
    assert second.wait() == (1 if state == "Retrying" else 0)
    assert world.maestro.run(job)["state"] == state


def test_a_canceled_run(world: World) -> None:
    [job] = world.submit(1, seconds=60.0)
    until(lambda: world.maestro.run(job)["state"] == "Queued", "it is due")
    worker = world.worker("job", ready=False, MAESTRO_RUN_ID=job)
    world.wait_for_marks("began", 1)
    world.maestro.call("POST", f"/jobs/{job}/cancel")
    assert worker.wait() == 4
    assert world.maestro.run(job)["state"] == "Canceled"


def test_sigterm_hands_the_run_back(make_world: Callable[..., World]) -> None:
    world = make_world(max_attempts=1)
    [job] = world.submit(1, seconds=60.0)
    until(lambda: world.maestro.run(job)["state"] == "Queued", "it is due")
    worker = world.worker("job", ready=False, drain_timeout=0.2, MAESTRO_RUN_ID=job)
    world.wait_for_marks("began", 1)
    worker.signal()
    assert worker.wait() == 1
    until(lambda: world.maestro.run(job)["state"] in ("Pending", "Queued"), "it waits again")


def test_a_wrong_parameters_file_is_a_usage_error(world: World) -> None:
    file = world.folder / "parameters.json"
    file.write_text("nonsense")
    worker = world.worker("job", ready=False, MAESTRO_RUN_ID="x", MAESTRO_PARAMETERS_FILE=str(file))
    assert worker.wait() == 2
    assert "isn't JSON" in worker.text()
    file.write_text(json.dumps({"how": "well"}))
    worker = world.worker("unknown", ready=False, MAESTRO_RUN_ID="x", MAESTRO_PARAMETERS_FILE=str(file))
    assert worker.wait() == 1, "no such Run"
