"""The run store: the truth about every Run. An asyncio face over one writer thread and a few readers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from maestro.runs.model import (
    Accepted,
    Claimed,
    Counts,
    Due,
    HourCount,
    KeyView,
    Leadership,
    LogLine,
    NewRun,
    Orphan,
    Page,
    Parameters,
    Registration,
    RunFilter,
    RunView,
    Summary,
    Unpublished,
)
from maestro.runs.reports import CancelAnswer, Report, ReportAnswer
from maestro.runtime.clock import Clock, utcnow

OnWork = Callable[[frozenset[int]], None]
"""Called with the keys of the Automations for which something may be claimable; on the writer's thread."""


class RunStore:
    """Every method may raise StoreUnavailable; nothing was written then, and the next call tries again.

    `epoch` arguments fence the controller's writes: StaleEpoch when a later leader has taken the store (None: no
    fence, for tools and tests). Automations are named by the key that `register` returns.
    """

    @classmethod
    def open(cls, url: str, *, clock: Clock = utcnow) -> RunStore:
        """Opens the store at an SQLAlchemy URL (`sqlite:///path`, `postgresql://…`), creating or migrating it under
        a lock. Blocks; call it before the loop runs or in a thread. Raises StoreUnavailable."""
        raise NotImplementedError

    async def close(self) -> None:
        """Finishes what is being written and closes every connection."""
        raise NotImplementedError

    async def ping(self) -> str | None:
        """None when the store can be written to, else what is wrong with it: for readiness and conditions."""
        raise NotImplementedError

    def on_work(self, callback: OnWork) -> None:
        """Registers a callback for: an accept, a retry come due, a slot or key set free. It must not block."""
        raise NotImplementedError

    # -- Automations ---------------------------------------------------------------------------------------------

    async def register(self, registration: Registration) -> int:
        """Writes what is known of an Automation, by its uid; only a newer generation overwrites. Returns its key."""
        raise NotImplementedError

    def registrations(self) -> Mapping[int, Registration]:
        """The live registrations by key, from memory."""
        raise NotImplementedError

    def live(self, automation_id: str) -> tuple[int, Registration] | None:
        """The live registration of `<namespace>.<name>`, from memory."""
        raise NotImplementedError

    async def refresh(self) -> None:
        """Reads registrations that other replicas wrote; called by whoever polls, and after an id isn't known."""
        raise NotImplementedError

    async def deregister(self, uid: str, *, epoch: int | None = None) -> bool:
        """The object is gone: its waiting Runs end Canceled/AutomationDeleted, in batches; Running ones go on.
        The row stays until `reaped`. False: not known."""
        raise NotImplementedError

    async def orphans(self, known_uids: Collection[str]) -> list[Orphan]:
        """Registrations whose uid isn't among the known ones, deregistered or not, until they are reaped."""
        raise NotImplementedError

    async def reaped(self, uid: str, *, epoch: int | None = None) -> None:
        """What belonged to the Automation outside is gone (queue, users); its registration may go with its Runs."""
        raise NotImplementedError

    async def unpause(self, automation: int, *, epoch: int | None = None) -> None:
        """Forgets the failures in a row, so that a paused Automation is dispatched again."""
        raise NotImplementedError

    # -- accept --------------------------------------------------------------------------------------------------

    async def accept(self, runs: Sequence[NewRun]) -> list[Accepted]:
        """Accepts a list, all or nothing, in one transaction; an answer for each, in order.

        Raises IdempotencyConflict, Backlog, UnknownAutomation.
        """
        raise NotImplementedError

    async def retry(self, run_id: UUID, *, by: str | None = None, parameters: Parameters | None = None) -> Accepted:
        """A new linked Run (`copy_of`) of an ended one. Raises UnknownRun, NotEnded, Backlog, UnknownAutomation."""
        raise NotImplementedError

    # -- the leader's dispatch -----------------------------------------------------------------------------------

    async def win_leadership(self) -> Leadership:
        """Takes the store: a new epoch, which ends every older one."""
        raise NotImplementedError

    async def claim(self, epoch: int, automation: int, limit: int, *, only_replays: bool = False) -> list[Claimed]:
        """Writes up to `limit` Runs Queued, each with its publication number, in the order in which they must be
        published: priority, fairness, acceptance. Empty when nothing may go (suspended, paused, window full, slots
        taken, keys busy, Runs of the Solution still held). `only_replays`: the Solution's gateway is shut."""
        raise NotImplementedError

    async def queued_after(self, epoch: int, pub: int, limit: int) -> list[Claimed]:
        """Queued Runs whose publication number is greater than `pub`, in its order: what a new leader publishes again."""
        raise NotImplementedError

    async def confirmed(self, epoch: int, pub: int) -> None:
        """Every publication up to `pub` was confirmed: the watermark. It never goes back."""
        raise NotImplementedError

    async def unpublished(self, epoch: int, items: Sequence[Unpublished]) -> int:
        """Publications that came back: Queued → Pending with a growing pause, where `pub` is still the Run's own
        (`JobInvalid`: Failed). Returns how many."""
        raise NotImplementedError

    async def due(self, now: datetime, limit: int = 500, *, epoch: int | None = None) -> Due:
        """Treats what the clock has brought: leases run out, timeouts, retries and `notBefore` come due, expiry."""
        raise NotImplementedError

    async def next_alarm(self) -> float | None:
        """Seconds until `due` has something to do (0: now); None: nothing is set."""
        raise NotImplementedError

    async def pod_gone(self, pod_uid: str, *, automation: int | None = None, epoch: int | None = None) -> int:
        """Attempts that this pod held are lost now. Returns how many."""
        raise NotImplementedError

    async def hold(self, solution_id: str, *, limit: int = 500, epoch: int | None = None) -> int:
        """The gateway of `<namespace>.<solution>` is shut: Pending, Queued and Retrying Runs (but replays) become
        Held. Returns how many; less than `limit`: all of them are."""
        raise NotImplementedError

    async def open_gateway(self, solution_id: str, *, limit: int = 500, epoch: int | None = None) -> int:
        """The gateway is open: the oldest held Runs become Pending. Returns how many; 0: none is left."""
        raise NotImplementedError

    # -- workers and people --------------------------------------------------------------------------------------

    async def reports(self, items: Sequence[Report]) -> list[ReportAnswer]:
        """What workers report, an answer for each, in order. Reports about one Run take effect in their order."""
        raise NotImplementedError

    async def cancel(
        self, run_id: UUID, *, why: str = "Canceled", by: str | None = None, force: bool = False
    ) -> CancelAnswer:
        """Cancels a Run that isn't running; asks a running one to stop (`force`: ends it and fences the attempt)."""
        raise NotImplementedError

    async def keys(self, automation: int, *, blocked: bool = True, limit: int = 100) -> list[KeyView]:
        """Ordering keys that are blocked (or all that have open Runs)."""
        raise NotImplementedError

    async def release_key(self, automation: int, key: str) -> bool:
        """Unblocks an ordering key (`KeyView.key`). False: it wasn't blocked."""
        raise NotImplementedError

    # -- reading -------------------------------------------------------------------------------------------------

    async def get(self, run_id: UUID) -> RunView | None:
        """One Run with its attempts and progress."""
        raise NotImplementedError

    async def list_runs(self, filter: RunFilter | None = None, limit: int = 50, cursor: str | None = None) -> Page:
        """Runs, newest first (without attempts). Raises ValueError for a cursor that isn't one of ours."""
        raise NotImplementedError

    async def logs(self, run_id: UUID, after: int = 0, limit: int = 500) -> list[LogLine]:
        """Log lines of a Run in order, those with a number greater than `after`."""
        raise NotImplementedError

    async def last_params(self, automation: int, user: str) -> Parameters | None:
        """The parameters of the user's last Run of an Automation."""
        raise NotImplementedError

    async def counts(self) -> dict[int, Counts]:
        """Of every Automation that has Runs; cheap, however many there are."""
        raise NotImplementedError

    async def summary(self, automation: int) -> Summary:
        """Counts, last Run and recent failures of one Automation."""
        raise NotImplementedError

    async def per_hour(self, hours: int = 24, automation: int | None = None) -> list[HourCount]:
        """Ended Runs by hour, oldest first, hours without any included."""
        raise NotImplementedError

    # -- retention -----------------------------------------------------------------------------------------------

    async def prune(self, now: datetime, *, epoch: int | None = None) -> int:
        """Deletes a small batch of what `history` no longer keeps (the last failure always stays), and old
        idempotency keys. Returns how many Runs went; call it again while it isn't 0."""
        raise NotImplementedError
