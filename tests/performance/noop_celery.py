"""The no-op as a Celery task; `python -m tests.performance.noop_celery <n>` queues it n times."""

from __future__ import annotations

import os
import sys

from celery import Celery

QUEUE = "bench.celery"
app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=4,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)

if "STAMPS" in os.environ:
    from tests.performance.stamps import recorder

    stamp = recorder()


@app.task(name="noop")
def noop() -> None:
    """Nothing."""
    stamp()


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(int(sys.argv[1])):
            noop.apply_async(producer=producer)
