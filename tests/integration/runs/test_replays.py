"""Plans and replays on both databases: items in order, each accepted once, what failed again after a resume."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.integration.runs.world import World

from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import AUTOMATION
from maestro.reprocessing import planner
from maestro.reprocessing.plan import Digest
from maestro.reprocessing.replay import Stepper, resumed
from maestro.resources import Reprocessing
from maestro.runs import replays
from maestro.runs.errors import StaleEpoch
from maestro.runs.model import to_micros
from maestro.runs.replays import Replay, Replays


def wish(store: World, automation: int, name: str = "fix", **spec: Any) -> Reprocessing:
    registration = store.store.registrations()[automation]
    given = {"solution": registration.solution, "select": {"automations": [registration.name]}, **spec}
    meta = {"name": name, "namespace": "team", "uid": f"{name}-{registration.uid}"}
    return Reprocessing.model_validate({"kind": "Reprocessing", "metadata": meta, "spec": given})


def automations(store: World, **templates: dict[str, list[str]]) -> ObjectCache:
    """The objects of the registered Automations, as far as the planner reads them."""
    cache = ObjectCache(AUTOMATION)
    for known in store.store.registrations().values():
        meta = {"namespace": known.namespace, "name": known.name, "uid": known.uid, "resourceVersion": "1"}
        spec = {"solution": known.solution, **templates.get(known.uid.replace("-", "_"), {})}
        cache.upsert({"metadata": meta, "spec": spec})
    return cache


def planned(store: World, asked: Reprocessing, cache: ObjectCache) -> Replay:
    area, now = Replays(store.store, lambda: store.epoch), to_micros(store.now)
    meta = asked.metadata
    made = store.do(area.create(meta.uid, asked.id, meta.name, asked.solution_id, "s", now))
    survey, predicted = store.do(planner.make(area, asked, planner.scope_of(store.store, cache, asked), made))
    return store.do(
        area.change(
            made,
            planned_at=now,
            approved_at=now,
            began_at=now,
            replaying_at=now,
            plan_hash="h",
            allowed=100,
            digest=survey.digest.text,
            total=survey.digest.total,
            predicted=predicted,
        )
    )


def ended(store: World, automation: int, count: int, **parameters: Any) -> list[UUID]:
    runs = []
    for n in range(count):
        store.advance(1)
        runs += store.accept(automation, parameters={"n": n, **parameters})
    store.claim(automation)
    store.finish_all(automation)
    return runs


def test_items_are_replayed_in_order_each_once(store: World) -> None:
    automation = store.automation()
    originals = ended(store, automation, 5)
    asked = wish(store, automation, parallelism=2)
    replay = planned(store, asked, automations(store))
    area = Replays(store.store, lambda: store.epoch)
    stepper = Stepper(area, replay, asked, {})
    order: list[UUID | None] = []
    for _ in range(3):
        advance = store.do(stepper.step(may_start=True))
        again = store.do(Stepper(area, replay, asked, {}).step(may_start=True))
        assert (again.started, again.in_flight) == (0, advance.in_flight), "another process finds them in flight"
        for claimed in store.claim(automation):
            assert claimed.reprocessing == "fix"
            order.append(store.get(claimed.id).replay_of)
        store.finish_all(automation)
    final = store.do(stepper.step(may_start=True))
    assert final.complete
    assert (final.replay.succeeded, final.replay.failed) == (5, 0)
    assert order == originals
    items = store.do(area.items(replay.uid)) or []
    assert [(item.run, item.state) for item in items] == [(run, "Succeeded") for run in originals]


def test_a_failure_stops_it_and_what_failed_goes_again(store: World) -> None:
    automation = store.automation()
    ended(store, automation, 3)
    asked = wish(store, automation)
    replay = planned(store, asked, automations(store))
    area = Replays(store.store, lambda: store.epoch)
    stepper = Stepper(area, replay, asked, {})
    store.do(stepper.step(may_start=True))
    (claimed,) = store.claim(automation)
    store.start(claimed.id)
    store.finish(claimed.id, "failed", kind="business")
    stopped = store.do(stepper.step(may_start=True))
    assert (stopped.replay.stop_reason, stopped.replay.failed, stopped.started) == ("RunFailed", 1, 0)
    store.do(area.write(lambda t: replays.change(t, replay.pk, **resumed(stopped.replay, t))))
    assert store.do(stepper.step(may_start=False)).started == 0
    advance = store.do(stepper.step(may_start=True))
    assert (advance.started, advance.replay.failed) == (1, 0)
    done = store.do(area.end(advance.replay, "Canceled", "Canceled", "", to_micros(store.now)))
    assert done.outcome == "Canceled"
    assert store.claim(automation) == [], "what hadn't begun is canceled"


def test_what_is_stale_is_predicted_and_joins(store: World) -> None:
    writer = store.automation()
    namespace = store.store.registrations()[writer]
    asked = wish(store, writer)
    cache = automations(
        store, **{namespace.uid.replace("-", "_"): {"reads": ["k/$(params.k)"], "writes": ["k/$(params.k)"]}}
    )
    runs = ended(store, writer, 4, k="a")
    other = ended(store, writer, 1, k="b")
    asked = wish(store, writer, select={"runs": [str(runs[1])]})
    replay = planned(store, asked, cache)
    assert (replay.total, replay.predicted) == (1, 2)
    area = Replays(store.store, lambda: store.epoch)
    stepper = Stepper(area, replay, asked, planner.scope_of(store.store, cache, asked).templates)
    while not (advance := store.do(stepper.step(may_start=True))).complete:
        store.claim(writer)
        store.finish_all(writer)
    assert (advance.replay.added, advance.replay.succeeded) == (2, 3)
    assert Digest.of(3, advance.replay.digest).total == 3
    assert other[0] not in [item.run for item in store.do(area.items(replay.uid)) or []]


def test_one_has_the_turn_and_an_older_leader_writes_nothing(store: World) -> None:
    automation = store.automation()
    ended(store, automation, 1)
    area, now = Replays(store.store, lambda: store.epoch), to_micros(store.now)
    first, second = (
        store.do(area.create(f"{name}-{automation}", f"team.{name}", name, "team.turns", "s", now)) for name in "ab"
    )
    assert store.do(area.take_turn(first, now)) is None
    assert store.do(area.take_turn(first, now)) is None
    assert store.do(area.take_turn(second, now)) == "a"
    store.do(area.end(first, "Finished", "Replayed", "", now))
    assert store.do(area.take_turn(second, now)) is None
    stale = Replays(store.store, lambda: store.epoch - 1)
    try:
        store.do(stale.change(second, total=9))
    except StaleEpoch:
        pass
    else:
        raise AssertionError("it was written")
    store.do(area.forget(first.pk))
    store.do(area.forget(second.pk))
