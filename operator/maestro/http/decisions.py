"""What people order about a Reprocessing over HTTP: approve or skip it, pause it, go on, end it.

The API server's policies hold whoever decides to the plan and to the phase; here a caller is told so in an answer of
their own, and it is said who they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from maestro.http.auth import Person
from maestro.http.errors import HttpError
from maestro.http.objects import Objects
from maestro.http.reprocessing_models import DecisionBody
from maestro.kube.kinds import REPROCESSING
from maestro.resources.names import ANNOTATION_VIA
from maestro.resources.reprocessing import TERMINAL_PHASES, Reprocessing

log = logging.getLogger(__name__)

Decision = Literal["Approved", "Skipped"]
Order = Literal["suspend", "resume", "cancel", "fail"]
Change = dict[str, Any]

_TRIES = 5


class Decisions:
    """Writes decisions and orders into the custom resource, over the version that they were made about.

    The caller's right to approve is asked for before.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def decide(
        self, person: Person, namespace: str, name: str, decision: Decision, said: DecisionBody
    ) -> Reprocessing:
        """Approve or skip the plan that there is.

        Raises
        ------
        HttpError
            409 unless it awaits approval: `AlreadyDecided` (the message says by whom), `NotPlanned`, `NotPending`,
            or `StalePlan` where the body names another plan; 403 by a policy, such as four eyes.
        """
        via = {ANNOTATION_VIA: "http"}
        return await self._change(namespace, name, lambda found: decided(found, person.username, decision, said), via)

    async def order(self, person: Person, namespace: str, name: str, order: Order) -> Reprocessing:
        """Suspend it, let it go on, cancel it or have it fail; 409 where that isn't possible any more."""
        changed = await self._change(namespace, name, lambda found: ordered(found, order))
        # The custom resource has no place for who it was; what was decided has.
        log.info("Reprocessing %s.%s: %s by %s", namespace, name, order, person.username)
        return changed

    async def _change(
        self,
        namespace: str,
        name: str,
        change: Callable[[Reprocessing], Change],
        annotations: Mapping[str, str] | None = None,
    ) -> Reprocessing:
        """Patch what `change` makes of the present object; anew where somebody else wrote meanwhile."""
        for attempt in range(_TRIES):
            found = await self._objects.get(REPROCESSING, namespace, name)
            current = parsed(found)
            if current is None:
                raise HttpError(409, f"the Reprocessing {namespace}.{name} breaks its schema and can't be used")
            spec = change(current)
            if not spec:
                return current
            version = current.metadata.resource_version
            try:
                made = await self._objects.patch(
                    REPROCESSING, namespace, name, spec, resource_version=version, annotations=annotations
                )
            except HttpError as error:
                if error.reason != "Conflict" or attempt == _TRIES - 1:
                    raise
                continue
            return Reprocessing.model_validate(made)
        raise AssertionError("the last try returns or raises")


def parsed(found: dict[str, Any]) -> Reprocessing | None:
    """The object as its model; None, and a line in the log, where it breaks the schema."""
    try:
        return Reprocessing.model_validate(found)
    except ValidationError as error:
        meta = found["metadata"]
        name = f"{meta.get('namespace')}.{meta.get('name')}"
        log.warning("Reprocessing %s can't be read: %d fields break the schema", name, error.error_count())
        return None


def decided(found: Reprocessing, user: str, decision: Decision, said: DecisionBody) -> Change:
    """The part of the spec that a decision writes; 409 where there is nothing to decide."""
    spec, phase = found.spec, found.status.phase
    plan = found.status.plan
    current = plan.hash if plan is not None else None
    if phase is None or (phase == "PendingApproval" and current is None):
        raise _conflict("NotPlanned", f"the plan of {found.id} isn't made yet; try again in a moment")
    if spec.decision is not None and (phase != "PendingApproval" or spec.plan_hash == current):
        raise _conflict(
            "AlreadyDecided", f"{found.id} is already {spec.decision} by {spec.decided_by or 'somebody'}; {_is(phase)}"
        )
    if phase != "PendingApproval":
        raise _conflict("NotPending", f"{found.id} doesn't await approval; {_is(phase)}")
    if said.plan_hash not in (None, current):
        raise _conflict("StalePlan", f"the plan of {found.id} is another by now: {current}; look at it again")
    return {"decision": decision, "decidedBy": user, "planHash": current, "decisionReason": _reason(said)}


def ordered(found: Reprocessing, order: Order) -> Change:
    """The part of the spec that an order writes, nothing where it stands there already; 409 where it comes too late."""
    spec, phase = found.spec, found.status.phase
    if phase in TERMINAL_PHASES:
        raise _conflict("Ended", f"{found.id} has ended; {_is(phase)}")
    match order:
        case "suspend":
            return {} if spec.suspend else {"suspend": True}
        case "cancel":
            return {} if spec.cancel else {"cancel": True}
        case "fail":
            return {} if spec.fail else {"fail": True}
        case "resume":
            change: Change = {"suspend": False} if spec.suspend else {}
            if phase == "Stopped":
                change["resume"] = (spec.resume or 0) + 1
            if not change:
                raise _conflict("NotStopped", f"{found.id} is neither suspended nor stopped; {_is(phase)}")
            return change


def _reason(said: DecisionBody) -> str | None:
    label = f"on behalf of {said.user}" if said.user else None
    if said.reason and label:
        return f"{said.reason} ({label})"
    return said.reason or label


def _is(phase: str | None) -> str:
    return f"its phase is {phase}" if phase else "its controller hasn't looked at it yet"


def _conflict(reason: str, message: str) -> HttpError:
    return HttpError(409, message, reason=reason)
