"""What should exist in the broker, and how what is there differs from it. Pure: no input or output, no clock.

`base()` is what the installation needs once, `for_automation()` what one Automation adds. `changes()` compares either
with a `BrokerState` and answers with single, ordered changes (each with a sentence for an event) that
`ManagementClient.apply` carries out; what must not be repaired without asking comes from `differences()`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from maestro.broker.passwords import HASHING_ALGORITHM, hash_password, matches

PREFIX = "maestro."
DEAD_LETTER_EXCHANGE = "maestro.dlx"
DEAD_LETTER_QUEUE = "maestro.dead-letters"
WORK_POLICY = "maestro-work"
CLASSIC_POLICY = "maestro-work-classic"
DEAD_LETTER_POLICY = "maestro-dead-letters"

DELIVERY_LIMIT = 50
"""A limit of 50 gives 51 deliveries; every lost connection counts one, also for messages that were only prefetched."""

_CONSUMER_TIMEOUT_MARGIN = 300.0  # the broker looks at it once a minute only
_CONSUMER_TIMEOUT_STEP = 3600.0
_PATTERN_CHARACTERS = 8000
"""Claimed names in one policy's pattern: the broker's regex compiler refuses patterns beyond 64 KiB."""

QueueType = Literal["quorum", "classic"]
Slot = Literal["a", "b"]
Version = tuple[int, int]


# --- what is wished for ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueClaim:
    """One Automation's claim on a queue.

    Attributes
    ----------
    arguments
        Raw arguments, for workers that declare the queue themselves; None where Maestro decides.
    longest
        Seconds a message may stay unacknowledged: run.timeout and run.cancelGrace.
    """

    namespace: str
    name: str
    queue: str
    type: QueueType = "quorum"
    arguments: Mapping[str, Any] | None = None
    longest: float = 0.0

    @property
    def id(self) -> str:
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: Mapping[str, Any]
    durable: bool = True
    auto_delete: bool = False


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    source: str
    destination: str
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    pattern: str
    definition: Mapping[str, Any]
    priority: int = 0
    apply_to: str = "queues"


@dataclass(frozen=True, slots=True)
class User:
    """A broker user as it should be; the password never shows in a repr."""

    name: str
    password: str = field(repr=False)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Permission:
    """Three regular expressions: what a user may configure, write and read in the vhost."""

    user: str
    configure: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Topology:
    """What is wished for; `users` and `queues` of other Automations aren't touched by comparing with it."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()
    policies: tuple[Policy, ...] = ()
    users: tuple[User, ...] = ()
    permissions: tuple[Permission, ...] = ()


# --- what is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as the broker lists it.

    Attributes
    ----------
    messages
        Ready and unacknowledged and waiting to be dead-lettered; None where the broker doesn't say (see `suspects`).
    arguments
        As declared; the broker adds `x-queue-type` where the vhost has a default.
    """

    name: str
    type: str
    durable: bool
    auto_delete: bool
    exclusive: bool
    arguments: Mapping[str, Any]
    policy: str | None
    state: str
    messages: int | None
    ready: int | None
    unacknowledged: int | None
    consumers: int


@dataclass(frozen=True, slots=True)
class UserState:
    name: str
    password_hash: str = field(repr=False)
    hashing_algorithm: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BrokerState:
    """Everything a comparison needs, read in a few calls.

    Attributes
    ----------
    uptime
        Seconds the youngest node has been up.
    bindings
        Those whose source is `maestro.dlx`.
    """

    at: datetime
    version: Version
    uptime: float
    queues: Mapping[str, QueueState] = field(default_factory=dict)
    exchanges: Mapping[str, Exchange] = field(default_factory=dict)
    bindings: frozenset[Binding] = frozenset()
    policies: Mapping[str, Policy] = field(default_factory=dict)
    users: Mapping[str, UserState] = field(default_factory=dict)
    permissions: Mapping[str, Permission] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()


# --- single changes --------------------------------------------------------------------------------------------------

Verb = Literal["put", "delete"]


@dataclass(frozen=True, slots=True)
class Change:
    """One write to the broker. `what` is a sentence for an event, without any secret."""

    verb: Verb
    target: Exchange | Queue | Binding | Policy | User | Permission
    what: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A property of a declared queue that isn't as wished and can't be changed without deleting the queue."""

    field: str
    declared: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.field}: declared {_shown(self.declared)}, wanted {_shown(self.wanted)}"


# --- names -----------------------------------------------------------------------------------------------------------


def default_queue_name(namespace: str, name: str) -> str:
    return f"{PREFIX}{namespace}.{name}"


def user_name(namespace: str, name: str, slot: Slot = "a") -> str:
    """Return one of the two user names of an Automation; a password is rotated by going to the other one."""
    return f"{PREFIX}{namespace}.{name}.{slot}"


def other_slot(user: str) -> Slot:
    """Return the slot that `user` doesn't use."""
    return "a" if user.endswith(".b") else "b"


def user_owner(user: str) -> str | None:
    """Return the id `<namespace>.<name>` of the Automation that a user was made for; None for a foreign user."""
    match = re.fullmatch(r"maestro\.([^.]+\.[^.]+)\.[ab]", user)
    return match.group(1) if match else None


# --- wishes ----------------------------------------------------------------------------------------------------------


def queue_arguments(claim: QueueClaim) -> dict[str, Any]:
    """Return the arguments to declare with: the raw ones, exactly, else only the type."""
    return dict(claim.arguments) if claim.arguments is not None else {"x-queue-type": claim.type}


def permission(claim: QueueClaim, user: str) -> Permission:
    """Return what an Automation's user may do: read its queue, and configure it only where its workers declare it."""
    own = f"^{escape(claim.queue)}$"
    return Permission(user=user, configure=own if claim.arguments is not None else "^$", write="^$", read=own)


def consumer_timeout(claims: Iterable[QueueClaim]) -> float:
    """Return the consumer timeout in seconds, above the longest a message of any claim may stay unacknowledged.

    Rounded up to whole hours, so that one more Automation rarely changes the policy that all queues share.
    """
    longest = max((claim.longest for claim in claims), default=0.0) + _CONSUMER_TIMEOUT_MARGIN
    return -(-longest // _CONSUMER_TIMEOUT_STEP) * _CONSUMER_TIMEOUT_STEP


def escape(name: str) -> str:
    """Escape a name for the broker's regular expressions (PCRE: a backslash makes any other character literal)."""
    return "".join(character if _is_word(character) else "\\" + character for character in name)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_" or not character.isascii()


def _chunks(names: Iterable[str]) -> list[list[str]]:
    chunks: list[list[str]] = [[]]
    size = 0
    for name in sorted(set(names)):
        escaped = escape(name)
        if chunks[-1] and size + len(escaped.encode()) > _PATTERN_CHARACTERS:
            chunks.append([])
            size = 0
        chunks[-1].append(escaped)
        size += len(escaped.encode()) + 1
    return chunks


def work_policies(claims: Sequence[QueueClaim]) -> tuple[Policy, ...]:
    """Return the class policies of all work queues: one for each queue type, more only where names fill a pattern.

    The broker skips a policy wholly for a classic queue when it has one key that only quorum queues know: so classic
    queues dead-letter at most once and have no delivery limit.
    """
    classic = {
        "dead-letter-exchange": DEAD_LETTER_EXCHANGE,
        "overflow": "reject-publish",
        "consumer-timeout": int(consumer_timeout(claims) * 1000),
    }
    quorum = classic | {"dead-letter-strategy": "at-least-once", "delivery-limit": DELIVERY_LIMIT}
    patterns = work_patterns(claim.queue for claim in claims)
    return tuple(
        Policy(name if index == 0 else f"{name}-{index + 1}", pattern, definition, apply_to=apply_to)
        for name, definition, apply_to in (
            (WORK_POLICY, quorum, "quorum_queues"),
            (CLASSIC_POLICY, classic, "classic_queues"),
        )
        for index, pattern in enumerate(patterns)
    )


def work_patterns(queues: Iterable[str]) -> list[str]:
    """Return the patterns that together match every name with Maestro's prefix and the claimed ones, nothing else."""
    first, *rest = _chunks(queue for queue in queues if not queue.startswith(PREFIX))
    # The first alternative has no end of its own: it matches every name that begins with the prefix.
    own = rf"{escape(PREFIX)}(?!{escape(DEAD_LETTER_QUEUE.removeprefix(PREFIX))}$)"
    patterns = ["^(" + "|".join([own, *(f"{name}$" for name in first)]) + ")"]
    return patterns + ["^(" + "|".join(names) + ")$" for names in rest]


def base(claims: Sequence[QueueClaim], version: Version) -> Topology:
    """Return what the installation needs once: the dead-letter exchange and queue, and the class policies.

    Parameters
    ----------
    claims
        Of all Automations: their names and time-outs stand in the policies.
    version
        Of the broker. Before 4.0 quorum queues have no delivery limit of their own and refuse -1.
    """
    dead_letters: dict[str, Any] = {"delivery-limit": -1} if version >= (4, 0) else {"overflow": "reject-publish"}
    return Topology(
        exchanges=(Exchange(DEAD_LETTER_EXCHANGE, "fanout"),),
        queues=(Queue(DEAD_LETTER_QUEUE, {"x-queue-type": "quorum"}),),
        bindings=(Binding(DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE),),
        policies=(
            Policy(DEAD_LETTER_POLICY, f"^{escape(DEAD_LETTER_QUEUE)}$", dead_letters, priority=1),
            *work_policies(claims),
        ),
    )


def for_automation(claim: QueueClaim, user: str, password: str) -> Topology:
    """Return what one Automation needs: its queue, its user and what that one may do.

    A queue with raw arguments is declared too (before its workers, who need no write on the dead-letter exchange then).
    """
    return Topology(
        queues=(Queue(claim.queue, queue_arguments(claim)),),
        users=(User(user, password),),
        permissions=(permission(claim, user),),
    )


def lacking(version: Version) -> list[str]:
    """Return what this broker can't do, a sentence each, for one condition of the installation."""
    if version < (3, 13):
        shown = ".".join(map(str, version))
        return [
            f"RabbitMQ {shown} is older than 3.13: dead-lettering at least once and time-outs by policy aren't sure"
        ]
    return []


# --- comparing -------------------------------------------------------------------------------------------------------


def differences(declared: QueueState, wanted: Queue) -> list[Difference]:
    """Name each argument and property of a declared queue that isn't as wanted; none: a declaration would pass."""
    found = []
    missing = object()
    for key in sorted({*declared.arguments, *wanted.arguments}):
        here, there = declared.arguments.get(key, missing), wanted.arguments.get(key, missing)
        if key == "x-queue-type" and there is missing:
            continue  # the vhost's default type, added by the broker to a declaration that names none
        if not _same(here, there):
            found.append(Difference(key, None if here is missing else here, None if there is missing else there))
    if wanted.arguments.get("x-queue-type", declared.type) != declared.type and not found:
        found.append(Difference("type", declared.type, wanted.arguments["x-queue-type"]))
    for name in ("durable", "auto_delete"):
        if getattr(declared, name) != getattr(wanted, name):
            found.append(Difference(name, getattr(declared, name), getattr(wanted, name)))
    if declared.exclusive:
        found.append(Difference("exclusive", True, False))
    return found


def changes(state: BrokerState, wanted: Topology) -> list[Change]:
    """Return the writes that bring what is there to what is wanted, in an order in which each can succeed.

    Queues that exist are never written: see `differences`. Policies come before queues, so that no queue ever stands
    without one.
    """
    return [
        *_exchange_changes(state, wanted),
        *_policy_changes(state, wanted),
        *(
            Change("put", queue, f"queue {queue.name} was missing")
            for queue in wanted.queues
            if queue.name not in state.queues
        ),
        *(
            Change("put", binding, f"binding of {binding.destination} to {binding.source} was missing")
            for binding in wanted.bindings
            if binding not in state.bindings
        ),
        *_user_changes(state, wanted),
    ]


def stale_policies(state: BrokerState, wanted: Topology) -> list[Change]:
    """Return the deletions of class policies of Maestro's that are no longer wished for."""
    names = {policy.name for policy in wanted.policies}
    return [
        Change("delete", policy, f"policy {policy.name} is no longer needed")
        for policy in state.policies.values()
        if policy.name not in names and _is_work_policy(policy.name)
    ]


def overridden(state: BrokerState, wanted: Topology) -> list[str]:
    """Return a sentence for each wanted queue on which a foreign policy with more priority displaces Maestro's."""
    found = []
    for queue in wanted.queues:
        there = state.queues.get(queue.name)
        policy = there.policy if there else None
        if policy and policy != DEAD_LETTER_POLICY and not _is_work_policy(policy):
            found.append(f"policy {policy} displaces Maestro's on queue {queue.name}")
    return found


def _is_work_policy(name: str) -> bool:
    return re.fullmatch(rf"({WORK_POLICY}|{CLASSIC_POLICY})(-\d+)?", name) is not None


def _exchange_changes(state: BrokerState, wanted: Topology) -> list[Change]:
    return [
        Change("put", exchange, f"exchange {exchange.name} was missing")
        for exchange in wanted.exchanges
        if exchange.name not in state.exchanges
    ]


def _policy_changes(state: BrokerState, wanted: Topology) -> list[Change]:
    found = []
    for policy in wanted.policies:
        there = state.policies.get(policy.name)
        if there is None:
            found.append(Change("put", policy, f"policy {policy.name} was missing"))
        elif there != policy:
            found.append(Change("put", policy, f"policy {policy.name} differed in {_differing(there, policy)}"))
    return found


def _differing(there: Policy, wanted: Policy) -> str:
    names = [name for name in ("pattern", "priority", "apply_to") if getattr(there, name) != getattr(wanted, name)]
    keys = {*there.definition, *wanted.definition}
    names += sorted(key for key in keys if there.definition.get(key) != wanted.definition.get(key))
    return ", ".join(names)


def _user_changes(state: BrokerState, wanted: Topology) -> list[Change]:
    found = []
    for user in wanted.users:
        there = state.users.get(user.name)
        if there is None:
            found.append(Change("put", user, f"user {user.name} was missing"))
        elif not _same_user(there, user):
            found.append(Change("put", user, f"password or tags of user {user.name} differed"))
    for wish in wanted.permissions:
        if (given := state.permissions.get(wish.user)) != wish:
            how = "were missing" if given is None else "differed"
            found.append(Change("put", wish, f"permissions of user {wish.user} {how}"))
    return found


def _same_user(there: UserState, wanted: User) -> bool:
    return (
        there.hashing_algorithm == HASHING_ALGORITHM
        and matches(wanted.password, there.password_hash)
        and set(there.tags) == set(wanted.tags)
    )


def _same(declared: Any, wanted: Any) -> bool:
    # JSON knows one kind of number, but True == 1 would hide a difference.
    return isinstance(declared, bool) == isinstance(wanted, bool) and bool(declared == wanted)


def _shown(value: Any) -> str:
    return "absent" if value is None else repr(value)


# --- definitions -----------------------------------------------------------------------------------------------------


def definitions(users: Iterable[User], vhost: str = "/") -> dict[str, Any]:
    """Return a definitions file (as a dict) with users that may do everything in `vhost`, for a broker's first boot."""
    listed = list(users)
    return {
        "users": [
            {
                "name": user.name,
                "password_hash": hash_password(user.password),
                "hashing_algorithm": HASHING_ALGORITHM,
                "tags": list(user.tags),
            }
            for user in listed
        ],
        "vhosts": [{"name": vhost}],
        "permissions": [
            {"user": user.name, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"} for user in listed
        ],
    }


# --- zombies ---------------------------------------------------------------------------------------------------------


def suspects(state: BrokerState) -> frozenset[str]:
    """Return the quorum queues that call themselves running but show no count of messages.

    Normal for some ten seconds after a boot or a declaration; lasting, it is the only sign of a queue that lost its
    log when the broker was killed right after the declaration: publishes to it stay unanswered.
    """
    return frozenset(
        queue.name
        for queue in state.queues.values()
        if queue.type == "quorum" and queue.state == "running" and queue.messages is None
    )


def zombies(history: Sequence[BrokerState], patience: float = 30.0) -> frozenset[str]:
    """Return the queues that were suspect in every look for at least `patience` seconds of the broker's being up.

    Deleting such a queue (over AMQP) and declaring it anew heals it; what was in it is then a known loss.

    Parameters
    ----------
    history
        Snapshots in order of time; looks from before a restart of the broker don't count.
    """
    if not history:
        return frozenset()
    latest = history[-1]
    counted = [state for state in history if (latest.at - state.at).total_seconds() <= latest.uptime]
    if (latest.at - counted[0].at).total_seconds() < patience:
        return frozenset()
    # The first look within the patience must already have been suspect, and each one since.
    found = suspects(latest)
    for state in reversed(counted):
        found &= suspects(state)
        if (latest.at - state.at).total_seconds() >= patience:
            break
    return found
