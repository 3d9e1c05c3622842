"""The engine, with an API and a queue in memory."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from tests.unit.sdk.world import World, answer, until

from maestro_worker import BusinessError, Canceled, NothingToDo, Run, current_run, wire, worker
from maestro_worker.wire import Answer


class Gate:
    """A function that waits inside until it is let go."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.open = threading.Event()
        self.seen: list[str] = []

        @worker
        def wait(run: Run) -> str:
            self.inside.append(run.id)
            while not self.open.wait(0.002):
                try:
                    run.progress()
                except Canceled as error:
                    self.seen.append(type(error).__name__)
                    raise
            return "done"

        self.worker = wait


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.open.set()


@worker
def double(number: int) -> int:
    return 2 * number


def test_a_run_is_started_done_reported_and_only_then_acknowledged() -> None:
    with World(double) as world:
        world.run("a", number=21)
        until(lambda: world.transport.done)
        start, finish = world.api.items
    assert start == {
        "op": "start",
        "job": "a",
        "worker": "pod/process",
        "redelivered": False,
        "pub": 1,
        "epoch": 1,
        "store": "store",
    }
    assert finish == {
        "op": "finish",
        "job": "a",
        "attempt": 1,
        "worker": "pod/process",
        "status": "completed",
        "result": 42,
    }
    assert world.transport.done == [(1, 1)]
    assert world.complete


def test_the_message_is_not_acknowledged_before_the_finish_was_answered() -> None:
    ended = threading.Event()

    @worker
    def work() -> None:
        world.api.gate.clear()
        ended.set()

    with World(work) as world:
        world.run("a")
        assert ended.wait(10)
        until(lambda: not world.engine._running)
        assert world.transport.done == []
        world.api.gate.set()
        until(lambda: world.transport.done == [(1, 1)])


def test_reports_that_gather_during_a_request_travel_together() -> None:
    with World(double, concurrency=100) as world:
        world.api.gate.clear()
        for number in range(100):
            world.run(f"run-{number}", number=number)
        world.api.gate.set()
        until(lambda: len(world.transport.done) == 100)
    assert len(world.api.items) == 200
    assert len(world.api.requests) < 50
    assert sum(item["result"] for item in world.api.said("finish")) == 2 * sum(range(100))


def test_never_more_functions_than_the_concurrency(gate: Gate) -> None:
    with World(gate.worker, concurrency=2) as world:
        for number in range(5):
            world.run(f"run-{number}")
        until(lambda: len(gate.inside) == 2)
        world.api.canceling.add("nobody")
        until(lambda: len(world.api.said("progress")) > 2)
        assert len(world.api.said("start")) == 2
        assert gate.inside == ["run-0", "run-1"]
        gate.open.set()
        until(lambda: len(world.transport.done) == 5)


def test_async_functions_share_one_loop() -> None:
    together = 0
    most = 0

    @worker
    async def work(run: Run) -> str:
        nonlocal together, most
        together += 1
        most = max(most, together)
        while most < 3:
            await asyncio.sleep(0.001)
        together -= 1
        assert current_run() is run
        return run.id

    with World(work, concurrency=3) as world:
        for job in "abc":
            world.run(job)
        until(lambda: len(world.transport.done) == 3)
    assert {item["result"] for item in world.api.said("finish")} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BusinessError("EMPTY_VIDEO", "no frames"), {"status": "failed", "kind": "business", "message": "no frames"}),
        (ValueError("broken"), {"status": "failed", "kind": "technical", "error_class": "ValueError"}),
        (NothingToDo("none"), {"status": "completed_no_invoices"}),
        (Canceled(), {"status": "canceled"}),
        (KeyboardInterrupt(), {"status": "failed", "kind": "technical", "error_class": "KeyboardInterrupt"}),
    ],
)
def test_ends(error: BaseException, expected: dict[str, str]) -> None:
    @worker
    def work() -> None:
        raise error

    with World(work) as world:
        world.run("a")
        until(lambda: world.transport.done)
    finish = world.api.said("finish")[0]
    assert {key: finish[key] for key in expected} == expected


def test_wrong_parameters_are_a_business_failure_that_names_the_path() -> None:
    with World(double) as world:
        world.run("a", number="hunter2", other=1)
        until(lambda: world.transport.done)
    finish = world.api.said("finish")[0]
    assert (finish["kind"], finish["error_class"]) == ("business", "INVALID_PARAMETERS")
    assert "/number: " in finish["message"]
    assert "/other: " in finish["message"]
    assert "hunter2" not in str(finish)


def test_logs_come_before_the_end_and_hold_the_trace() -> None:
    @worker
    def work(run: Run) -> None:
        run.log("first")
        run.log("second", "WARNING")
        raise RuntimeError("broken")

    with World(work) as world:
        world.run("a")
        until(lambda: world.transport.done)
    lines = [line for item in world.api.said("log") for line in item["lines"]]
    assert [(line["level"], line["message"]) for line in lines[:2]] == [("INFO", "first"), ("WARNING", "second")]
    assert "RuntimeError: broken" in lines[2]["message"]
    assert [item["op"] for item in world.api.items][-1] == "finish"


def test_the_sdks_own_log_holds_no_parameter_and_no_message(caplog: pytest.LogCaptureFixture) -> None:
    @worker
    def work(password: str) -> None:
        raise RuntimeError(f"can't log in with {password}")

    with caplog.at_level(logging.DEBUG), World(work) as world:
        world.run("a", password="hunter2")
        until(lambda: world.transport.done)
    assert "Run a attempt 1 failed: RuntimeError (technical)" in caplog.text
    assert "hunter2" not in caplog.text


def test_only_the_latest_progress_is_sent() -> None:
    @worker
    def work(run: Run) -> None:
        world.api.gate.clear()
        for number in range(1000):
            run.progress(number, 1000)
        world.api.gate.set()

    with World(work) as world:
        world.run("a")
        until(lambda: world.transport.done)
    reports = world.api.said("progress")
    assert len(reports) <= 2
    assert reports[-1]["done"] == 999


def test_heartbeats_while_the_function_is_silent() -> None:
    heard = threading.Event()

    @worker
    def silent() -> None:
        assert heard.wait(10)

    with World(silent) as world:
        world.api.heartbeat_timeout = 0.06
        world.run("a")
        until(lambda: len(world.api.said("progress")) >= 3)
        heard.set()
        until(lambda: world.transport.done)
    assert world.api.said("progress")[0] == {"op": "progress", "job": "a", "attempt": 1, "worker": "pod/process"}


@pytest.mark.parametrize("reason", ["running", "ended", "notDue"])
def test_a_refused_start_is_acknowledged_without_work(reason: str) -> None:
    with World(double) as world:
        world.api.answers.append(("start", answer(409, reason)))
        world.run("a", number=1)
        until(lambda: world.transport.done == [(1, 1)])
        assert world.ends == [("a", reason)]
        world.run("b", number=1)
        until(lambda: len(world.transport.done) == 2)
    assert [item["job"] for item in world.api.said("finish")] == ["b"]


@pytest.mark.parametrize(
    "refusal", [answer(404, "UnknownRun"), answer(403, "NotYourRun"), answer(422, "InvalidReport")]
)
def test_a_run_that_is_unknown_or_not_ours_is_rejected(refusal: Answer) -> None:
    with World(double) as world:
        world.api.answers.append(("start", refusal))
        world.run("a", number=1)
        until(lambda: world.transport.rejected == [(1, 1)])
        assert world.transport.done == []


def test_cancellation_reaches_the_function(gate: Gate) -> None:
    with World(gate.worker) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.api.canceling.add("a")
        until(lambda: world.transport.done)
    assert gate.seen == ["Canceled"]
    assert world.api.said("finish")[0]["status"] == "canceled"


def test_a_run_that_was_canceled_before_it_started_hears_of_it_at_once(gate: Gate) -> None:
    with World(gate.worker) as world:
        world.api.canceling.add("a")
        world.run("a")
        until(lambda: world.transport.done)
    assert world.api.said("finish")[0]["status"] == "canceled"


def test_the_result_of_a_fenced_attempt_is_dropped(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with World(gate.worker) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.api.fenced.add("a")
        until(lambda: world.transport.done)
    assert gate.seen == ["Fenced"]
    assert world.api.said("finish") == []
    assert "its result is dropped" in caplog.text


def test_a_finish_that_comes_too_late_is_said_and_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    with World(double) as world:
        world.api.answers.append(("finish", answer(409, "fenced")))
        world.run("a", number=1)
        until(lambda: world.transport.done)
    assert "Run a: its result is dropped: 409 fenced" in caplog.text


def test_while_the_api_is_away_messages_are_held_and_nothing_is_lost() -> None:
    with World(double) as world:
        world.api.away = True
        for number in range(3):
            world.run(f"run-{number}", number=number)
        until(lambda: world.engine._away_since is not None)
        assert world.transport.done == world.transport.rejected == []
        world.api.away = False
        until(lambda: len(world.transport.done) == 3)
    assert len(world.api.said("finish")) == 3


def test_a_lost_answer_is_asked_for_again_with_the_same_items() -> None:
    done: list[int] = []

    @worker
    def once(number: int) -> None:
        done.append(number)

    with World(once) as world:
        world.api.loses_answers = 1
        world.run("a", number=1)
        until(lambda: len(world.api.said("start", "a")) == 2)
        world.api.loses_answers = 1
        until(lambda: world.transport.done)
    assert done == [1]
    assert world.api.said("start")[0] == world.api.said("start")[1]


@pytest.mark.parametrize("op", ["start", "finish", "log"])
def test_an_item_that_the_store_could_not_take_is_said_again(op: str) -> None:
    @worker
    def work(run: Run) -> None:
        run.log("hello")

    with World(work) as world:
        world.api.answers.append((op, answer(503, "StoreUnavailable")))
        world.run("a")
        until(lambda: world.transport.done)
        until(lambda: len(world.api.said(op)) == 2)


def test_a_result_that_the_api_refuses_becomes_a_failure() -> None:
    with World(double) as world:
        world.api.answers.append(("finish", answer(422, "InvalidReport", "result: too deep")))
        world.run("a", number=1)
        until(lambda: world.transport.done)
    first, second = world.api.said("finish")
    assert first["status"] == "completed"
    assert (second["status"], second["error_class"], second["message"]) == (
        "failed",
        "InvalidResult",
        "result: too deep",
    )


# -- the connection to the broker ------------------------------------------------------------------------------------


def test_a_redelivered_copy_of_the_run_in_hand_is_adopted(gate: Gate) -> None:
    with World(gate.worker) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.lose_connection(1)
        tag = world.deliver("a", connection=2, redelivered=True)
        gate.open.set()
        until(lambda: world.transport.done)
    assert gate.inside == ["a"]
    assert len(world.api.said("start")) == 1
    assert world.transport.done == [(2, tag)]


def test_a_double_on_the_same_connection_is_acknowledged_at_once(gate: Gate) -> None:
    with World(gate.worker) as world:
        world.run("a")
        until(lambda: gate.inside)
        double = world.deliver("a")
        until(lambda: world.transport.done == [(1, double)])
        gate.open.set()
        until(lambda: len(world.transport.done) == 2)
    assert gate.inside == ["a"]


def test_a_later_publication_waits_for_the_attempt_in_hand(gate: Gate) -> None:
    with World(gate.worker) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.deliver("a", pub=7)
        world.run("b")
        until(lambda: len(gate.inside) == 2)
        assert [item["job"] for item in world.api.said("start")] == ["a", "b"]
        gate.open.set()
        until(lambda: len(world.transport.done) == 3)
    assert [item.get("pub") for item in world.api.said("start", "a")] == [1, 7]
    assert gate.inside == ["a", "b"]
    assert ("a", "ended") in world.ends


def test_two_copies_that_wait_together_run_once() -> None:
    done: list[str] = []

    @worker
    def once(run: Run) -> None:
        done.append(run.id)

    with World(once) as world:
        world.api.away = True
        world.run("b")
        until(lambda: world.engine._away_since is not None)
        world.run("a")
        world.deliver("a")
        world.deliver("a", pub=2)
        world.api.away = False
        until(lambda: len(world.transport.done) == 4)
    assert sorted(done) == ["a", "b"]


def test_messages_of_a_lost_connection_that_were_not_begun_are_forgotten(gate: Gate) -> None:
    with World(gate.worker, concurrency=1) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.run("b")
        world.lose_connection(1)
        tag = world.deliver("b", connection=2, redelivered=True)
        gate.open.set()
        until(lambda: (2, tag) in world.transport.done)
    assert len(world.api.said("start", "b")) == 1
    assert world.api.said("start", "b")[0]["redelivered"] is True


# -- the end ---------------------------------------------------------------------------------------------------------


def test_stopping_finishes_what_runs_and_gives_back_the_rest(gate: Gate) -> None:
    with World(gate.worker, concurrency=1) as world:
        for job in "abc":
            world.run(job)
        until(lambda: gate.inside)
        world.stop()
        until(lambda: world.transport.returned is not None)
        assert sorted(world.transport.returned or []) == ["b", "c"]
        world.run("late")
        until(lambda: "late" in (world.transport.returned or []))
        assert not world.joined()
        gate.open.set()
        until(world.joined)
    assert world.complete
    assert [item["status"] for item in world.api.said("finish")] == ["completed"]
    assert world.transport.done == [(1, 1)]
    assert gate.inside == ["a"]


def test_past_the_drain_time_functions_are_interrupted_and_their_runs_released(gate: Gate) -> None:
    with World(gate.worker, drain_timeout=0.0) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.stop()
        until(world.joined)
    assert gate.seen == ["Canceled"]
    assert world.api.said("finish") == []
    assert len(world.api.said("release", "a")) == 1
    assert world.api.states["a"] == "Pending"
    assert world.transport.done == [(1, 1)]


def test_a_function_that_does_not_listen_is_handed_back_all_the_same() -> None:
    release = threading.Event()
    inside = threading.Event()

    @worker
    def deaf() -> None:
        inside.set()
        assert release.wait(10)

    with World(deaf, drain_timeout=0.0) as world:
        world.run("a")
        assert inside.wait(10)
        world.stop()
        until(world.joined)
    release.set()
    assert world.complete
    assert world.api.states["a"] == "Pending"
    assert world.api.said("finish") == []


def test_a_second_stop_does_not_wait(gate: Gate) -> None:
    with World(gate.worker, drain_timeout=600.0) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.stop()
        world.stop()
        until(world.joined)
    assert world.api.states["a"] == "Pending"


def test_a_start_that_is_answered_after_the_stop_is_released(gate: Gate) -> None:
    with World(gate.worker) as world:
        world.api.gate.clear()
        world.run("a")
        until(lambda: world.engine._request)
        world.stop()
        world.api.gate.set()
        until(world.joined)
    assert gate.inside == []
    assert world.api.states["a"] == "Pending"


def test_a_cancel_during_the_drain_is_still_a_cancel(gate: Gate) -> None:
    with World(gate.worker, drain_timeout=600.0) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.stop()
        world.api.canceling.add("a")
        until(world.joined)
    assert world.api.said("finish")[0]["status"] == "canceled"


def test_what_cannot_be_reported_before_the_end_is_said(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with World(gate.worker, drain_timeout=0.0) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.api.away = True
        world.stop()
        until(world.joined, patience=15.0)
    assert world.complete is False
    assert "1 Runs could not be reported" in caplog.text


# -- a Run that has to be alone ----------------------------------------------------------------------------------------


def test_a_run_that_must_be_alone_waits_for_what_is_in_hand_and_takes_nothing_beside_it(gate: Gate) -> None:
    with World(gate.worker, concurrency=3) as world:
        world.run("a")
        until(lambda: gate.inside == ["a"])
        world.api.answers.append(("start", answer(429, "alone")))
        world.run("suspect")
        until(lambda: world.transport.limits[-1:] == [0])
        world.run("b")
        until(lambda: world.transport.returned == ["b"])
        world.api.answers.append(("start", answer(200, attempt=2, parameters={}, alone=True)))
        gate.open.set()
        until(lambda: len(world.transport.done) == 2)
        until(lambda: world.transport.limits[-1:] == [3])
    assert [item["job"] for item in world.api.said("start")] == ["a", "suspect", "suspect"]
    assert [item["job"] for item in world.api.said("finish")] == ["a", "suspect"]


def test_while_a_run_is_alone_nothing_else_is_begun(gate: Gate) -> None:
    with World(gate.worker, concurrency=3) as world:
        world.api.gate.clear()
        world.api.answers.append(("start", answer(200, attempt=2, parameters={}, alone=True)))
        world.run("suspect")
        until(lambda: world.engine._request)
        world.run("b")
        world.api.gate.set()
        until(lambda: gate.inside == ["suspect"])
        until(lambda: world.transport.returned == ["b"])
        world.api.states["b"] = "Queued"
        gate.open.set()
        until(lambda: world.transport.limits[-1:] == [3])
        world.deliver("b")
        until(lambda: len(world.transport.done) == 2)
    assert gate.inside == ["suspect", "b"]


def test_what_is_barred_by_another_process_of_the_pod_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maestro_worker.engine.ASK_AGAIN", 0.01)
    with World(double) as world:
        world.api.answers += [("start", answer(429, "barred")), ("start", answer(429, "barred"))]
        world.run("a", number=1)
        until(lambda: world.transport.done)
    assert len(world.api.said("start")) == 3


@pytest.mark.parametrize("reason", ["alone", "barred"])
def test_a_start_that_waits_goes_back_at_a_stop(gate: Gate, reason: str) -> None:
    with World(gate.worker) as world:
        world.run("a")
        until(lambda: gate.inside)
        world.api.answers.append(("start", answer(429, reason)))
        world.run("b")
        until(lambda: world.engine._held)
        world.stop()
        until(lambda: "b" in (world.transport.returned or []))
        gate.open.set()
        until(world.joined)
    assert world.complete


def test_a_start_that_nobody_heard_does_not_hold_up_the_stop(gate: Gate) -> None:
    with World(gate.worker, drain_timeout=600.0) as world:
        world.api.unheard = world.api.away = True
        world.run("a")
        until(lambda: world.engine._away_since)
        world.stop()
        until(world.joined)
    assert world.complete
    assert world.transport.returned == ["a"]


def test_a_start_that_may_have_been_heard_does(gate: Gate) -> None:
    with World(gate.worker, drain_timeout=600.0) as world:
        world.api.loses_answers = 1
        world.run("a")
        until(lambda: world.engine._away_since)
        world.stop()
        until(world.joined)
    assert world.transport.returned == []
    assert world.api.states["a"] == "Pending", "it was handed back"


def test_long_lines_go_in_requests_that_the_api_takes() -> None:
    @worker
    def work(run: Run) -> None:
        for _ in range(1_000):
            run.log("\x01" * 16_000)

    with World(work) as world:
        world.run("a")
        until(lambda: world.transport.done)
    logs = world.api.said("log")
    assert sum(len(item["lines"]) for item in logs) == 1_000
    assert max(len(json.dumps(item)) for item in logs) < wire.MAX_BYTES


def test_a_run_that_logs_faster_than_lines_are_sent_is_bounded_and_told() -> None:
    total = 40_000
    closed, logged, opened = threading.Event(), threading.Event(), threading.Event()

    @worker
    def work(run: Run) -> None:
        run.log("0 ")
        assert closed.wait(30)
        for n in range(1, total):
            run.log(f"{n} " + "x" * 1_000)
        logged.set()
        assert opened.wait(30)

    with World(work) as world:
        world.run("a")
        until(lambda: world.api.said("log"))
        world.api.gate.clear()
        closed.set()
        until(logged.is_set)
        world.api.gate.set()
        opened.set()
        until(lambda: world.transport.done)
    lines = [line["message"] for item in world.api.said("log") for line in item["lines"]]
    notes = [line for line in lines if "older lines were dropped" in line]
    dropped = sum(int(note.split()[0]) for note in notes)
    assert dropped > 0
    assert len(lines) - len(notes) + dropped == total
    assert lines[-1].startswith(f"{total - 1} ")
