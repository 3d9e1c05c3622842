"""Rates of the run store by itself: accept, claim, start, finish, in batches, through the asyncio face.

    .venv/bin/python tests/performance/bench_store.py [--url URL] [--runs 20000] [--batch 500] [--old 0]

Without a URL: SQLite in a temporary folder. `--old` puts so many ended Runs into the store first.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

from maestro.runs.model import NewRun, Registration, RunPolicy
from maestro.runs.reports import Report
from maestro.runs.store import RunStore


async def timed(name: str, runs: int, work: Callable[[], Awaitable[None]]) -> None:
    started, busy = time.perf_counter(), time.process_time()
    await work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    print(f"{name:8} {runs / seconds:10,.0f} a second   {cpu / runs * 1e6:6.1f} µs of CPU each   ({seconds:.2f} s)")


async def through(store: RunStore, automation: int, epoch: int, runs: int, batch: int, *, quiet: bool = False) -> None:
    """Takes so many Runs through their lives, step by step."""
    ids: list[UUID] = []
    parameters = {"list": "2024-05", "customer": "ACME", "dry": False, "limit": 10}

    async def accept() -> None:
        for _ in range(0, runs, batch):
            ids.extend(a.id for a in await store.accept([NewRun(automation, parameters) for _ in range(batch)]))

    async def claim() -> None:
        for _ in range(0, runs, batch):
            claimed = await store.claim(epoch, automation, batch)
            assert len(claimed) == batch, len(claimed)

    async def start() -> None:
        for at in range(0, runs, batch):
            items = [Report("start", id_, worker="pod/process", pub=1, epoch=epoch) for id_ in ids[at : at + batch]]
            assert all(answer.status == 200 for answer in await store.reports(items))

    async def finish() -> None:
        for at in range(0, runs, batch):
            ended = ids[at : at + batch]
            items = [Report("finish", id_, worker="pod/process", attempt=1, status="completed") for id_ in ended]
            assert all(answer.status == 200 for answer in await store.reports(items))

    for name, work in (("accept", accept), ("claim", claim), ("start", start), ("finish", finish)):
        await (work() if quiet else timed(name, runs, work))


async def single_callers(store: RunStore, automation: int, callers: int, runs: int) -> None:
    """What group commit makes of many callers with one Run each."""

    async def caller() -> None:
        for _ in range(runs // callers):
            await store.accept([NewRun(automation, {"a": 1})])

    async def all_callers() -> None:
        await asyncio.gather(*(caller() for _ in range(callers)))

    await timed(f"{callers} callers, accept one each", runs, all_callers)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--old", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = await asyncio.to_thread(RunStore.open, options.url or f"sqlite:///{Path(folder)}/store.db")
        policy = RunPolicy(window=10_000_000, max_pending=100_000_000)
        automation = await store.register(Registration("uid", "bench", "robot", queue="q", policy=policy))
        epoch = (await store.win_leadership()).epoch
        if options.old:
            await through(store, automation, epoch, options.old, options.batch, quiet=True)
        await through(store, automation, epoch, options.runs, options.batch)
        await single_callers(store, automation, 200, options.runs // 2)
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
