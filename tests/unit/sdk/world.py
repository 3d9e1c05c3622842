"""A world in memory for the engine: an API that keeps Runs, and a queue that hands out their messages."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from maestro_worker.api import ApiAway
from maestro_worker.broker import ConnectionLost
from maestro_worker.delivery import Delivery
from maestro_worker.engine import Engine, Stop
from maestro_worker.run import Message
from maestro_worker.wire import Answer
from maestro_worker.worker import Worker


def until(condition: Callable[[], object], patience: float = 10.0) -> None:
    """Wait for a condition; fails when it doesn't come true."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "the condition didn't come true"
        time.sleep(0.002)


def answer(status: int, reason: str | None = None, message: str | None = None, **more: Any) -> Answer:
    """An answer to one report; what isn't set is left out, as the API does."""
    given = {"status": status, "reason": reason, "message": message} | more
    return {key: value for key, value in given.items() if value is not None}


@dataclass
class Api:
    """Answers reports as the store would, without leases; everything that was said is in `items`."""

    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    canceling: set[str] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)
    answers: list[tuple[str, Answer]] = field(default_factory=list)
    away: bool = False
    unheard: bool = False
    loses_answers: int = 0
    heartbeat_timeout: float = 300.0
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def send(self, items: Sequence[bytes]) -> list[Answer]:
        assert self.gate.wait(10)
        if self.away:
            raise ApiAway("not here", unheard=self.unheard)
        decoded = [json.loads(item) for item in items]
        self.items += decoded
        self.requests.append(len(decoded))
        answers = [self._answer(item) for item in decoded]
        if self.loses_answers:
            self.loses_answers -= 1
            raise ApiAway("the answer was lost")
        return answers

    def said(self, op: str, job: str | None = None) -> list[dict[str, Any]]:
        return [item for item in self.items if item["op"] == op and job in (None, item["job"])]

    def _answer(self, item: dict[str, Any]) -> Answer:
        for index, (op, prepared) in enumerate(self.answers):
            if op == item["op"]:
                del self.answers[index]
                return prepared
        job = item["job"]
        state = self.states.get(job)
        if item["op"] == "start":
            if state is None:
                return answer(404, "UnknownRun")
            if state == "Queued" or (state == "Running" and self.holders[job] == item["worker"]):
                self.states[job], self.holders[job] = "Running", item["worker"]
                given = self.parameters.get(job, {})
                return answer(
                    200,
                    attempt=1,
                    parameters=given,
                    heartbeat_timeout=self.heartbeat_timeout,
                    timeout=60.0,
                    cancellation_requested=job in self.canceling,
                )
            return answer(409, "running" if state == "Running" else "ended")
        if job in self.fenced:
            return answer(409, "fenced")
        if item["op"] == "finish":
            self.states[job] = item["status"]
        elif item["op"] == "release":
            self.states[job] = "Pending"
        return answer(200, cancellation_requested=job in self.canceling)


class Transport:
    """Remembers what was settled."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int]] = []
        self.rejected: list[tuple[int, int]] = []
        self.returned: list[str] | None = None
        self.limits: list[int] = []

    def settle(self, connection: int, *, done: Sequence[int] = (), reject: Sequence[int] = ()) -> None:
        self.done += [(connection, tag) for tag in done]
        self.rejected += [(connection, tag) for tag in reject]

    def set_limit(self, limit: int, unstarted: Sequence[Delivery] = ()) -> None:
        self.limits.append(limit)
        if unstarted:
            self.returned = (self.returned or []) + [item.message.job for item in unstarted]

    def stop_taking(self, unstarted: Sequence[Delivery]) -> None:
        self.returned = (self.returned or []) + [item.message.job for item in unstarted]


class World:
    """An engine at work in a thread, with everything around it in memory."""

    def __init__(self, worker: Worker[Any, Any], *, concurrency: int = 4, drain_timeout: float = 30.0) -> None:
        self.api = Api()
        self.transport = Transport()
        self.ends: list[tuple[str, Any]] = []
        self.engine = Engine(
            worker,
            api=self.api,
            transport=self.transport,
            identity="pod/process",
            concurrency=concurrency,
            drain_timeout=drain_timeout,
            ended=lambda job, how: self.ends.append((job, how)),
        )
        self._tag = 0
        self.complete: bool | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> World:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.api.gate.set()
        self.api.away = False
        self.engine.receive(Stop())
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        self.complete = self.engine.serve()

    def run(self, job: str, **parameters: Any) -> None:
        """A new Run whose message is delivered."""
        self.api.states[job] = "Queued"
        self.api.parameters[job] = parameters
        self.deliver(job)

    def deliver(self, job: str, *, connection: int = 1, pub: int = 1, redelivered: bool = False) -> int:
        self._tag += 1
        message = Message(job, {"automation_id": "ns.name"})
        self.engine.receive(Delivery(connection, self._tag, message, redelivered, pub, 1, "store"))
        return self._tag

    def lose_connection(self, number: int) -> None:
        self.engine.receive(ConnectionLost(number))

    def stop(self) -> None:
        self.engine.receive(Stop())

    def joined(self) -> bool:
        self._thread.join(0)
        return not self._thread.is_alive()
