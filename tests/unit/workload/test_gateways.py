"""The gateways in memory: they follow the cache, and say when they don't know."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.runtime.clocks import FakeClock

from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import REPROCESSING
from maestro.runs.gateway import gateway
from maestro.workload.gateways import FRESH_SECONDS, Gateways


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cache = ObjectCache(REPROCESSING, clock=self.clock)
        self.gateways = Gateways(self.cache, self.clock.wall)
        self.moved: list[str] = []
        self.gateways.on_change(self.moved.append)
        self.version = 0

    def put(self, name: str, phase: str = "Running", solution: str = "prices", **spec: Any) -> None:
        self.version += 1
        status = {"phase": phase, "plan": {"hash": "h"}, "approval": {"at": self.clock.wall().isoformat()}}
        meta = {
            "namespace": "shop", "name": name, "uid": f"u-{name}", "resourceVersion": str(self.version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        spec = {"solution": solution, "decision": "Approved", "planHash": "h", **spec}
        self.cache.upsert({"metadata": meta, "spec": spec, "status": status})

    def verdict(self, solution_id: str = "shop.prices") -> str:
        return self.gateways.answer(solution_id).verdict


def test_unknown_until_listed_and_after_a_silence() -> None:
    world = World()
    assert world.verdict() == "unknown"
    assert not world.gateways.synced
    world.cache.replace([])
    assert world.verdict() == "open"
    world.put("a")
    world.clock.advance(FRESH_SECONDS)
    assert world.verdict() == "blocked"
    world.clock.advance(1)
    assert (world.verdict(), world.verdict("shop.unheard-of")) == ("unknown", "unknown")
    assert world.gateways.shut("shop.prices")  # the leader goes on from what it heard last
    world.cache.heard()
    assert world.verdict() == "blocked"


def test_it_follows_every_change() -> None:
    world = World()
    world.cache.replace([])
    world.put("a")
    world.put("b", phase="Approved")
    assert world.gateways.blocked_by("shop.prices") == "a"
    assert world.gateways.shut_solutions() == ["shop.prices"]
    world.put("a", phase="Finished")
    assert world.gateways.blocked_by("shop.prices") == "b"
    world.cache.remove("shop", "b")
    assert world.gateways.blocked_by("shop.prices") is None
    assert world.gateways.shut_solutions() == []
    assert world.moved == ["shop.prices"] * 4
    world.put("a", phase="Finished", suspend=True)
    assert len(world.moved) == 4  # nothing moved


def test_max_block_passes_by_itself() -> None:
    world = World()
    world.cache.replace([])
    world.put("a", maxBlock="30s")
    assert world.gateways.next_opening("shop.prices") == world.clock.wall() + timedelta(seconds=30)
    world.clock.advance(30)
    assert world.verdict() == "open"
    assert world.gateways.next_opening("shop.prices") is None


PHASES = ("PendingApproval", "Approved", "Running", "Stopped", "Finished", "Canceled")
STEPS = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.sampled_from([*PHASES, None]), st.sampled_from(["prices", "stock"]), st.booleans()
    ),
    max_size=30,
)


@given(STEPS)
def test_it_always_equals_the_definition(steps: list[tuple[str, str | None, str, bool]]) -> None:
    world = World()
    world.cache.replace([])
    for name, phase, solution, cancel in steps:
        if phase is None:
            world.cache.remove("shop", name)
        else:
            world.put(name, phase, solution, cancel=cancel)
        for solution_id in ("shop.prices", "shop.stock"):
            now: datetime = world.clock.wall()
            assert world.gateways.answer(solution_id) == gateway(world.cache.values(), solution_id, now)
