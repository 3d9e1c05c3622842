"""A store that is put back to a backup, with a real broker that holds the messages sent since: nothing is silent."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from tests.cluster.rabbitmq import RabbitMQ
from tests.integration.test_dispatcher import NIGHTLY, Workers, all_in, declare, leading, opened, until
from tests.integration.test_dispatcher import broker as broker  # the fixture, emptied for each test

from maestro.runs import backup
from maestro.runs.model import NewRun, RunFilter, RunState
from maestro.runs.restored import Publication
from maestro.runs.store import RunStore

RUNS = 200


async def accepted(store: RunStore, key: int, count: int) -> set[UUID]:
    return {one.id for one in await store.accept([NewRun(key, {"n": n}) for n in range(count)])}


async def ended(store: RunStore) -> set[UUID]:
    found = await store.list_runs(RunFilter(states=frozenset({RunState.SUCCEEDED})), limit=1000)
    return {run.id for run in found.items}


@pytest.mark.parametrize("by", ["snapshot", "command"])
def test_nothing_is_silent(broker: RabbitMQ, tmp_path: Path, by: str) -> None:
    """The backup is taken while some Runs are Queued and some wait; more are accepted, published and taken since."""
    url = f"sqlite:///{tmp_path}/runs.db"

    async def main() -> None:
        declare(broker, NIGHTLY.queue or "")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            early = await accepted(store, key, RUNS)
            async with leading(broker, store):
                await until(lambda: all_in(store, RunState.QUEUED, RUNS), "all are published")
            waiting = await accepted(store, key, RUNS)
            await asyncio.to_thread(backup.backup, url, tmp_path / "backup.db")
            # since the backup: what waited is published, what was published is taken, and more comes
            late = await accepted(store, key, RUNS)
            async with leading(broker, store):
                await until(lambda: all_in(store, RunState.QUEUED, 3 * RUNS), "all are published")
                with Workers(broker, store, NIGHTLY.queue or "", prefetch=10) as workers:
                    await until(lambda: sum(workers.started.values()) >= RUNS // 2, "some are taken")
                done_before = await ended(store)
            assert done_before
        put_back(by)
        async with opened(tmp_path) as store, leading(broker, store) as leader:
            with Workers(broker, store, NIGHTLY.queue or "") as workers:

                async def all_known_have_ended() -> bool:
                    return await all_in(store, RunState.SUCCEEDED, 2 * RUNS)

                await until(all_known_have_ended, "every Run that the backup knows has ended")
                await until(lambda: workers.refused["UnknownRun"] >= RUNS, "every later message was refused")
            assert await ended(store) == early | waiting
            assert max(workers.started.values()) == 1
            assert {run.id for run in await store.unknown_runs.list(limit=1000)} == late
            assert (await store.restorations.noticed()) is None
            assert leader.dispatcher.leadership is not None

    def put_back(by: str) -> None:
        if by == "command":
            backup.restore(url, tmp_path / "backup.db", now=datetime.now(UTC))
            return
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"runs.db{suffix}").unlink(missing_ok=True)
        (tmp_path / "backup.db").replace(tmp_path / "runs.db")

    asyncio.run(main())


def test_what_is_queued_and_was_taken_since_is_published_again_at_once(broker: RabbitMQ, tmp_path: Path) -> None:
    """A restored store holds Runs for Queued whose messages are gone from the broker: one late message shows it."""

    async def main() -> None:
        declare(broker, NIGHTLY.queue or "")
        async with opened(tmp_path) as store:
            key = await store.register(NIGHTLY)
            runs = await accepted(store, key, RUNS)
            async with leading(broker, store, grace_seconds=3600.0) as leader:
                await until(lambda: all_in(store, RunState.QUEUED, RUNS), "all are published")
                before = leader.dispatcher.leadership
                broker.api("DELETE", f"/api/queues/%2F/{NIGHTLY.queue}/contents")
                assert before is not None
                await store.restorations.notice([Publication(before.store_id, before.epoch, 10_000)])
                with Workers(broker, store, NIGHTLY.queue or "") as workers:
                    await until(lambda: all_in(store, RunState.SUCCEEDED, RUNS), "all have ended")
                assert await ended(store) == runs
                assert set(workers.started.values()) == {1}
                after = leader.dispatcher.leadership
                assert after is not None
                assert (after.epoch, after.store_id == before.store_id) == (before.epoch, False)
                # it goes on as before
                await accepted(store, key, 10)
                with Workers(broker, store, NIGHTLY.queue or ""):
                    await until(lambda: all_in(store, RunState.SUCCEEDED, RUNS + 10), "new ones have ended")

    asyncio.run(main())
