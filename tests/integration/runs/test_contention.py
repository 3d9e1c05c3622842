"""Several replicas at once on one database: nothing is lost, nothing counts twice, no deadlock is seen outside."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from uuid import UUID

import pytest
from tests.integration.runs.world import World

from maestro.runs.model import Claimed, NewRun, RunState
from maestro.runs.reports import Report
from maestro.runs.store import RunStore

RUNS, KEYS, REPLICAS, WORKERS = 240, 6, 3, 4


@pytest.mark.parametrize("shape", [{}, {"ordering_key": ("k",)}, {"parallelism": 5}], ids=["plain", "keys", "slots"])
def test_replicas_workers_and_a_dispatcher_at_once(store: World, shape: dict[str, object]) -> None:
    automation = store.automation(backoff_initial=0.0, max_attempts=50, **shape)
    replicas = [store.store, *(store.open() for _ in range(REPLICAS - 1))]
    queue: asyncio.Queue[Claimed] = asyncio.Queue()
    accepted: list[UUID] = []
    flight: dict[UUID, int] = {}
    ends: Counter[UUID] = Counter()
    keys: dict[UUID, int] = {}
    running: set[int] = set()
    chance = random.Random(7)

    async def accept(replica: RunStore, share: int) -> None:
        while share > 0:
            n = min(chance.randint(1, 7), share)
            wanted = [NewRun(automation, {"k": chance.randrange(KEYS)}) for _ in range(n)]
            for run, answer in zip(wanted, await replica.accept(wanted), strict=True):
                accepted.append(answer.id)
                keys[answer.id] = run.parameters["k"]
            share -= n

    async def dispatch() -> None:
        while len(ends) < RUNS:
            await store.store.due(store.now, epoch=store.epoch)
            for claimed in await store.store.claim(store.epoch, automation, 50):
                queue.put_nowait(claimed)
                if chance.random() < 0.2:
                    queue.put_nowait(claimed)
            await asyncio.sleep(0)

    async def work(name: str) -> None:
        while len(ends) < RUNS:
            try:
                claimed = await asyncio.wait_for(queue.get(), 0.05)
            except TimeoutError:
                continue
            await one(name, claimed)

    async def one(name: str, claimed: Claimed) -> None:
        start = Report("start", claimed.id, worker=name, pub=claimed.pub)
        begun = (await chance.choice(replicas).reports([start]))[0]
        if begun.status != 200:
            return
        flight[claimed.id] = flight.get(claimed.id, 0) + 1
        if "ordering_key" in shape:
            assert keys[claimed.id] not in running
            running.add(keys[claimed.id])
        assert "parallelism" not in shape or sum(flight.values()) <= 5
        await asyncio.sleep(0)
        status = "failed" if chance.random() < 0.1 else "completed"
        running.discard(keys[claimed.id])
        flight[claimed.id] -= 1
        finish = Report("finish", claimed.id, worker=name, attempt=begun.attempt, status=status)  # type: ignore[arg-type]
        twice = await asyncio.gather(*(replica.reports([finish]) for replica in replicas[:2]))
        assert [answers[0].status for answers in twice] == [200, 200]
        ends[claimed.id] += status == "completed"
        if not ends[claimed.id]:
            del ends[claimed.id]

    async def everything() -> None:
        tasks = [accept(replica, RUNS // REPLICAS) for replica in replicas]
        async with asyncio.timeout(120):
            await asyncio.gather(*tasks, dispatch(), *(work(f"pod-{n}/p") for n in range(WORKERS)))

    store.do(everything())
    assert len(accepted) == len(set(accepted)) == RUNS
    assert set(ends.values()) == {1}
    counts = store.do(store.store.counts())[automation]
    assert (counts.waiting, counts.running, counts.succeeded_24h) == (0, 0, RUNS)
    assert all(store.state(run) is RunState.SUCCEEDED for run in accepted[::40])
    assert store.rows("SELECT * FROM run_key WHERE automation_id = :a", {"a": automation}) == []
    for replica in replicas[1:]:
        store.do(replica.close())


def test_two_who_think_they_lead_give_no_number_twice(store: World) -> None:
    automation = store.automation()
    store.accept(automation, 200)
    other = store.open()
    stale, store.epoch = store.epoch, store.do(store.store.win_leadership()).epoch
    answers = store.together(
        *(place.claim(epoch, automation, 7) for place in (store.store, other) for epoch in (stale, store.epoch) * 10)
    )
    claimed = [run for answer in answers if isinstance(answer, list) for run in answer]
    assert len({run.pub for run in claimed}) == len({run.id for run in claimed}) == len(claimed) == 140
    assert sum(not isinstance(answer, list) for answer in answers) == 20
    store.do(other.close())
