"""What is written on worker pods about their work, and how seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from maestro.automation.busypods import DELETION_COST, MARKED, BusyPods, Marks, Patch, deletion_costs, long_at_work
from maestro.kube.errors import Forbidden
from maestro.kube.kinds import Kind
from maestro.resources.names import DO_NOT_DISRUPT
from maestro.runs.company import PodLoad

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAFE, KARPENTER = DO_NOT_DISRUPT


def pod(name: str, annotations: Mapping[str, str] | None = None, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name, "uid": name, "annotations": dict(annotations or {}), **meta}}


def load(seconds: float, runs: int = 1) -> PodLoad:
    return PodLoad(runs, NOW - timedelta(seconds=seconds))


def costs(patches: list[Patch]) -> dict[str, str | None]:
    return {patch.name: patch.annotations[DELETION_COST] for patch in patches}


class TestDeletionCosts:
    def test_idle_ones_go_first_then_those_that_have_worked_least(self) -> None:
        loads = {"long": load(3000), "short": load(10), "many": load(10, runs=4)}
        found = costs(deletion_costs([pod(name) for name in ("idle", *loads)], loads, NOW))
        assert "idle" not in found, "no cost is a cost of 0"
        assert 0 < int(found["short"] or 0) < int(found["many"] or 0) < int(found["long"] or 0)

    def test_only_pods_whose_cost_differs_are_written_to(self) -> None:
        pods = [pod("was-busy", {DELETION_COST: "9"}), pod("busy", {DELETION_COST: "5"}), pod("idle")]
        assert costs(deletion_costs(pods, {"busy": load(10)}, NOW)) == {"was-busy": "0"}

    def test_a_pod_that_goes_already_is_left_alone(self) -> None:
        assert deletion_costs([pod("gone", deletionTimestamp="2026-01-01T00:00:00Z")], {"gone": load(5)}, NOW) == []


def test_pods_that_are_long_at_work() -> None:
    loads = {"a": load(901), "b": load(899), "other": load(5000), "goes": load(5000)}
    pods = [pod("a"), pod("b"), pod("c"), pod("goes", deletionTimestamp="2026-01-01T00:00:00Z")]
    assert long_at_work(pods, loads, 900, NOW) == 1


class World:
    """A cluster in memory: what is patched is on the pods."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = {each["metadata"]["name"]: each for each in pods}
        self.loads: dict[str, PodLoad] = {}
        self.now = NOW
        self.patches: list[str] = []
        self.refuses = False
        self.busy = BusyPods(self, self.pods.values, self.read, clock=lambda: self.now, marks=Marks(), most=3)

    async def read(self, automation: int | None) -> Mapping[str, PodLoad]:
        return self.loads

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if self.refuses:
            raise Forbidden(403, "Forbidden", "no")
        self.patches.append(name)
        has = self.pods[name]["metadata"]["annotations"]
        for key, value in body["metadata"]["annotations"].items():
            if value is None:
                has.pop(key, None)
            else:
                has[key] = value
        return self.pods[name]

    def works(self, name: str, seconds: float) -> None:
        """The pod has a Run since `seconds` ago."""
        self.loads[name] = PodLoad(1, self.now - timedelta(seconds=seconds))

    def look(self, after: float = 5.0) -> None:
        self.now += timedelta(seconds=after)
        asyncio.run(self.busy.look())

    def annotations(self, name: str) -> dict[str, str]:
        found: dict[str, str] = self.pods[name]["metadata"]["annotations"]
        return found


class TestMarks:
    def test_a_pod_at_work_is_marked_and_unmarked_when_it_is_idle(self) -> None:
        world = World(pod("a"), pod("b"))
        world.works("a", 10)
        world.look()
        assert {**DO_NOT_DISRUPT, MARKED: f"{SAFE},{KARPENTER}"} == world.annotations("a")
        assert world.annotations("b") == {}
        world.loads.clear()
        for _ in range(6):
            world.look()
            assert SAFE in world.annotations("a")
        world.look()
        assert world.annotations("a") == {}
        assert world.patches == ["a", "a"]

    def test_short_runs_cause_no_writes(self) -> None:
        world = World(pod("a"))
        for _ in range(100):
            world.works("a", 3)
            world.look()
        assert world.patches == []

    def test_a_pod_that_goes_from_run_to_run_is_written_to_once(self) -> None:
        world = World(pod("a"))
        for _ in range(50):
            world.works("a", 20)
            world.look()
            world.loads.clear()
            world.look()
        assert world.patches == ["a"]

    def test_what_the_template_gives_stays(self) -> None:
        world = World(pod("a", {SAFE: "false"}))
        world.works("a", 60)
        world.look()
        assert world.annotations("a")[MARKED] == KARPENTER
        world.loads.clear()
        world.look()
        world.look(after=31)
        assert world.annotations("a") == {SAFE: "false"}

    def test_a_storm_is_spread(self) -> None:
        world = World(*(pod(f"p{n}") for n in range(8)))
        for n in range(8):
            world.works(f"p{n}", 60)
        world.look()
        assert len(world.patches) == 3
        world.look()
        world.look()
        assert sorted(world.patches) == [f"p{n}" for n in range(8)]

    def test_without_the_right_to_annotate_it_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        world = World(pod("a"))
        world.refuses = True
        world.works("a", 60)
        world.look()
        world.look()
        assert caplog.text.count("can't be annotated") == 1
