"""Filters over Runs: from a query or a body to what the store understands, held to what the caller may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maestro.http.auth import Authenticator, Permission, Person
from maestro.http.directory import Directory, split_id
from maestro.http.errors import HttpError
from maestro.http.models import RunFields
from maestro.runs.model import NOTHING_TO_DO, RunFilter, RunState

_STATES = {
    "pending": (RunState.PENDING, RunState.HELD, RunState.QUEUED, RunState.RETRYING),
    "running": (RunState.RUNNING,),
    "completed": (RunState.SUCCEEDED,),
    "completed_no_invoices": (RunState.SUCCEEDED,),
    "failed": (RunState.FAILED,),
    "canceled": (RunState.CANCELED,),
}


class RunFilters:
    """Makes the store's filter of what a caller gave."""

    def __init__(self, directory: Directory, authenticator: Authenticator) -> None:
        self._directory = directory
        self._authenticator = authenticator

    async def made(self, person: Person, wanted: RunFields, verb: str) -> RunFilter:
        """The filter; it chooses the caller's own Runs only, where they may not `verb` all that it could choose.

        Raises
        ------
        HttpError
            403 for Runs of another user that they may not touch; 404 for an Automation that never was.
        """
        keys, namespace, name = None, "", ""
        if wanted.automation is not None:
            automation_id = self._directory.full_id(wanted.automation)
            namespace, name = split_id(automation_id)
            keys = await self._directory.keys_named(automation_id)
        everybodys = await self._authenticator.allowed(person, Permission(verb, "automations", "runs", namespace, name))
        if not everybodys and wanted.user not in (None, person.username):
            raise HttpError(403, f"{person.username} may only {verb} their own Runs here")
        return RunFilter(
            states=_states(wanted.status),
            reasons=_reasons(wanted.status),
            automations=keys,
            user=wanted.user if everybodys else person.username,
            since=wanted.since,
            until=wanted.until,
            reference=wanted.reference,
            schedule=wanted.schedule,
            labels=wanted.labels or {},
        )


def _states(wanted: Sequence[str] | None) -> frozenset[RunState] | None:
    if not wanted:
        return None
    return frozenset(state for word in wanted for state in _STATES.get(word) or (RunState(word),))


def _reasons(wanted: Sequence[str] | None) -> Mapping[RunState, str]:
    """The one status that is a state with a reason narrows that state, unless all of it is asked for too."""
    words = frozenset(wanted or ())
    narrow = "completed_no_invoices" in words and words.isdisjoint(("completed", RunState.SUCCEEDED.value))
    return {RunState.SUCCEEDED: NOTHING_TO_DO} if narrow else {}
