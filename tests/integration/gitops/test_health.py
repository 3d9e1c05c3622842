"""Argo CD's health check, run by a real Lua of the version that Argo CD's interpreter speaks (5.1)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.cluster import packages, paths

from maestro.resources import API_VERSION
from maestro.resources.conditions import Condition, Settlement, set_condition, settle
from maestro.resources.reprocessing import Phase

SCRIPT = paths.REPOSITORY / "manifests" / "gitops" / "argocd" / "health.lua"
RUNNER = f"""
local hs = assert(loadfile({str(SCRIPT)!r}))()
print(hs.status)
print(hs.message)
"""
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def lua() -> None:
    packages.require("lua5.1")


def literal(value: Any) -> str:
    """A JSON value as Lua writes it."""
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            escaped = value.encode().decode("latin-1")
            return '"' + "".join(c if c.isalnum() or c == " " else f"\\{ord(c):03}" for c in escaped) + '"'
        case list():
            return "{" + ",".join(map(literal, value)) + "}"
        case _:
            return "{" + ",".join(f"[{literal(key)}]={literal(item)}" for key, item in value.items()) + "}"


def health(kind: str, spec: dict[str, Any], status: dict[str, Any], generation: int = 2) -> tuple[str, str]:
    """What the script says of an object."""
    obj = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": "a", "generation": generation},
        "spec": spec,
        "status": {"observedGeneration": 2, **status},
    }
    done = subprocess.run(
        ["lua5.1", "-"], input=f"obj = {literal(obj)}\n{RUNNER}", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    state, message, *_ = done.stdout.split("\n")
    return state, message


def dumped(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    return [condition.dump() for condition in conditions]


def settled(settlement: Settlement, reason: str, message: str = "") -> list[Condition]:
    """The conditions as Maestro's controllers write them."""
    return settle([], settlement, reason, message, 2, NOW)


@pytest.mark.parametrize("kind", ["Automation", "Schedule", "Reprocessing"])
def test_nobody_has_looked_yet(kind: str) -> None:
    assert health(kind, {}, {"observedGeneration": -1})[0] == "Progressing"
    assert health(kind, {}, {"conditions": dumped(settled("Current", "Ready"))}, generation=3)[0] == "Progressing"


@pytest.mark.parametrize("kind", ["Automation", "Schedule"])
@pytest.mark.parametrize(
    ("spec", "conditions", "expected"),
    [
        ({}, settled("Current", "Ready", "all is well"), ("Healthy", "Ready: all is well")),
        ({}, settled("InProgress", "AutomationNotFound", "no films"), ("Progressing", "AutomationNotFound: no films")),
        ({}, settled("Failed", "UnknownTimeZone", "Mars"), ("Degraded", "UnknownTimeZone: Mars")),
        ({"suspend": True}, settled("Current", "Suspended"), ("Suspended", "Suspended")),
        ({"suspend": True}, settled("Failed", "InvalidTemplate"), ("Degraded", "InvalidTemplate")),
        (
            {},
            set_condition(settled("Current", "Paused", "20 in a row"), "Paused", "True", "Failures", "", 2, NOW),
            ("Suspended", "Paused: 20 in a row"),
        ),
        ({}, settled("Current", "GatewayBlocked", "by prices"), ("Healthy", "GatewayBlocked: by prices")),
        ({}, [], ("Progressing", "")),
    ],
)
def test_automations_and_schedules(
    kind: str, spec: dict[str, Any], conditions: list[Condition], expected: tuple[str, str]
) -> None:
    assert health(kind, spec, {"conditions": dumped(conditions)}) == expected


@pytest.mark.parametrize(
    ("phase", "spec", "conditions", "expected"),
    [
        (None, {}, [], ("Progressing", "not planned yet, 0 of 40 Runs")),
        (None, {}, settled("Failed", "UnknownSolution", "no shop"), ("Degraded", "UnknownSolution: no shop")),
        ("PendingApproval", {}, settled("Current", "PendingApproval"), ("Suspended", "awaits approval: 40 Runs")),
        ("Approved", {}, settled("Current", "Approved"), ("Progressing", "Approved, 0 of 40 Runs")),
        ("Running", {}, settled("Current", "Running"), ("Progressing", "Running, 17 of 41 Runs")),
        ("RunningWithoutLock", {}, settled("Current", "Running"), ("Progressing", "RunningWithoutLock, 17 of 41 Runs")),
        ("Running", {"suspend": True}, settled("Current", "Suspended"), ("Suspended", "suspended after 17 of 41 Runs")),
        ("Stopped", {}, settled("Failed", "RunFailed", "the 17th"), ("Degraded", "RunFailed: the 17th")),
        ("Finished", {}, settled("Current", "Finished"), ("Healthy", "Finished")),
        ("Skipped", {}, settled("Current", "Skipped"), ("Healthy", "Skipped")),
        ("Canceled", {}, settled("Current", "Canceled"), ("Healthy", "Canceled")),
        ("Failure", {}, settled("Current", "Failure"), ("Degraded", "ended as Failure after 17 of 41 Runs")),
    ],
)
def test_reprocessings(
    phase: Phase | None, spec: dict[str, Any], conditions: list[Condition], expected: tuple[str, str]
) -> None:
    status: dict[str, Any] = {"conditions": dumped(conditions), "plan": {"total": 40}}
    if phase is not None:
        status["phase"] = phase
    if phase in ("Running", "RunningWithoutLock", "Stopped", "Failure"):
        status["progress"] = {"done": 17, "total": 41}
    assert health("Reprocessing", spec, status) == expected


def test_every_phase_has_its_row() -> None:
    rows = test_reprocessings.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {row[0] for row in rows} - {None} == set(Phase.__args__)  # type: ignore[attr-defined]
