"""Maestro, its queue and its workers for one test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.rabbitmq import RabbitMQ
from tests.workers.processes import Maestro, Process, Worker, automation, declare, until

POLICY = {"heartbeat_timeout": 2.0, "backoff_initial": 0.1, "backoff_max": 0.5, "cancel_grace": 5.0}


class World:
    """One Automation, `team.work`, and as many workers as a test starts."""

    queue = "maestro.team.work"
    automation = "work"

    def __init__(self, folder: Path, broker: RabbitMQ, **policy: Any) -> None:
        self.folder = folder
        self.broker = broker
        self.marks = folder / "marks"
        self.marks.mkdir()
        declare(broker, self.queue)
        self.maestro = Maestro(folder, broker, [automation("work", policy=POLICY | policy)])
        self.processes: list[Process] = [self.maestro]
        self.maestro.start()

    def worker(self, name: str, function: str = "note", *, ready: bool = True, **options: Any) -> Worker:
        """A worker of `tests.workers.functions`, started; `ready`: and consuming."""
        options.setdefault("broker", self.broker)
        worker = Worker(
            name, f"tests.workers.functions:{function}", self.folder, maestro=self.maestro, queue=self.queue, **options
        )
        self.processes.append(worker)
        if ready:
            worker.ready()
        else:
            worker.start()
        return worker

    def submit(self, count: int, **parameters: Any) -> list[str]:
        """Runs of the function `note`, numbered."""
        marks = {"folder": str(self.marks)}
        return self.maestro.submit(self.automation, [marks | parameters | {"number": n} for n in range(count)])

    def marked(self, what: str) -> dict[str, list[str]]:
        """By Run: the lines `<pid> <attempt>` of each time that its function began, or ended."""
        return {file.name.rpartition(".")[0]: file.read_text().splitlines() for file in self.marks.glob(f"*.{what}")}

    def wait_for_marks(self, what: str, count: int) -> None:
        until(lambda: len(self.marked(what)) >= count, f"{count} Runs {what}")

    def messages(self) -> int | None:
        """Messages of the queue, those in workers' hands included; None until the broker has counted."""
        found: int | None = self.broker.api("GET", f"/api/queues/%2F/{self.queue}").get("messages")
        return found

    def unacknowledged(self) -> int | None:
        """Messages in workers' hands; None until the broker has counted."""
        found: int | None = self.broker.api("GET", f"/api/queues/%2F/{self.queue}").get("messages_unacknowledged")
        return found

    def consumers(self) -> int:
        """How many workers take from the queue, as the broker last counted."""
        return int(self.broker.api("GET", f"/api/queues/%2F/{self.queue}").get("consumers") or 0)

    def wait_for_empty_queue(self) -> None:
        until(lambda: self.messages() == 0, "every message is acknowledged")

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()


@pytest.fixture
def make_world(tmp_path: Path, rabbitmq: RabbitMQ) -> Iterator[Callable[..., World]]:
    """Makes the test's world; with fields of RunPolicy."""
    rabbitmq.reset()
    worlds: list[World] = []

    def make(**policy: Any) -> World:
        world = World(tmp_path, rabbitmq, **policy)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.close()
        if os.environ.get("SHOW_LOGS"):
            for process in world.processes:
                print(f"--- {process.log.name}\n{process.text()[-5000:]}")


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world with the usual policy."""
    return make_world()
