"""Plans over HTTP: of a selection before anything exists, against a real run store; the items of one that does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.http.api import Api

from maestro.kube.kinds import REPROCESSING
from maestro.reprocessing import planner
from maestro.resources.reprocessing import Reprocessing
from maestro.runs.model import to_micros
from maestro.runs.replays import Replays

PREVIEW = "/api/v1/reprocessings/preview"
NOBODY = "01920000-0000-7000-8000-000000000001"


@pytest.fixture
def api(tmp_path: Path) -> Any:
    running = Api(tmp_path)
    try:
        yield running
    finally:
        running.close()


def ended(api: Api, automation: str, parameters: list[dict[str, Any]]) -> list[str]:
    """Accept Runs and cancel them, so that they have ended; their ids in order."""
    lines = [{"parameters": each} for each in parameters]
    accepted = api.call("POST", f"/api/v1/automations/{automation}/execute-many", lines)
    assert accepted.status == 202, accepted.body
    ids = [item["job_id"] for item in accepted.json["items"]]
    for run_id in ids:
        assert api.call("POST", f"/api/v1/jobs/{run_id}/cancel").status == 200
    return ids


def test_the_plan_of_a_selection(api: Api) -> None:
    api.automation("prices", solution="billing", writes=["price-list/$(params.month)"])
    api.automation("invoice", solution="billing", reads=["price-list/$(params.month)"])
    api.automation("elsewhere", solution="other")
    lists = ended(api, "prices", [{"month": "march"}])
    march = ended(api, "invoice", [{"month": "march", "n": n} for n in range(3)])
    ended(api, "invoice", [{"month": "april", "n": 9}])
    ended(api, "elsewhere", [{"month": "march"}])

    def plan(**select: Any) -> Any:
        answer = api.call("POST", PREVIEW, {"solution": "billing", "select": select})
        assert answer.status == 200, answer.body
        return answer.json

    found = plan(reads=["price-list/march"])
    assert (found["total"], found["predictedAdditions"]) == (3, 0)
    assert [run["id"] for run in found["preview"]] == march
    assert found["preview"][0] == {"id": march[0], "automation": "invoice", "state": "Canceled"}
    assert plan(reads=["price-list/march"])["hash"] == found["hash"], "the same selection, the same store"
    # What the list's replay would write makes the invoices stale; canceled ones have nothing that could be.
    assert plan(automations=["prices"])["total"] == len(lists)
    nothing = plan(states=["Failed"])
    assert (nothing["total"], nothing["preview"]) == (0, [])


@pytest.mark.parametrize(
    ("body", "path", "words", "reason"),
    [
        ({"solution": "shop"}, "solution", "no Automation of team belongs to shop", "UnknownSolution"),
        ({"select": {"automations": ["cut"]}}, "select.automations", "no Automation", "UnknownAutomation"),
        ({"select": {"runs": [NOBODY]}}, "select.runs", NOBODY, "UnknownRuns"),
        ({"select": {}}, "select", "at least one of runs", None),
        ({"select": {"timeField": "startedAt"}}, "select", "at least one of runs", None),
        ({"select": {"from": "2026-02-02T00:00:00Z", "to": "2026-02-01T00:00:00Z"}}, "select.from", "later", None),
        ({"select": {"states": ["Running"]}}, "select.states.0", "one of", None),
        ({"select": None}, "select", "required", None),
        ({"drainTimeout": "-3s"}, "drainTimeout", "", None),
        ({"name": 7}, "name", "", None),
    ],
)
def test_bad_selections(api: Api, body: dict[str, Any], path: str, words: str, reason: str | None) -> None:
    api.automation("invoice", solution="billing")
    given = {"solution": "billing", "select": {"states": ["Failed"]}, **body}
    answer = api.call("POST", PREVIEW, given)
    assert answer.status == 422, answer.body
    assert answer.json["details"][0]["path"] == path, answer.body
    assert words in answer.json["message"], answer.body
    assert answer.json.get("reason") == reason


def test_a_run_that_has_not_ended(api: Api) -> None:
    api.automation("invoice", solution="billing")
    run = api.call("POST", "/api/v1/automations/invoice/execute", {}).json["job_id"]
    answer = api.call("POST", PREVIEW, {"solution": "billing", "select": {"runs": [run]}})
    assert (answer.status, answer.json["reason"]) == (422, "RunsNotEnded")
    assert run in answer.json["message"]


def test_previews_are_for_those_who_may_make_one(api: Api) -> None:
    body = {"solution": "billing", "select": {"states": ["Failed"]}}
    refused = api.call("POST", PREVIEW, body, token="bob")
    assert (refused.status, refused.json["message"]) == (403, "bob may not create reprocessings in namespace team")
    assert api.call("POST", PREVIEW, body, token=None).status == 401


def test_items_page_by_page(api: Api) -> None:
    api.automation("invoice", solution="billing")
    ids = ended(api, "invoice", [{"n": n} for n in range(25)])
    made = api.call("POST", "/api/v1/reprocessings", {"solution": "billing", "select": {"states": ["Canceled"]}})
    assert made.status == 201, made.body
    path = f"/api/v1/reprocessings/{made.json['name']}/items"
    assert api.call("GET", path).json == {"items": [], "next": None}, "not planned yet"

    async def plan() -> None:
        reprocessing = Reprocessing.model_validate(
            await api.objects.get(REPROCESSING, "team", made.json["name"])  # as the controller reads it
        )
        area = Replays(api.store)
        replay = await area.create(
            reprocessing.metadata.uid, reprocessing.id, made.json["name"], reprocessing.solution_id, "",
            to_micros(api.store.clock()),
        )  # fmt: skip
        await planner.make(area, reprocessing, planner.scope_of(api.store, api.cache, reprocessing), replay)

    api.loop.run(plan())
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer = api.call("GET", f"{path}?limit=10{cursor}")
        assert answer.status == 200, answer.body
        found += answer.json["items"]
        if answer.json["next"] is None:
            break
        cursor = f"&cursor={answer.json['next']}"
    assert [item["run"] for item in found] == ids
    first = {key: found[0][key] for key in ("automationId", "runState", "state", "replayedBy", "added")}
    assert first == {
        "automationId": "team.invoice", "runState": "Canceled", "state": "Waiting", "replayedBy": None, "added": False,
    }  # fmt: skip
    assert api.call("GET", f"{path}?cursor=x").status == 422
    assert api.call("GET", "/api/v1/reprocessings/nothing/items").status == 404
    assert api.call("GET", path, token="eve").status == 403
