"""What the run store can refuse, and what it says when it can't work at all."""

from __future__ import annotations

from uuid import UUID


class StoreError(Exception):
    """Root of everything that the run store raises."""


class StoreUnavailable(StoreError):  # noqa: N818 - the word of the state table
    """The database can't be used now (disk full, read-only, gone).

    Nothing of the request was written, but where the connection broke during the commit, of which nobody can tell.
    The store recovers by itself: the next request tries again.

    Attributes
    ----------
    gone
        No server answered: as soon as one does, it is back. (A disk that is full for one write may have room for
        another.)
    """

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class Refused(StoreError):  # noqa: N818 - an answer, no fault
    """A rule refuses the request; raised before anything was written."""


class IdempotencyConflict(Refused):
    """A known idempotency key came with another body (HTTP 422)."""

    def __init__(self, key: str, run_id: UUID | None) -> None:
        super().__init__(f"idempotency key {key!r} was used before with a different body")
        self.key = key
        self.run_id = run_id


class Backlog(Refused):
    """More Runs of the Automation would wait than `run.maxPending` allows (HTTP 429). The whole list is refused."""

    def __init__(self, automation: str, sent: int, waiting: int, limit: int, retry_after: float = 30.0) -> None:
        super().__init__(
            f"{_runs(sent)} of {automation} sent while {waiting} wait; run.maxPending allows {limit} to wait"
        )
        self.automation = automation
        self.sent = sent
        self.waiting = waiting
        self.limit = limit
        self.retry_after = retry_after
        """Seconds after which another try makes sense."""


class NeverFits(Refused):
    """More Runs in one list than may ever wait (HTTP 422): another try makes no sense."""

    def __init__(self, automation: str, sent: int, limit: int) -> None:
        super().__init__(
            f"{_runs(sent)} of {automation} sent at once, but run.maxPending allows {limit} to wait; send smaller lists"
        )
        self.automation = automation
        self.sent = sent
        self.limit = limit


class InvalidRun(Refused):
    """A field of a Run to be accepted has a value that it can't have."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name}: {rule}")
        self.name = name
        self.rule = rule


class UnknownRun(Refused):
    """No Run has this id."""

    def __init__(self, run_id: UUID) -> None:
        super().__init__(f"there is no Run {run_id}")
        self.run_id = run_id


class UnknownAutomation(Refused):
    """No live registration has this key."""

    def __init__(self, automation: object) -> None:
        super().__init__(f"the run store knows no Automation {automation}")
        self.automation = automation


class NotEnded(Refused):
    """A copy of a Run was asked for that hasn't ended yet (HTTP 409)."""

    def __init__(self, run_id: UUID) -> None:
        super().__init__(f"Run {run_id} has not ended yet; only an ended Run can be retried")
        self.run_id = run_id


class NoSuchLetter(Refused):
    """No dead letter has this number."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"there is no dead letter {seq}")
        self.seq = seq


class NotRedrivable(Refused):
    """The letter's Run can't go again, or it can't become one; the message says why (HTTP 409)."""


class StaleEpoch(Refused):
    """The caller is no longer the leader: a later epoch stands in the store. Nothing was written."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch {epoch} is over: another leader has taken the store")
        self.epoch = epoch


def _runs(n: int) -> str:
    return "1 Run" if n == 1 else f"{n} Runs"
