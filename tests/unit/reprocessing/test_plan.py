"""Plans: a hash that says the same however the Runs were found, selections, and what is refused."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro.reprocessing.plan import (
    PREVIEW,
    Digest,
    InvalidPlan,
    Survey,
    check_named,
    plan_hash,
    preview,
    replay_parameters,
    selection_of,
    spec_hash,
)
from maestro.resources import Reprocessing
from maestro.runs.selection import Found

AUTOMATIONS = {1: "shop.invoices", 2: "shop.reports"}


def reprocessing(**spec: Any) -> Reprocessing:
    given = {"solution": "prices", "select": {"states": ["Failed"]}, **spec}
    return Reprocessing.model_validate(
        {"kind": "Reprocessing", "metadata": {"name": "fix", "namespace": "shop"}, "spec": given}
    )


def found(run_id: UUID, at: int) -> Found:
    return Found(1, run_id, 1, 5, at, at + 1, None, {})


@given(st.lists(st.uuids(), unique=True), st.randoms())
def test_the_digest_is_of_the_set(ids: list[UUID], random: Any) -> None:
    one, other = Digest(), Digest()
    for run_id in ids:
        one.add(run_id)
    random.shuffle(ids)
    for run_id in ids:
        other.add(run_id)
    assert one == other == Digest.of(one.total, one.text)
    if ids:
        fewer = Digest()
        for run_id in ids[1:]:
            fewer.add(run_id)
        assert fewer.text != one.text


def test_the_hash_is_over_every_immutable_field_and_the_runs() -> None:
    digest, other = Digest(), Digest()
    digest.add(UUID(int=1))
    other.add(UUID(int=2))
    base = plan_hash(reprocessing().immutable_fields(), digest)
    assert base == plan_hash(reprocessing(decision="Approved", suspend=True, parallelism=9).immutable_fields(), digest)
    others = [
        plan_hash(reprocessing(reason="x").immutable_fields(), digest),
        plan_hash(reprocessing(parameters={"a": 1}).immutable_fields(), digest),
        plan_hash(reprocessing(select={"states": ["Succeeded"]}).immutable_fields(), digest),
        plan_hash(reprocessing(onFailure="Continue").immutable_fields(), digest),
        plan_hash(reprocessing().immutable_fields(), other),
    ]
    assert len({base, *others}) == 6


def test_what_was_asked_for_is_known_whoever_asked() -> None:
    assert spec_hash(reprocessing(requestedBy="argocd")) == spec_hash(reprocessing(requestedBy="velero"))
    assert spec_hash(reprocessing(reason="a")) != spec_hash(reprocessing(reason="b"))


def test_the_preview_is_the_first_in_order_ties_by_id() -> None:
    runs = [found(uuid4(), at // 2) for at in range(3 * PREVIEW)]
    survey = Survey()
    for start in range(0, len(runs), 7):
        survey.add(reversed(runs[start : start + 7]))
    wanted = sorted(runs, key=lambda run: (run.at, run.id))[:PREVIEW]
    assert survey.first == wanted
    assert survey.digest.total == len(runs)
    (shown, *_) = preview(survey.first, AUTOMATIONS)
    assert (shown.automation, shown.state, shown.scheduled_time) == ("invoices", "Succeeded", None)


def test_a_selection_of_automations() -> None:
    chosen = selection_of(
        reprocessing(select={"automations": ["reports"]}).spec.select, AUTOMATIONS, "shop", parameters=False
    )
    assert chosen.automations == (2,)
    with pytest.raises(InvalidPlan, match=r"shop\.a, shop\.b, shop\.c, shop\.d, shop\.e and 1 more"):
        selection_of(reprocessing(select={"automations": list("abcdef")}).spec.select, AUTOMATIONS, "shop",
                     parameters=False)  # fmt: skip


def test_runs_that_are_named_must_be_ended_ones_of_the_solution() -> None:
    mine, foreign, open_, nobody = (UUID(int=n) for n in range(4))
    known = {mine: (1, 6), foreign: (7, 5), open_: (2, 3)}
    check_named([mine], known, AUTOMATIONS)
    for ids, reason in (([foreign], "UnknownRuns"), ([nobody], "UnknownRuns"), ([open_], "RunsNotEnded")):
        with pytest.raises(InvalidPlan) as refused:
            check_named([mine, *ids], known, AUTOMATIONS)
        assert refused.value.reason == reason
        assert str(ids[0]) in str(refused.value)


def test_parameters_are_merged_over() -> None:
    spec = reprocessing(parameters={"list": "new"}).spec
    assert replay_parameters(spec, {"list": "old", "n": 1}) == {"list": "new", "n": 1}
    assert replay_parameters(reprocessing().spec, {"n": 1}) == {"n": 1}
