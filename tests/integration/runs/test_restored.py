"""A store that was restored from a backup older than the messages: noticed, begun anew, and what it lacks is said."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.integration.runs.world import WORKER, World

from maestro.broker.consumer import Delivery
from maestro.runs import restored
from maestro.runs.database import Sql, Transaction
from maestro.runs.deadletters import DeadLetters
from maestro.runs.errors import StaleEpoch
from maestro.runs.letters import Letter, read
from maestro.runs.model import NewRun, RunState
from maestro.runs.reports import Report

ELSEWHERE = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def world(store: World) -> Iterator[World]:
    """The shared store, as if it never was restored: what is noticed concerns all of it."""
    _forget(store)
    yield store
    store.epoch = store.do(store.store.win_leadership()).epoch
    _forget(store)


def _forget(world: World) -> None:
    def forget(transaction: Transaction) -> None:
        for table in ("former_store", "unknown_run", "run_started"):
            transaction.run(Sql(f"DELETE FROM {table}"))

    world.do(world.store.write(forget))


def store_id(world: World) -> str:
    return str(world.rows("SELECT store_id FROM leader")[0][0])


def how(world: World) -> str | None:
    found = world.do(world.store.restorations.noticed())
    return None if found is None else found.how


def test_a_healthy_store_notices_nothing(world: World) -> None:
    automation = world.automation()
    world.accept(automation, 3)
    for claimed in world.claim(automation):
        assert world.start(claimed.id, pub=claimed.pub, epoch=world.epoch, store=store_id(world)).status == 200
        # another copy of the message is refused, and shows nothing
        world.start(claimed.id, "pod-2/x", pub=claimed.pub, epoch=world.epoch, store=store_id(world))
    assert world.start(uuid4(), pub=1, epoch=world.epoch, store=store_id(world)).status == 404
    assert how(world) is None


@pytest.mark.parametrize("ahead", ["pub", "epoch"])
@pytest.mark.parametrize("run", ["started", "refused", "unknown"])
def test_a_number_that_is_yet_to_come_shows_it(world: World, ahead: str, run: str) -> None:
    automation = world.automation()
    (known,) = world.accept(automation)
    if run == "started":
        world.claim(automation)
    told = {"pub": 1, "epoch": world.epoch, "store": store_id(world)} | {ahead: 1_000_000}
    answer = world.start(uuid4() if run == "unknown" else known, **told)
    assert answer.status == {"started": 200, "refused": 409, "unknown": 404}[run]
    assert how(world) == restored.AHEAD
    assert world.rows("SELECT * FROM run_started") == [], "what can't be is no measure of what was overtaken"


def test_another_stores_message_shows_it_once(world: World) -> None:
    automation = world.automation()
    (run,) = world.accept(automation)
    world.claim(automation)
    told = {"pub": 1, "epoch": 1, "store": ELSEWHERE}
    assert world.start(run, **told).status == 200, "any copy may start a Queued Run"
    assert how(world) == restored.FOREIGN
    world.do(world.store.restorations.begin_anew(world.epoch))
    world.start(uuid4(), **told)
    assert how(world) is None, "this store is known by now"


def test_begun_anew_everything_queued_is_published_again(world: World) -> None:
    automation = world.automation()
    world.accept(automation, 5)
    claimed = world.claim(automation, 3)
    world.do(world.store.confirmed(world.epoch, claimed[-1].pub))
    before = store_id(world)
    world.start(claimed[0].id, pub=1_000_000, epoch=world.epoch, store=before)
    won = world.do(world.store.restorations.begin_anew(world.epoch))
    assert (won.epoch, won.confirmed_pub, won.next_pub) == (world.epoch, 0, claimed[-1].pub + 1)
    assert won.store_id == store_id(world) != before
    again = world.do(world.store.queued_after(world.epoch, won.confirmed_pub, 100))
    assert [run.id for run in again if run.automation == automation] == [run.id for run in claimed[1:]]
    # the store goes on: what is claimed from now on has new numbers, and copies from before start nothing twice
    assert [run.pub for run in world.claim(automation)] == [claimed[-1].pub + 1, claimed[-1].pub + 2]
    assert world.start(claimed[0].id, "pod-2/x", pub=1_000_000, epoch=world.epoch, store=before).status == 409
    assert how(world) is None


def test_numbers_from_before_overtake_nothing(world: World) -> None:
    automation = world.automation()
    world.accept(automation, 3)
    first, second, third = world.claim(automation)
    before = store_id(world)
    world.start(first.id, pub=first.pub, epoch=world.epoch, store=before)
    assert world.do(world.store.started_pub(world.epoch, automation)) == first.pub
    world.do(world.store.restorations.begin_anew(world.epoch))
    assert world.do(world.store.started_pub(world.epoch, automation)) == 0
    world.start(second.id, pub=second.pub, epoch=world.epoch, store=before)
    assert world.do(world.store.started_pub(world.epoch, automation)) == 0
    world.start(third.id, pub=third.pub, epoch=world.epoch, store=store_id(world))
    assert world.do(world.store.started_pub(world.epoch, automation)) == third.pub


def test_another_replica_learns_of_the_new_id(world: World) -> None:
    automation = world.automation()
    world.accept(automation, 2)
    first, second = world.claim(automation)
    replica = world.open()
    world.do(replica.refresh())
    world.do(world.store.restorations.begin_anew(world.epoch))
    for claimed in (first, second):
        told = Report("start", claimed.id, WORKER, pub=claimed.pub, epoch=world.epoch, store=store_id(world))
        assert world.do(replica.reports([told]))[0].status == 200
    assert world.do(world.store.started_pub(world.epoch, automation)) == second.pub
    assert how(world) is None
    world.do(replica.close())


def test_a_worker_that_makes_numbers_up_is_followed_once_in_a_while(world: World) -> None:
    world.start(uuid4(), pub=1, epoch=1, store="made-up-1")
    assert how(world) == restored.FOREIGN
    world.do(world.store.restorations.begin_anew(world.epoch))
    world.start(uuid4(), pub=1, epoch=1, store="made-up-2")
    assert how(world) is None
    world.advance(601)
    assert how(world) == restored.FOREIGN


def test_only_the_leader_begins_anew(world: World) -> None:
    world.do(world.store.win_leadership())
    with pytest.raises(StaleEpoch):
        world.do(world.store.restorations.begin_anew(world.epoch))


def test_a_person_may_say_so(world: World) -> None:
    world.do(world.store.restorations.mark())
    assert how(world) == restored.COMMAND
    world.do(world.store.restorations.begin_anew(world.epoch))
    assert how(world) is None


def test_what_is_said_of_unknown_runs_is_kept_and_counted(world: World) -> None:
    automation = world.automation()
    run, stranger = uuid4(), uuid4()
    world.start(run, caller=automation, pub=1_000_000, epoch=world.epoch, store=store_id(world))
    world.advance(5)
    world.report("finish", run, attempt=1, status="completed", caller=automation)
    world.report("log", stranger, caller=-1)
    (known,) = world.do(world.store.unknown_runs.list([automation]))
    assert (known.id, known.op, known.said, known.pub) == (run, "finish", "completed", 1_000_000)
    assert (known.last_at - known.first_at).total_seconds() == 5
    assert {one.id for one in world.do(world.store.unknown_runs.list())} == {run, stranger}
    assert world.do(world.store.counts())[automation].unknown == 1
    assert world.do(world.store.summary(automation)).counts.unknown == 1
    assert world.do(world.store.unknown_runs.discard(run))
    assert not world.do(world.store.unknown_runs.discard(run))
    assert world.do(world.store.counts())[automation].unknown == 0


def test_unknown_runs_of_a_store_that_was_not_restored_are_no_ones_alarm(world: World) -> None:
    automation = world.automation()
    world.report("log", uuid4(), caller=automation)
    assert len(world.do(world.store.unknown_runs.list([automation]))) == 1
    assert world.do(world.store.counts())[automation].unknown == 0


def test_records_go_after_a_week(world: World) -> None:
    world.report("log", uuid4(), caller=world.automation())
    world.advance(8 * 24 * 3600)
    world.do(world.store.prune(world.now))
    assert world.do(world.store.unknown_runs.list()) == []


def test_an_unknown_run_that_is_accepted_again_keeps_its_id(world: World) -> None:
    automation = world.automation()
    lost = uuid4()
    assert world.start(lost, caller=automation).status == 404
    world.accept_all([NewRun(automation, run_id=lost)])
    world.claim(automation)
    assert world.start(lost, caller=automation).status == 200
    assert world.finish(lost).status == 200
    assert world.state(lost) is RunState.SUCCEEDED


def test_a_dead_letter_shows_it_too(world: World) -> None:
    def letter(pub: int) -> Letter:
        headers = {"maestro-store": store_id(world), "maestro-epoch": world.epoch, "maestro-pub": pub}
        return read(Delivery(1, pub, False, "maestro.dlx", "q", headers, str(uuid4()), "application/json", b"{}"))

    world.accept(world.automation())
    world.do(DeadLetters(world.store).record([letter(0)], epoch=world.epoch, store_id=store_id(world)))
    assert how(world) is None
    world.do(DeadLetters(world.store).record([letter(1_000_000)], epoch=world.epoch, store_id=store_id(world)))
    assert how(world) == restored.AHEAD
