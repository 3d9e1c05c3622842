"""What people are told: found once, kept until it is sent, tried again within bounds; on both databases."""

from __future__ import annotations

import pytest
from tests.integration.runs.test_history import ended
from tests.integration.runs.world import World

from maestro.runs.errors import StaleEpoch
from maestro.runs.model import to_micros
from maestro.runs.outbox import ATTEMPTS, Notification, Outbox, Told, Watched

ALL = frozenset({"Failed", "Recovered", "DeadLettered", "Paused"})


class Box:
    """The outbox of one Automation."""

    def __init__(self, world: World, **policy: int) -> None:
        self.world = world
        self.key = world.automation(**policy)
        self.outbox = Outbox(world.store)
        self.look()

    def look(self, *told: Told, paused: bool = False) -> int:
        self.world.advance(10)
        watched = Watched(self.key, "team.robot", told or (Told("ops", ALL),), paused)  # type: ignore[arg-type]
        return self.world.do(self.outbox.look([watched], self.now, epoch=self.world.epoch))

    @property
    def now(self) -> int:
        return to_micros(self.world.now)

    def due(self) -> list[Notification]:
        found = self.world.do(self.outbox.due(self.now, 1000))
        return [notification for notification in found if notification.automation == self.key]


def test_failures_are_told_once_and_together_and_the_recovery_after_them(store: World) -> None:
    box = Box(store)
    assert box.look() == 0
    runs = ended(store, box.key, "failed", "failed", "failed")
    assert box.look() == 1
    (told,) = box.due()
    assert (told.target, told.event, told.title) == ("ops", "Failed", "Maestro: team.robot Failed")
    assert any(str(run) in told.body for run in runs)
    assert "2 more failed" in told.body
    assert box.look() == 0, "what was told isn't told again"
    ended(store, box.key, "completed")
    assert box.look() == 1
    assert [notification.event for notification in box.due()] == ["Failed", "Recovered"]
    ended(store, box.key, "completed")
    assert box.look() == 0, "nothing had failed meanwhile"


def test_what_was_before_somebody_wanted_to_know_isnt_told(store: World) -> None:
    automation = store.automation()
    ended(store, automation, "failed")
    box = Box(store)
    ended(store, box.key, "failed")
    assert box.look(Told("quiet", frozenset({"Paused"}))) == 0
    assert box.look(Told("quiet", frozenset({"Paused"})), paused=True) == 1
    assert box.look(Told("quiet", frozenset({"Paused"})), paused=True) == 0
    assert [notification.event for notification in box.due()] == ["Paused"]


def test_what_cant_be_sent_is_tried_again_ever_later_and_then_given_up(store: World) -> None:
    box = Box(store)
    ended(store, box.key, "failed")
    box.look()
    waits = []
    while True:
        (notification,) = box.due()
        again = store.do(box.outbox.failed(notification, box.now, epoch=store.epoch))
        if not again:
            break
        began = store.now
        assert box.due() == []
        while not box.due():
            store.advance(10)
        waits.append(round((store.now - began).total_seconds()))
    assert box.due() == []
    assert len(waits) == ATTEMPTS - 1
    assert waits == sorted(waits)
    assert waits[0] == 30


def test_an_older_leader_neither_looks_nor_ticks_off(store: World) -> None:
    box = Box(store)
    ended(store, box.key, "failed")
    box.look()
    (notification,) = box.due()
    stale = store.epoch
    store.epoch = store.do(store.store.win_leadership()).epoch
    with pytest.raises(StaleEpoch):
        store.do(box.outbox.done(notification, epoch=stale))
    assert box.due() == [notification]
    store.do(box.outbox.done(notification, epoch=store.epoch))
    assert box.due() == []
