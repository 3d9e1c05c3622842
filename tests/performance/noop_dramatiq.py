"""The no-op as a Dramatiq actor; `python -m tests.performance.noop_dramatiq <n>` queues it n times."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from tests.performance.stamps import recorder

QUEUE = "bench.dramatiq"
dramatiq.set_broker(RabbitmqBroker(url=os.environ["BENCH_BROKER"]))
stamp: Callable[[], None] | None = None
lock = threading.Lock()


@dramatiq.actor(queue_name=QUEUE)
def noop() -> None:
    """Nothing."""
    (stamp or first_stamp())()


def first_stamp() -> Callable[[], None]:
    """The processes are forked after the import: each makes its recorder in its first call."""
    global stamp
    with lock:
        if stamp is None:
            stamp = recorder()
        return stamp


if __name__ == "__main__":
    for _ in range(int(sys.argv[1])):
        noop.send()
