"""The cache: order, deletions and lists that come late."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.runtime.clocks import FakeClock

from maestro.kube.cache import ObjectCache, without_bookkeeping
from maestro.kube.kinds import AUTOMATION, ObjectKey


def obj(name: str, version: int, *, uid: str = "", namespace: str = "ns") -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    }


class Changes:
    def __init__(self, cache: ObjectCache) -> None:
        self.seen: list[tuple[str, bool, bool]] = []
        cache.observe(lambda key, old, new: self.seen.append((key.name, old is not None, new is not None)))


def test_objects_come_and_go() -> None:
    cache = ObjectCache(AUTOMATION)
    changes = Changes(cache)
    assert cache.upsert(obj("a", 1))
    assert cache.upsert(obj("a", 2))
    assert cache.upsert(obj("b", 3, namespace="other"))
    assert cache.get("ns", "a") == obj("a", 2)
    assert cache.values("ns") == [obj("a", 2)]
    assert len(cache.values()) == len(cache) == 2
    assert cache.keys() == [ObjectKey("ns", "a"), ObjectKey("other", "b")]
    assert cache.remove("ns", "a")
    assert not cache.remove("ns", "a")
    assert cache.get("ns", "a") is None
    assert cache.values("ns") == []
    assert changes.seen == [("a", False, True), ("a", True, True), ("b", False, True), ("a", True, False)]


def test_the_same_and_the_older_change_nothing() -> None:
    cache = ObjectCache()
    cache.upsert(obj("a", 10))
    changes = Changes(cache)
    assert not cache.upsert(obj("a", 10))
    assert not cache.upsert(obj("a", 9))
    assert changes.seen == []


def test_versions_are_numbers_of_any_length() -> None:
    cache = ObjectCache()
    cache.upsert(obj("a", 99))
    assert cache.upsert(obj("a", 100))
    assert not cache.upsert(obj("a", 99))


def test_versions_that_are_no_numbers_are_taken_as_they_come() -> None:
    cache = ObjectCache()
    first, second = obj("a", 1), obj("a", 1)
    first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"] = "x9", "x10"
    assert cache.upsert(first)
    assert cache.upsert(second)
    assert cache.upsert(first)


def test_the_deletion_of_a_former_object_spares_its_successor() -> None:
    cache = ObjectCache()
    cache.upsert(obj("a", 1, uid="old"))
    cache.upsert(obj("a", 5, uid="new"))
    assert not cache.remove("ns", "a", uid="old", resource_version="3")
    assert cache.get("ns", "a") == obj("a", 5, uid="new")


def test_a_list_from_before_a_deletion_does_not_bring_the_object_back() -> None:
    cache = ObjectCache()
    cache.upsert(obj("a", 1))
    cache.remove("ns", "a", uid="uid-a", resource_version="7")
    cache.replace([obj("a", 1)], resource_version="6")
    assert cache.get("ns", "a") is None


def test_what_left_a_selector_may_come_back() -> None:
    cache = ObjectCache()
    cache.upsert(obj("a", 1))
    cache.remove("ns", "a", uid="uid-a", resource_version="7")
    assert cache.upsert(obj("a", 8))


def test_a_list_prunes_what_it_lacks() -> None:
    cache = ObjectCache(AUTOMATION)
    for name in "abc":
        cache.upsert(obj(name, 1))
    changes = Changes(cache)
    assert cache.replace([obj("b", 1), obj("d", 4)], resource_version="5") == [
        ObjectKey("ns", "a"),
        ObjectKey("ns", "c"),
    ]
    assert changes.seen == [("a", True, False), ("c", True, False), ("d", False, True)]


def test_a_list_does_not_prune_what_is_younger_than_itself() -> None:
    cache = ObjectCache()
    cache.upsert(obj("young", 9))
    assert cache.replace([], resource_version="8") == []
    assert cache.get("ns", "young") is not None


def test_a_list_of_one_namespace_prunes_only_there() -> None:
    cache = ObjectCache(namespaces=["one", "two"])
    cache.upsert(obj("a", 1, namespace="one"))
    cache.upsert(obj("b", 1, namespace="two"))
    assert cache.replace([], resource_version="5", namespace="one") == [ObjectKey("one", "a")]
    assert cache.get("two", "b") is not None


def test_synced_and_heard_wait_for_the_last_namespace() -> None:
    clock = FakeClock()
    cache = ObjectCache(namespaces=["one", "two"], clock=clock)
    assert not cache.synced
    assert not cache.fresh(75.0)
    cache.replace([], namespace="one")
    assert not cache.synced
    assert cache.silent_for() == float("inf")
    clock.advance(50.0)
    cache.replace([], namespace="two")
    assert cache.synced
    assert cache.silent_for() == 50.0
    clock.advance(30.0)
    cache.heard("two")
    assert not cache.fresh(75.0), "the other namespace has been silent for too long"
    cache.heard("one")
    assert cache.fresh(75.0)


def test_a_cluster_wide_cache_hears_of_any_namespace() -> None:
    clock = FakeClock()
    cache = ObjectCache(clock=clock)
    cache.replace([])
    clock.advance(10.0)
    cache.heard("some-namespace")
    assert cache.silent_for() == 0.0


def test_one_observer_does_not_spoil_it_for_the_others(caplog: pytest.LogCaptureFixture) -> None:
    cache = ObjectCache()
    seen: list[ObjectKey] = []

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    cache.observe(broken)
    cache.subscribe(lambda key, _: seen.append(key))
    cache.upsert(obj("a", 1))
    assert seen == [ObjectKey("ns", "a")]
    assert "boom" in caplog.text


def test_bookkeeping_is_left_out() -> None:
    full = obj("a", 1)
    full["metadata"]["managedFields"] = [{"manager": "x"}]
    assert without_bookkeeping(full) == obj("a", 1)
