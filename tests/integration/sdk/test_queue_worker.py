"""SDK workers on a real broker, with the real store, dispatcher and API."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable

import pika
from tests.integration.sdk.conftest import World
from tests.workers.processes import until


def test_a_thousand_runs_through_two_workers(world: World) -> None:
    workers = [world.worker("first", concurrency=16), world.worker("second", "note_async", concurrency=16)]
    until(lambda: world.consumers() == 2, "both take from the queue")
    jobs = world.submit(1000)
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    began = world.marked("began")
    assert {job: len(marks) for job, marks in began.items()} == dict.fromkeys(jobs, 1)
    assert len({marks[0].split()[0] for marks in began.values()}) == 2, "both workers took part"
    last = world.maestro.run(jobs[-1])
    assert last["result"] == {"number": 999}
    assert last["retryCount"] == 0
    log = world.maestro.call("GET", f"/jobs/{jobs[-1]}/logs")
    assert "number 999" in json.dumps(log)
    for worker in workers:
        worker.signal()
        assert worker.wait() == 0


def test_every_way_to_end(world: World) -> None:
    world.worker("worker", "ends")
    hows = ["well", "business", "nothing", "technical", "not json"]
    jobs = dict(zip(hows, world.maestro.submit(world.automation, [{"how": how} for how in hows]), strict=True))
    [wrong] = world.maestro.submit(world.automation, [{"how": 1, "what": "?"}])
    [hopeless] = world.maestro.submit(world.automation, [{"how": "technical", "times": 99}])

    world.maestro.wait_for([jobs["well"], jobs["nothing"], jobs["technical"]])
    world.maestro.wait_for([jobs["business"], jobs["not json"], wrong, hopeless], "Failed")
    assert world.maestro.run(jobs["nothing"])["status"] == "completed_no_invoices"
    assert world.maestro.run(jobs["technical"])["result"] == {"attempt": 2, "how": "technical"}
    assert world.maestro.run(jobs["business"])["retryCount"] == 0
    assert world.maestro.run(hopeless)["retryCount"] == 2
    assert "EMPTY_VIDEO" in json.dumps(world.maestro.run(jobs["business"]))
    assert "INVALID_PARAMETERS" in json.dumps(world.maestro.run(wrong))
    assert "/what: is not a parameter" in json.dumps(world.maestro.run(wrong))
    assert "$.what is a object" in json.dumps(world.maestro.run(jobs["not json"]))
    assert "ConnectionError: the portal is down" in json.dumps(world.maestro.call("GET", f"/jobs/{hopeless}/logs"))
    world.wait_for_empty_queue()


def test_kill_9_of_a_worker_loses_no_run(world: World) -> None:
    victim = world.worker("victim")
    jobs = world.submit(12, seconds=0.5)
    world.wait_for_marks("began", 4)
    in_hand = set(world.marked("began")) - set(world.marked("ended"))
    victim.kill()
    world.worker("other")
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    ended = world.marked("ended")
    assert {job: len(marks) for job, marks in ended.items()} == dict.fromkeys(jobs, 1), "nothing is finished twice"
    runs = [world.maestro.run(job) for job in in_hand]
    assert {run["attempts"][0]["reason"] for run in runs if len(run["attempts"]) > 1} == {"WorkerLost"}
    assert {run["retryCount"] for run in runs} == {0}, "lost together: which of them killed it isn't known"


def test_a_run_that_kills_its_worker_costs_its_neighbors_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(max_attempts=2)
    workers = [world.worker("worker-0", "kills")]
    jobs = world.submit(4, poison=3)
    until(lambda: not workers[-1].alive(), "the poison kills the first worker")
    (world.marks / "go").touch()

    def failed() -> bool:
        if not workers[-1].alive():
            workers.append(world.worker(f"worker-{len(workers)}", "kills"))
        return bool(world.maestro.run(jobs[3])["state"] == "Failed")

    until(failed, "the poison has used up its attempts")
    if not workers[-1].alive():
        workers.append(world.worker(f"worker-{len(workers)}", "kills"))
    world.maestro.wait_for(jobs[:3])
    poison = world.maestro.run(jobs[3])
    assert [attempt["outcome"] for attempt in poison["attempts"]] == ["lostTogether", "lost", "failed"]
    assert (poison["reason"], poison["retryCount"]) == ("WorkerLost", 1)
    for job in jobs[:3]:
        run = world.maestro.run(job)
        assert [attempt["outcome"] for attempt in run["attempts"]] == ["lostTogether", "succeeded"]
        assert run["retryCount"] == 0
    world.wait_for_empty_queue()


def test_a_restart_of_the_broker_interrupts_no_run(world: World) -> None:
    worker = world.worker("worker")
    jobs = world.submit(12, seconds=1.0)
    world.wait_for_marks("began", 4)
    world.broker.kill()
    until(lambda: "the connection to the broker was lost" in worker.text(), "the worker sees it")
    world.broker.start()
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    assert {job: len(marks) for job, marks in world.marked("began").items()} == dict.fromkeys(jobs, 1)
    assert {world.maestro.run(job)["retryCount"] for job in jobs} == {0}
    assert worker.alive()


def test_a_kill_9_of_the_api_interrupts_no_run(make_world: Callable[..., World]) -> None:
    world = make_world(heartbeat_timeout=60.0)
    worker = world.worker("worker")
    jobs = world.submit(12, seconds=0.3)
    world.wait_for_marks("began", 4)
    world.maestro.kill()
    world.wait_for_marks("ended", 4)
    until(lambda: "API is away" in worker.text(), "the worker notices")
    world.maestro.start()
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    assert {job: len(marks) for job, marks in world.marked("began").items()} == dict.fromkeys(jobs, 1)
    assert {world.maestro.run(job)["retryCount"] for job in jobs} == {0}


def test_sigterm_finishes_what_runs_and_takes_nothing_new(world: World) -> None:
    leaving = world.worker("leaving", concurrency=2)
    jobs = world.submit(6, seconds=1.0)
    world.wait_for_marks("began", 2)
    leaving.signal()
    assert leaving.wait() == 0
    assert len(world.marked("began")) == len(world.marked("ended")) == 2, "finished, and nothing new begun"
    world.worker("staying")
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    assert {world.maestro.run(job)["retryCount"] for job in jobs} == {0}


def test_past_the_drain_time_runs_go_to_another_worker_at_no_cost(make_world: Callable[..., World]) -> None:
    world = make_world(max_attempts=1, heartbeat_timeout=60.0)
    leaving = world.worker("leaving", concurrency=2, drain_timeout=0.2)
    jobs = world.submit(2, seconds=3.0)
    world.wait_for_marks("began", 2)
    leaving.signal()
    assert leaving.wait() == 0
    assert world.marked("ended") == {}
    world.worker("staying")
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    assert {len(marks) for marks in world.marked("ended").values()} == {1}


def test_a_second_sigterm_hands_back_at_once(make_world: Callable[..., World]) -> None:
    world = make_world(max_attempts=1)
    leaving = world.worker("leaving", drain_timeout=600.0)
    jobs = world.submit(1, seconds=30.0)
    world.wait_for_marks("began", 1)
    leaving.signal()
    until(lambda: "stopping: 1 Runs" in leaving.text(), "the first signal is heard")
    leaving.signal()
    assert leaving.wait() == 0
    until(lambda: world.maestro.run(jobs[0])["state"] == "Queued", "the Run waits again")


def test_cancellation_reaches_the_function(world: World) -> None:
    world.worker("worker")
    jobs = world.submit(1, seconds=60.0)
    world.wait_for_marks("began", 1)
    world.maestro.call("POST", f"/jobs/{jobs[0]}/cancel")
    world.maestro.wait_for(jobs, "Canceled")
    assert world.marked("ended") == {}
    world.wait_for_empty_queue()


def test_a_run_that_takes_too_long_is_canceled_and_fails(make_world: Callable[..., World]) -> None:
    world = make_world(timeout=1.0, max_attempts=1)
    world.worker("worker")
    jobs = world.submit(1, seconds=60.0)
    world.maestro.wait_for(jobs, "Failed")
    assert world.maestro.run(jobs[0])["reason"] == "Timeout"


def test_a_silent_function_keeps_its_lease(world: World) -> None:
    world.worker("worker", "note_async")
    jobs = world.submit(1, seconds=5.0)
    world.maestro.wait_for(jobs)
    assert world.maestro.run(jobs[0])["retryCount"] == 0


def test_a_frozen_worker_is_fenced_and_its_result_dropped(world: World) -> None:
    # one at a time: else the broker hands it the next copy too, until their connection times out
    frozen = world.worker("frozen", "note_async", concurrency=1)
    jobs = world.submit(1, seconds=1.0)
    world.wait_for_marks("began", 1)
    frozen.signal(signal.SIGSTOP)
    world.worker("other", "note_async")
    world.maestro.wait_for(jobs)
    assert world.maestro.run(jobs[0])["retryCount"] == 1
    frozen.signal(signal.SIGCONT)
    until(lambda: "its result is dropped" in frozen.text(), "the frozen worker learns of it")
    assert world.maestro.run(jobs[0])["retryCount"] == 1
    world.wait_for_empty_queue()


def test_what_is_no_run_goes_to_the_dead_letters(world: World) -> None:
    world.worker("worker")
    connection = pika.BlockingConnection(pika.URLParameters(world.broker.amqp_url))
    channel = connection.channel()
    unknown = json.dumps({"job_id": "00000000-0000-7000-8000-000000000000"}).encode()
    for body in (b"not json", unknown):
        channel.basic_publish("", world.queue, body)
    connection.close()
    jobs = world.submit(1)
    world.maestro.wait_for(jobs)
    until(lambda: len(world.maestro.dead_letters()) == 2, "both are kept as dead letters")
    letters = world.maestro.dead_letters(automation="work", reason="rejected")
    assert [(letter["queue"], letter["runId"]) for letter in letters] == [(world.queue, None)] * 2
    bodies = [world.maestro.call("GET", f"/dead-letters/{letter['id']}")["body"]["content"] for letter in letters]
    assert sorted(map(str, bodies)) == sorted(["not json", str(json.loads(unknown))])
    whys = [world.maestro.call("POST", f"/dead-letters/{letter['id']}/redrive", expect=(409,)) for letter in letters]
    assert all("give `parameters`" in why["message"] for why in whys)
    given = {"parameters": {"folder": str(world.marks)}}
    redriven = world.maestro.call("POST", "/dead-letters/redrive", {"automation": "work", **given})["items"]
    world.maestro.wait_for([item["job_id"] for item in redriven])


def test_a_doubled_message_runs_once(world: World) -> None:
    jobs = world.submit(1, seconds=0.5)
    connection = pika.BlockingConnection(pika.URLParameters(world.broker.amqp_url))
    channel = connection.channel()
    copied = []

    def copy() -> bool:
        method, properties, body = channel.basic_get(world.queue)
        if method is None:
            return False
        copied.append((properties, body))
        channel.basic_nack(method.delivery_tag, requeue=True)
        return True

    until(copy, "the message is there")
    properties, body = copied[0]
    for _ in range(3):
        channel.basic_publish("", world.queue, body, properties)
    connection.close()
    world.worker("first", concurrency=1)
    world.worker("second", concurrency=1)
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    assert [len(marks) for marks in world.marked("began").values()] == [1]


def test_the_brokers_password_may_change(world: World) -> None:
    broker = world.broker

    def allow(user: str) -> str:
        broker.api("PUT", f"/api/users/{user}", {"password": f"secret-of-{user}", "tags": ""})
        rights = {"configure": "^$", "write": "^$", "read": "^maestro\\.team\\.work$"}
        broker.api("PUT", f"/api/permissions/%2F/{user}", rights)
        return f"amqp://{user}:secret-of-{user}@127.0.0.1:{broker.amqp_port}/%2F"

    worker = world.worker("worker", broker=allow("work-a"))
    (world.folder / "worker.broker-url").write_text(allow("work-b"))
    broker.api("DELETE", "/api/users/work-a")
    until(lambda: worker.text().count("working on queue") == 2, "it has connected with the new password")
    jobs = world.submit(3)
    world.maestro.wait_for(jobs)
    world.wait_for_empty_queue()
    assert "secret-of" not in worker.text()


def test_a_worker_waits_for_a_queue_that_is_not_there_yet(world: World) -> None:
    world.broker.api("DELETE", f"/api/queues/%2F/{world.queue}")
    worker = world.worker("early", ready=False)
    until(lambda: "NOT_FOUND" in worker.text(), "it misses the queue")
    world.broker.api(
        "PUT", f"/api/queues/%2F/{world.queue}", {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    )
    world.maestro.wait_for(world.submit(1))


def test_what_waits_behind_long_runs_goes_to_another_worker_at_no_cost(make_world: Callable[..., World]) -> None:
    world = make_world(max_attempts=1)
    world.worker("busy", "wait", concurrency=2)
    world.maestro.wait_for(world.maestro.submit(world.automation, [{}] * 400))
    # it starts ahead by now, and would keep long Runs waiting
    jobs = world.maestro.submit(world.automation, [{"seconds": 30.0}] * 4)
    until(lambda: world.maestro.states(jobs)["Running"] == 4, "it has started them all")
    until(lambda: world.maestro.states(jobs)["Running"] == 2, "it gives back those that wait for a function")
    world.worker("other", "wait", concurrency=2)
    until(lambda: world.maestro.states(jobs)["Running"] == 4, "another worker takes them")
    runs = [world.maestro.run(job) for job in jobs]
    assert Counter(run["attempts"][-1]["pod"] for run in runs) == {"busy": 2, "other": 2}
    assert {run["retryCount"] for run in runs} == {0}
