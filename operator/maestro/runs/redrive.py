"""A dead letter's Run goes again: by a linked copy where it has ended, by its own message where it is Queued still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from maestro.runs import queries
from maestro.runs.changes import Changes
from maestro.runs.database import Sql, as_uuid_or_none, clean
from maestro.runs.errors import NoSuchLetter, NotRedrivable, Refused
from maestro.runs.lifecycle import Event, Happening
from maestro.runs.model import NewRun, Parameters, RunState, RunView, copy_of

if TYPE_CHECKING:
    from maestro.runs.store import RunStore

_LETTER = Sql("SELECT automation_id, run_id, redriven_at, redriven_as FROM dead_letter WHERE seq = :seq {lock}")
_REDRIVEN = Sql("""
    UPDATE dead_letter SET redriven_at = :now, redriven_as = :run, redriven_by = :by WHERE seq = :seq""")
_ONE_LESS = Sql("UPDATE dead_letter_count SET n = n - 1 WHERE automation_id = :automation")


@dataclass(frozen=True, slots=True)
class Redrive:
    """A wish: which letter, who wishes it.

    Attributes
    ----------
    parameters
        Of the Run to be made, merged and checked.
    changed
        They aren't those that the Run or the message has.
    """

    seq: int
    parameters: Parameters
    changed: bool
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Redriven:
    """The Run that goes now: a new one, or (`again`) the letter's own, whose message is published again."""

    run_id: UUID
    state: RunState
    again: bool = False


def redrive(changes: Changes, store: RunStore, wanted: Redrive) -> Redriven:
    """See DeadLetters.redrive. A refusal comes before anything is written: others may share the transaction."""
    transaction = changes.transaction
    row = transaction.one(_LETTER, {"seq": wanted.seq})
    if row is None:
        raise NoSuchLetter(wanted.seq)
    automation, run_id, redriven_at, redriven_as = row
    if redriven_at is not None:
        raise NotRedrivable(f"it was redriven already, as Run {as_uuid_or_none(redriven_as)}")
    if automation is None:
        raise NotRedrivable("its queue belongs to no Automation")
    run = as_uuid_or_none(run_id)
    original = None if run is None else queries.get(transaction, run)
    if original is None:
        redriven = _accept(changes, store, NewRun(automation, wanted.parameters, user=wanted.by))
    else:
        redriven = _again(changes, store, original, wanted)
    as_run = transaction.uuid(redriven.run_id)
    transaction.run(_REDRIVEN, {"seq": wanted.seq, "now": changes.now, "run": as_run, "by": clean(wanted.by)})
    transaction.run(_ONE_LESS, {"automation": automation})
    return redriven


def _again(changes: Changes, store: RunStore, original: RunView, wanted: Redrive) -> Redriven:
    if original.state.ended:
        return _accept(changes, store, copy_of(original, by=wanted.by, parameters=wanted.parameters))
    if original.state is not RunState.QUEUED:
        raise NotRedrivable(f"its Run {original.id} goes on by itself: it is {original.state}")
    if wanted.changed:
        raise NotRedrivable(f"its Run {original.id} waits still with its own parameters: cancel it, then redrive")
    tracked = changes.load_ids([original.id])[original.id]
    changes.happen(tracked, Happening(Event.TAKE_BACK))
    changes.work.add(tracked.automation)
    changes.flush()
    return Redriven(original.id, RunState.of(tracked.run.state), again=True)


def _accept(changes: Changes, store: RunStore, run: NewRun) -> Redriven:
    (answer,) = store.accept_in(changes.transaction, [[run]])
    if isinstance(answer, Refused):
        raise answer
    return Redriven(answer[0].id, answer[0].state)
