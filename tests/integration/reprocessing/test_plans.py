"""Plans: what a selection finds, what can't be planned, what went stale, what was done already."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from tests.integration.reprocessing.conftest import Play
from tests.integration.reprocessing.world import DAY, NotFound, World, condition

from maestro.kube.errors import Invalid
from maestro.reprocessing.plan import InvalidPlan
from maestro.reprocessing.planner import preview_of
from maestro.resources import Reprocessing
from maestro.runs.model import NewRun
from maestro.runs.replays import Replays

AT = "2026-03-01T00:%02d:00Z"


def test_every_field_of_the_selection(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation(reads=["price-list/$(params.list)"])
        other = await world.automation("reports")
        world.workers.bad.update({5, 6})
        await world.ran(invoices, 6, list="gold")
        await world.ran(other, 2, first=11, list="gold")
        accepted = await world.store.accept(
            [
                NewRun(invoices, {"n": 21, "list": "gold", "flag": True}, labels={"team": "a"}, reference="late"),
                NewRun(invoices, {"n": 22, "flag": 1}, labels={"team": "b"}),
            ]
        )
        late, last = (each.id for each in accepted)
        await world.until("they end", lambda: world.all_ended([late, last]))

        rows: list[tuple[dict[str, Any], set[int]]] = [
            ({"automations": ["invoices"]}, {1, 2, 3, 4, 5, 6, 21, 22}),
            ({"automations": ["reports"]}, {11, 12}),
            ({"states": ["Failed"]}, {5, 6}),
            ({"states": ["Succeeded", "Failed"], "from": AT % 2, "to": AT % 5}, {2, 3, 4, 5}),
            ({"from": AT % 12}, {12, 21, 22}),
            ({"timeField": "startedAt", "to": AT % 59}, set()),
            ({"parameters": {"n": 3}}, {3}),
            ({"parameters": {"flag": True}}, {21}),
            ({"labels": {"team": "b"}}, {22}),
            ({"references": ["late", "unheard"]}, {21}),
            ({"runs": [str(late), str(last)]}, {21, 22}),
            ({"runs": [str(late), str(last)], "labels": {"team": "a"}}, {21}),
            ({"deadLettered": True}, set()),
            ({"deadLettered": False, "automations": ["reports"]}, {11, 12}),
            ({"reads": ["price-list/gold"]}, {1, 2, 3, 4, 5, 6, 21}),
            ({"reads": ["price-list/silver"]}, set()),
        ]
        for number, (select, wanted) in enumerate(rows):
            name = f"row-{number}"
            spec: dict[str, Any] = {"solution": "shop", "select": select}
            wish = {"metadata": {"name": name, "namespace": world.namespace}, "kind": "Reprocessing", "spec": spec}
            plan = await preview_of(world.store, world.automations, Reprocessing.model_validate(wish))
            found = [await world.store.get(UUID(each.id)) for each in plan.preview or ()]
            assert {view.parameters["n"] for view in found if view is not None} == wanted, select
            assert plan.total == len(wanted), select
            again = await preview_of(world.store, world.automations, Reprocessing.model_validate(wish))
            assert again.hash == plan.hash, "the same selection over the same store"

    play(scenario)


def test_what_cannot_be_planned_says_why(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        stranger = await world.automation("stranger", solution="elsewhere")
        await world.ran(invoices, 1)
        (foreign,) = await world.ran(stranger, 1)
        world.workers.hang.add("open")
        (running,) = await world.store.accept([NewRun(invoices, {"n": "open"})])
        nobody = "01900000-0000-7000-8000-000000000000"
        rows: list[tuple[str, dict[str, Any], str, str, str]] = [
            ("solution", {"solution": "nowhere"}, "Failure", "UnknownSolution", "nowhere"),
            ("automation", {"select": {"automations": ["nobody"]}}, "Failure", "UnknownAutomation", "nobody"),
            ("foreign", {"select": {"automations": ["stranger"]}}, "Failure", "UnknownAutomation", "stranger"),
            ("run", {"select": {"runs": [nobody]}}, "Failure", "UnknownRuns", nobody),
            ("of-another", {"select": {"runs": [str(foreign)]}}, "Failure", "UnknownRuns", str(foreign)),
            ("open", {"select": {"runs": [str(running.id)]}}, "Failure", "RunsNotEnded", str(running.id)),
            ("empty", {"select": {"labels": {"no": "such"}}}, "Finished", "NothingToDo", "no Run matches"),
        ]
        for name, spec, phase, reason, words in rows:
            await world.create(name, **spec)
            status = await world.phase(phase, name, reason=reason)
            assert words in condition(status, "Ready")["message"]
            assert condition(status, "Ready")["status"] == ("True" if phase == "Finished" else "False")
            assert condition(status, "GatewayBlocked")["status"] == "False"
        with pytest.raises(Invalid, match="from must not be later than to"):
            await world.create("times", select={"from": AT % 5, "to": AT % 4})
        with pytest.raises(Invalid, match="at least one of"):
            await world.create("nothing", select={"timeField": "startedAt"})
        wish = {"metadata": {"name": "x", "namespace": world.namespace}, "kind": "Reprocessing"}
        nowhere = {**wish, "spec": {"solution": "nowhere", "select": {"states": ["Failed"]}}}
        parsed = Reprocessing.model_validate(nowhere)
        with pytest.raises(InvalidPlan) as refused:
            await preview_of(world.store, world.automations, parsed)
        assert refused.value.reason == "UnknownSolution"
        world.workers.hang.clear()

    play(scenario)


def test_a_plan_that_went_stale_is_decided_anew(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 2)
        await world.create()
        await world.phase("PendingApproval")
        await world.ran(invoices, 1, first=3)
        await world.approve()
        stale = await world.phase("PendingApproval", reason="StalePlan")
        assert stale["plan"]["total"] == 3
        assert condition(stale, "Approved")["status"] == "False"
        assert world.gateways.answer(world.solution_id).verdict == "open"
        assert world.workers.numbers() == []
        await world.approve()
        await world.phase("Finished")
        assert world.workers.numbers() == [1, 2, 3]

    play(scenario)


def test_one_made_again_from_git_is_already_done(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        await world.ran(invoices, 2)
        await world.create(requestedBy="argocd")
        await world.approve()
        await world.phase("Finished", reason="Replayed")
        await world.gone()
        await world.until("it is gone", lambda: _gone(world))
        await world.create(requestedBy="velero")
        done = await world.phase("Finished", reason="AlreadyDone")
        assert "maestro-operator.io/rerun" in condition(done, "Ready")["message"]
        assert world.workers.numbers() == [1, 2]
        await world.gone()
        await world.until("it is gone", lambda: _gone(world))
        await world.create(reason="something else is asked for")
        await world.phase("PendingApproval")

    play(scenario)


def test_skipped_and_items(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation()
        originals = await world.ran(invoices, 5)
        made = await world.create()
        pending = await world.phase("PendingApproval")
        area = Replays(world.store)
        first = await area.items(made["metadata"]["uid"], limit=2)
        assert first is not None
        rest = await area.items(made["metadata"]["uid"], after=first[-1].position, limit=10)
        assert [item.run for item in [*first, *(rest or [])]] == originals
        assert {(item.state, item.automation_id) for item in first} == {("Waiting", f"{world.namespace}.invoices")}
        await world.patch(decision="Skipped", decidedBy="ben", planHash=pending["plan"]["hash"], decisionReason="no")
        skipped = await world.phase("Skipped")
        assert (skipped["approval"]["decision"], skipped["approval"]["by"]) == ("Skipped", "ben")
        assert condition(skipped, "Ready")["message"] == "skipped by ben: no"
        assert await area.items("nobody") is None

    play(scenario)


def test_parameters_that_the_schema_refuses_stop_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}, "list": {"enum": ["a", "b"]}}}
        invoices = await world.automation(parameterSchema=schema)
        await world.ran(invoices, 2)
        await world.create(parameters={"list": "c"})
        await world.approve()
        stopped = await world.phase("Stopped", reason="RunFailed")
        assert "list" in condition(stopped, "Stalled")["message"]
        assert world.workers.numbers() == []
        await world.patch(cancel=True)
        await world.phase("Canceled")

    play(scenario)


def test_runs_of_an_active_plan_are_kept(play: Play) -> None:
    async def scenario(world: World) -> None:
        invoices = await world.automation(history={"succeeded": {"limit": 0}})
        originals = await world.ran(invoices, 3)
        await world.create()
        await world.phase("PendingApproval")
        now = DAY + timedelta(days=400)
        while await world.store.prune(now):
            pass
        assert [await world.store.get(run) is not None for run in originals] == [True] * 3
        await world.patch(cancel=True)
        await world.phase("Canceled")
        while await world.store.prune(now):
            pass
        assert [await world.store.get(run) is not None for run in originals] == [False] * 3

    play(scenario)


async def _gone(world: World) -> bool:
    try:
        await world.get()
    except NotFound:
        return all(each.name != "fix" for each in await Replays(world.store).kept())
    return False
