"""A Schedule's ledger over HTTP, one more Run now, and a past range once again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.http.api import Api
from tests.integration.http.test_kubernetes import World, kubernetes_authenticator
from tests.integration.http.test_resources import API_USER, SCHEDULES, rights

from maestro.kube.client import KubeClient
from maestro.runs.ticks import Entry, Outcome, TickLedger


@pytest.fixture(scope="module")
def world(apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("ticks")
    apiserver.apply(*rights())
    kubeconfig = apiserver.kubeconfig_for(API_USER)

    async def writer() -> KubeClient:
        return await KubeClient.connect(kubeconfig)

    with apiserver.namespace("ticks", labels={}) as namespace:
        api = Api(folder, kubernetes_authenticator(apiserver), writer=writer, default_namespace=namespace)
        try:
            world = World(apiserver, namespace, api)
            verbs = [(verb, "schedules") for verb in ("get", "list", "create")]
            world.role("viewer", ("get", "schedules"))
            world.role("planner", *verbs, ("create", "automations/execute"))
            made = api.call(
                "POST", SCHEDULES, {"name": "hourly", "automation": "orders", "schedule": "0 * * * *"},
                token=world.token("planner"),
            )  # fmt: skip
            assert made.status == 201, made.body
            yield world
        finally:
            api.close()


def _uid(world: World) -> str:
    return str(world.get("schedule", "hourly")["metadata"]["uid"])


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


PATH = f"{SCHEDULES}/hourly"
DAY = datetime.fromisoformat("2024-03-01T00:00:00+00:00")


def test_the_ledger_is_paged_and_filtered(world: World) -> None:
    api, token = world.api, world.token("viewer")
    ledger = TickLedger(api.store)
    outcomes = [(Outcome.SKIPPED, "Gateway"), (Outcome.MISSED, "Outage"), (Outcome.SKIPPED, "Concurrency")]
    entries = [Entry(DAY + timedelta(hours=n), outcome, why) for n, (outcome, why) in enumerate(outcomes)]
    api.loop.run(ledger.record(_uid(world), f"{world.namespace}.hourly", "", DAY, entries))
    first = api.call("GET", f"{PATH}/ticks?limit=2", token=token)
    assert first.status == 200, first.body
    assert [item["reason"] for item in first.json["items"]] == ["Concurrency", "Outage"]
    rest = api.call("GET", f"{PATH}/ticks?limit=2&before={first.json['next']}", token=token)
    assert [item["reason"] for item in rest.json["items"]] == ["Gateway"]
    assert rest.json["next"] is None
    missed = api.call("GET", f"{PATH}/ticks?outcome=Missed,Started", token=token)
    assert [(item["outcome"], item["origin"]) for item in missed.json["items"]] == [("Missed", "Timetable")]
    bad = api.call("GET", f"{PATH}/ticks?outcome=Perhaps", token=token)
    assert bad.status == 422
    assert bad.json["details"][0]["path"].startswith("outcome")
    assert api.call("GET", f"{SCHEDULES}/nobody/ticks", token=token).status in (403, 404)


def test_run_now_once_for_each_key(world: World) -> None:
    api, token = world.api, world.token("planner")
    assert api.call("POST", f"{PATH}/run", token=world.token("viewer")).status == 403
    first = api.call("POST", f"{PATH}/run", token=token, headers={"Idempotency-Key": "mine"})
    assert first.status == 202, first.body
    assert len(first.json["times"]) == 1
    again = api.call("POST", f"{PATH}/run", token=token, headers={"Idempotency-Key": "mine"})
    assert again.json["times"] == []
    found = api.call("GET", f"{PATH}/ticks?outcome=Waiting", token=token).json["items"]
    assert [(item["reason"], item["origin"]) for item in found] == [("RunNow", "RunNow")]


def test_backfill_with_a_preview(world: World) -> None:
    api, token = world.api, world.token("planner")
    wanted: dict[str, Any] = {"from": _time(DAY + timedelta(days=1)), "to": _time(DAY + timedelta(days=1, hours=3))}
    shown = api.call("POST", f"{PATH}/backfill", {**wanted, "preview": True}, token=token)
    assert shown.status == 200, shown.body
    assert len(shown.json["times"]) == 4
    asked = api.call("POST", f"{PATH}/backfill", wanted, token=token)
    assert asked.status == 202, asked.body
    assert asked.json["times"] == shown.json["times"]
    assert api.call("POST", f"{PATH}/backfill", wanted, token=token).json["times"] == []
    waiting = api.call("GET", f"{PATH}/ticks?outcome=Waiting", token=token).json["items"]
    assert sum(item["reason"] == "Backfill" for item in waiting) == 4


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"from": "2024-03-02T00:00:00Z", "to": "2024-03-01T00:00:00Z"}, "from"),
        ({"from": "2024-03-02T00:00:00Z", "to": "2999-03-01T00:00:00Z"}, "to"),
        ({"from": "2020-01-01T00:00:00Z", "to": "2024-03-01T00:00:00Z"}, "to"),
        ({"from": "yesterday", "to": "2024-03-01T00:00:00Z"}, "from"),
        ({"to": "2024-03-01T00:00:00Z"}, "from"),
    ],
)
def test_bad_ranges(world: World, body: dict[str, Any], path: str) -> None:
    answer = world.api.call("POST", f"{PATH}/backfill", body, token=world.token("planner"))
    assert answer.status == 422, answer.body
    assert answer.json["details"][0]["path"] == path
