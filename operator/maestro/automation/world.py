"""What is seen of an Automation's world before it is decided what to do, and what may be done. Plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from maestro.broker.topology import BrokerState, Change
from maestro.kube.kinds import Kind
from maestro.runs.model import Summary

Object = Mapping[str, Any]


# --- seen ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server didn't take an object. As long as the same is wished for, it isn't asked again before `until`.

    Attributes
    ----------
    digest
        Of what was refused.
    final
        Only another wish helps (it breaks a rule); else something outside (a quota, a policy) may change.
    """

    digest: str
    reason: str
    message: str
    final: bool
    until: datetime


@dataclass(frozen=True, slots=True)
class Accepted:
    """A Deployment that the API server shows otherwise than it was wished (a webhook changed it): that is no drift."""

    digest: str
    generation: int


@dataclass(frozen=True, slots=True)
class BrokerView:
    """The broker as all Automations see it.

    Attributes
    ----------
    state
        The last look; None before the first.
    down_since
        Since when it doesn't answer; None while it does.
    problem
        Why, in words.
    """

    state: BrokerState | None = None
    down_since: datetime | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StoreView:
    """What the run store says of one Automation; `summary` is the last known where it is down."""

    summary: Summary | None = None
    down_since: datetime | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """The world around one Automation.

    Attributes
    ----------
    taken_by
        The Automation (`namespace/name`) that holds the queue's name, where it is an older one.
    schema_problem
        Why the parameter schema can't be used.
    blocked_by
        The Reprocessing that shuts the Solution's gateway.
    refusals
        By kind (`Deployment`, `Secret`, …; `Job` for the template of `launch: Job`; `Broker`).
    had_consumer
        Whether the queue was ever seen with a consumer, or a Run ever began.
    counters_at
        When counters were last written to the status; None: not since the start.
    autoscaled
        The number of pods that autoscaling asks for, with the delay of scaling down in it.
    """

    broker: BrokerView = BrokerView()
    store: StoreView = StoreView()
    secret: Object | None = None
    service_account: Object | None = None
    deployment: Object | None = None
    pods: Sequence[Object] = ()
    taken_by: str | None = None
    schema_problem: str | None = None
    blocked_by: str | None = None
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    accepted: Accepted | None = None
    had_consumer: bool = False
    counters_at: datetime | None = None
    autoscaled: int | None = None


# --- to be done ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """An Event about the Automation."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply an object (server-side)."""

    kind: Kind
    body: Mapping[str, Any] = field(repr=False)
    digest: str
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class TryOut:
    """See whether the API server would take an object (dry run)."""

    kind: Kind
    body: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete an object, if it is still that very one."""

    kind: Kind
    name: str
    uid: str
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class ChangeBroker:
    """Write to the broker."""

    change: Change
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class Unpause:
    """Forget the failures in a row."""


Action = Apply | TryOut | Remove | ChangeBroker | Unpause


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in order.

    Attributes
    ----------
    actions
        Carried out first; where there are any, the world is looked at again before the status is written.
    status
        The whole status as it should be; None: what is there is right.
    events
        Told after the status was written.
    counters
        Whether the status brings new counters.
    requeue_after
        Seconds until something comes due; None: nothing is known to.
    """

    actions: tuple[Action, ...] = ()
    status: Mapping[str, Any] | None = None
    events: tuple[Note, ...] = ()
    counters: bool = False
    requeue_after: float | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is to be written anywhere."""
        return not self.actions and self.status is None and not self.events
