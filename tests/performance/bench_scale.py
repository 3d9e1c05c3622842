"""What size costs: finished Runs in the store, ordering keys, a million Runs through execute-many.

    .venv/bin/python -m tests.performance.bench_scale history [--runs 20000] [--repeats 5] [--finished 1 1000 1000000]
    .venv/bin/python -m tests.performance.bench_scale keys [--runs 20000] [--keys 100000]
    .venv/bin/python -m tests.performance.bench_scale accept [--runs 1000000]

`history` and `keys` are about the store by itself (SQLite, lists of 500), `accept` goes through the HTTP server. Rates
are of processor time of this process, which a busy machine hardly changes; the goal: a ratio of at least 0.9.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

from tests.integration.http.api import Api

from maestro.runs.model import NewRun, Registration, RunPolicy
from maestro.runs.reports import Report
from maestro.runs.store import RunStore

BATCH = 500
STEPS = ("accept", "claim", "start", "finish")
LINES = 10_000
GOAL = 0.9
Rates = dict[str, float]


class Lives:
    """Takes Runs through their lives in one store, step by step, and tells each step's rate."""

    def __init__(self, store: RunStore, epoch: int, automation: int, key: Callable[[int], int] | None = None) -> None:
        self._store, self._epoch, self._automation, self._key = store, epoch, automation, key
        self._number = 0
        self._rates: Rates = {}

    async def live(self, runs: int) -> Rates:
        ids = await self._timed("accept", runs, self._accept)
        await self._timed("claim", runs, self._claim)
        await self._timed("start", runs, lambda at: self._start(ids[at : at + BATCH]))
        await self._timed("finish", runs, lambda at: self._finish(ids[at : at + BATCH]))
        return dict(self._rates)

    async def _timed(self, name: str, runs: int, step: Callable[[int], Awaitable[list[UUID]]]) -> list[UUID]:
        begun, found = time.process_time(), list[UUID]()
        for at in range(0, runs, BATCH):
            found += await step(at)
        self._rates[name] = runs / (time.process_time() - begun)
        return found

    async def _accept(self, _at: int) -> list[UUID]:
        runs = []
        for _ in range(BATCH):
            self._number += 1
            parameters = {"customer": self._key(self._number)} if self._key else {"customer": 1}
            runs.append(NewRun(self._automation, {"list": "2024-05", "dry": False, **parameters}))
        return [accepted.id for accepted in await self._store.accept(runs)]

    async def _claim(self, _at: int) -> list[UUID]:
        claimed = await self._store.claim(self._epoch, self._automation, BATCH)
        assert len(claimed) == BATCH, len(claimed)
        return []

    async def _start(self, ids: list[UUID]) -> list[UUID]:
        items = [Report("start", id_, worker="pod/process", pub=1, epoch=self._epoch) for id_ in ids]
        assert all(answer.status == 200 for answer in await self._store.reports(items))
        return []

    async def _finish(self, ids: list[UUID]) -> list[UUID]:
        items = [Report("finish", id_, worker="pod/process", attempt=1, status="completed") for id_ in ids]
        assert all(answer.status == 200 for answer in await self._store.reports(items))
        return []


async def opened(folder: str) -> tuple[RunStore, int]:
    store = await asyncio.to_thread(RunStore.open, f"sqlite:///{folder}/store.db")
    return store, (await store.win_leadership()).epoch


async def automation(store: RunStore, name: str, **policy: object) -> int:
    given = RunPolicy(**{"window": 10_000_000, "max_pending": 100_000_000, **policy})  # type: ignore[arg-type]
    return await store.register(Registration(f"uid-{name}", "bench", name, queue=f"q-{name}", policy=given))


async def history(runs: int, repeats: int, sizes: list[int]) -> None:
    """Two stores side by side take turns: one stays small, the other has so many finished Runs."""
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        worlds = [await opened(folder) for folder in (small, large)]
        lives = [Lives(store, epoch, await automation(store, "robot")) for store, epoch in worlds]
        await lives[0].live(runs)
        finished = 0
        for size in sizes:
            missing = max(size - finished, 0) // BATCH * BATCH
            for at in range(0, missing, 20_000):
                await lives[1].live(min(20_000, missing - at))
            finished += missing
            pairs = []
            for repeat in range(repeats):
                order = (0, 1) if repeat % 2 else (1, 0)
                measured = {which: await lives[which].live(runs) for which in order}
                pairs.append((measured[0], measured[1]))
            finished += repeats * runs
            tell(f"{max(size, missing):,} finished Runs and more", pairs)
        for store, _ in worlds:
            await store.close()


async def keys(runs: int, repeats: int, number: int) -> None:
    """With so many ordering keys that have open Runs, against none."""
    with tempfile.TemporaryDirectory() as folder:
        store, epoch = await opened(folder)
        plain = Lives(store, epoch, await automation(store, "plain"))
        keyed = await automation(store, "keyed", ordering_key=("customer",))
        # one Run of every key stays open all the time, behind none: a key of its own for what is measured
        for at in range(0, number, BATCH):
            await store.accept([NewRun(keyed, {"customer": -1 - n}) for n in range(at, at + BATCH)])
        while await store.claim(epoch, keyed, 1000):
            pass
        measured_keys = Lives(store, epoch, keyed, key=lambda n: n)
        pairs = []
        for _ in range(repeats):
            before = await plain.live(runs)
            pairs.append((before, await measured_keys.live(runs)))
        tell(f"{number:,} ordering keys with open Runs, a key for each Run", pairs)
        await store.close()


def tell(what: str, pairs: list[tuple[Rates, Rates]]) -> None:
    print(f"{what}:")
    for step in STEPS:
        ratios = [other[step] / first[step] for first, other in pairs]
        rates = [statistics.median(side[step] for side in sides) for sides in zip(*pairs, strict=True)]
        print(
            f"  {step:7} {rates[0]:10,.0f} -> {rates[1]:10,.0f} a second of CPU   ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    whole = [sum(1 / a[s] for s in STEPS) / sum(1 / b[s] for s in STEPS) for a, b in pairs]
    print(f"  a whole life: ratio {statistics.median(whole):.2f}; goal {GOAL}", flush=True)


def accept(runs: int) -> None:
    """Lists of 10,000 through the HTTP server; the memory of server and client together."""
    with tempfile.TemporaryDirectory() as folder:
        api = Api(Path(folder))
        api.automation("bulk", run={"maxPending": 10_000_000})
        size = min(LINES, runs)
        body = b"\n".join(json.dumps({"parameters": {"n": n, "customer": "ACME"}}).encode() for n in range(size))
        headers = {"Content-Type": "application/x-ndjson"}
        begun, lists = time.perf_counter(), runs // size
        for number in range(lists):
            answer = api.call("POST", "/api/v1/automations/bulk/execute-many", raw=body, headers=headers)
            assert answer.status == 202, answer.body[:300]
            if number in (0, lists // 2, lists - 1):
                print(f"{(number + 1) * size:10,} accepted   {resident():6.0f} MiB resident", flush=True)
        seconds = time.perf_counter() - begun
        print(f"{runs:,} Runs in {seconds:.0f} s: {runs / seconds:,.0f} a second, parameters checked, through HTTP")
        api.close()


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1048576


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("history", "keys", "accept"):
        command = commands.add_parser(name)
        command.add_argument("--runs", type=int, default=1_000_000 if name == "accept" else 20_000)
        command.add_argument("--repeats", type=int, default=5)
        command.add_argument("--finished", type=int, nargs="+", default=[1, 1000, 1_000_000])
        command.add_argument("--keys", type=int, default=100_000)
    options = parser.parse_args()
    if options.command == "history":
        asyncio.run(history(options.runs, options.repeats, options.finished))
    elif options.command == "keys":
        asyncio.run(keys(options.runs, options.repeats, options.keys))
    else:
        accept(options.runs)


if __name__ == "__main__":
    main()
