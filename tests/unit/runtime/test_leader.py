"""The election's rules, on clocks that stand still; what a real API server says is in the integration tests."""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any

import pytest
from tests.unit.runtime.clocks import FakeClock

from maestro.runtime.leader import Candidate, LeaderElector, LeaseTimes, process_identity

TIMES = LeaseTimes(duration=15.0, renew_within=10.0, retry=2.0)


class Server:
    """One Lease with optimistic locking, as the API server keeps it."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.broken: Exception | None = None
        self.closed = 0
        self.race: Any = None

    def _store(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        lease = copy.deepcopy(lease)
        lease.setdefault("metadata", {})["resourceVersion"] = str(self.version)
        self.lease = lease
        return copy.deepcopy(lease)

    async def get(self) -> dict[str, Any] | None:
        if self.broken is not None:
            raise self.broken
        lease = copy.deepcopy(self.lease)
        if self.race is not None:
            self.race, race = None, self.race
            race()
        return lease

    async def create(self, spec: dict[str, Any]) -> dict[str, Any] | None:
        return None if self.lease is not None else self._store({"spec": spec})

    async def replace(self, lease: dict[str, Any]) -> dict[str, Any] | None:
        assert self.lease is not None
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return None
        return self._store(lease)

    async def close(self) -> None:
        self.closed += 1


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.clock = FakeClock()
        self.a = self.candidate("a")
        self.b = self.candidate("b")

    def candidate(self, name: str) -> Candidate:
        return Candidate(self.server, name, times=TIMES, clock=self.clock.wall, ticks=self.clock)

    def step(self, candidate: Candidate) -> bool:
        return asyncio.run(candidate.step())

    @property
    def spec(self) -> dict[str, Any]:
        assert self.server.lease is not None
        spec: dict[str, Any] = self.server.lease["spec"]
        return spec


def test_the_first_wins_and_the_second_waits() -> None:
    world = World()
    assert world.step(world.a)
    assert not world.step(world.b)
    assert world.spec["holderIdentity"] == "a"
    assert world.spec["leaseDurationSeconds"] == 15


def test_a_lease_that_does_not_change_is_taken_after_its_duration_as_seen_here() -> None:
    world = World()
    world.step(world.a)
    world.clock.advance(1000.0)
    assert not world.step(world.b), "only now is it seen: the other's clock proves nothing"
    world.clock.advance(15.0)
    assert not world.step(world.b)
    world.clock.advance(0.1)
    assert world.step(world.b)
    assert world.spec["leaseTransitions"] == 1
    assert not world.step(world.a)
    assert not world.a.leading


def test_a_lease_that_is_renewed_is_never_taken() -> None:
    world = World()
    acquired = None
    for _ in range(20):
        assert world.step(world.a)
        acquired = acquired or world.spec["acquireTime"]
        assert not world.step(world.b)
        world.clock.advance(9.0)
    assert world.spec["acquireTime"] == acquired
    assert world.spec["leaseTransitions"] == 0


def test_the_holder_gives_up_before_anyone_else_can_take_the_lease() -> None:
    world = World()
    world.step(world.a)
    world.step(world.b)
    world.server.broken = ConnectionError("away")
    with pytest.raises(ConnectionError):
        world.step(world.a)
    assert world.a.leading, "one failure is no loss"
    world.clock.advance(10.0)
    assert not world.a.leading
    world.server.broken = None
    assert not world.step(world.b)


def test_a_stolen_lease_is_a_loss_at_the_next_look() -> None:
    world = World()
    world.step(world.a)
    assert world.server.lease is not None
    world.server._store({**world.server.lease, "spec": {**world.spec, "holderIdentity": "thief"}})
    assert not world.step(world.a)
    assert not world.a.leading


def test_who_loses_the_race_for_the_write_has_not_won() -> None:
    world = World()
    world.step(world.a)
    world.step(world.b)
    c = world.candidate("c")
    world.step(c)
    world.clock.advance(16.0)
    world.server.race = lambda: world.step_in_thread(c)  # type: ignore[attr-defined]

    def step_in_thread(candidate: Candidate) -> None:
        thread = threading.Thread(target=lambda: asyncio.run(candidate.step()))
        thread.start()
        thread.join()

    world.step_in_thread = step_in_thread  # type: ignore[attr-defined]
    assert not world.step(world.b)
    assert world.spec["holderIdentity"] == "c"


def test_a_released_lease_is_free_at_once() -> None:
    world = World()
    world.step(world.a)
    asyncio.run(world.a.release())
    assert not world.a.leading
    assert world.step(world.b)
    asyncio.run(world.a.release())
    assert world.spec["holderIdentity"] == "b", "nobody gives back what isn't his"


def test_the_process_ends_when_the_lease_is_lost() -> None:
    server = Server()
    exits: list[int] = []
    started, ended = threading.Event(), threading.Event()

    async def connect() -> Server:
        return server

    def exit_(code: int) -> None:
        exits.append(code)
        ended.set()

    times = LeaseTimes(duration=0.4, renew_within=0.3, retry=0.01, request=0.2)
    elector = LeaderElector(connect, "me", started.set, times=times, exit=exit_)
    elector.start()
    assert started.wait(10.0)
    assert elector.is_leader
    server.broken = ConnectionError("away")
    assert ended.wait(10.0)
    assert exits == [1]
    assert not elector.is_leader
    elector.stop()
    assert server.closed == 1


def test_a_request_that_hangs_does_not_hold_up_the_end() -> None:
    class Hanging(Server):
        hang = False

        async def get(self) -> dict[str, Any] | None:
            if self.hang:
                await asyncio.Event().wait()
            return await super().get()

    server = Hanging()
    started, ended = threading.Event(), threading.Event()

    async def connect() -> Server:
        return server

    times = LeaseTimes(duration=0.4, renew_within=0.3, retry=0.01, request=3600.0)
    elector = LeaderElector(connect, "me", started.set, times=times, exit=lambda _: ended.set())
    elector.start()
    assert started.wait(10.0)
    server.hang = True
    assert ended.wait(10.0)
    elector.stop()


def test_a_clean_stop_gives_the_lease_back_and_ends_nothing() -> None:
    server = Server()
    started = threading.Event()

    async def connect() -> Server:
        return server

    def never(_: int) -> None:
        raise AssertionError("the process must not end")

    elector = LeaderElector(connect, "me", started.set, times=LeaseTimes(retry=0.01), exit=never)
    elector.start()
    assert started.wait(10.0)
    elector.stop()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""
    assert not elector.is_leader


def test_stopping_before_the_start_of_the_thread_is_no_race() -> None:
    async def connect() -> Server:
        return Server()

    elector = LeaderElector(connect, "me", lambda: None)
    elector.stop()
    elector.start()
    elector.stop()
    assert not elector.is_leader


def test_a_broken_elector_ends_the_process() -> None:
    ended = threading.Event()

    async def connect() -> Server:
        raise RuntimeError("no configuration")

    elector = LeaderElector(connect, "me", lambda: None, exit=lambda _: ended.set())
    elector.start()
    assert ended.wait(10.0)


def test_two_processes_of_one_name_are_two_holders() -> None:
    assert process_identity("pod-0") != process_identity("pod-0")


def test_times_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="renew_within"):
        LeaseTimes(duration=5.0, renew_within=10.0)
