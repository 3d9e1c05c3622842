"""RabbitMQ's management API: the broker's state in a few calls, and single writes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from maestro.broker.errors import BrokerRefused, BrokerUnavailable, NotThere
from maestro.broker.passwords import HASHING_ALGORITHM, hash_password
from maestro.broker.topology import (
    DEAD_LETTER_EXCHANGE,
    Binding,
    BrokerState,
    Change,
    Exchange,
    Permission,
    Policy,
    Queue,
    QueueState,
    User,
    UserState,
    Version,
)

_QUEUE_COLUMNS = (
    "name,type,durable,auto_delete,exclusive,arguments,policy,state,"
    "messages,messages_ready,messages_unacknowledged,consumers"
)
_LOOKS = 4
_BETWEEN_LOOKS = 0.25
_REASON_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message looked at in its queue; the broker counts the look as a delivery."""

    headers: Mapping[str, Any]
    message_id: str | None
    payload: str


class ManagementClient:
    """A client for one vhost of one broker. Each call has a time-out; none is tried again by itself.

    Every method raises `BrokerUnavailable` when there is no answer, `BrokerRefused` when there is a refusal.

    Parameters
    ----------
    url
        Scheme, host and port of the management listener (`http://host:15672`), with a path prefix where one is set.
    timeout
        Seconds for one call; listings get three times as long.
    """

    def __init__(self, url: str, user: str, password: str, vhost: str = "/", *, timeout: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._vhost = vhost
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self.authenticate(user, password)

    def __repr__(self) -> str:
        return f"ManagementClient({self._url!r}, vhost={self._vhost!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client may be used again afterwards."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def authenticate(self, user: str, password: str) -> None:
        """Use other credentials from the next call on."""
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {credentials}"}

    # --- looking -----------------------------------------------------------------------------------------------------

    async def snapshot(self, now: datetime) -> BrokerState:
        """Read everything that comparisons need, in eight calls whatever the number of queues."""
        overview, nodes, queues, users = await asyncio.gather(
            self.overview(), self.nodes(), self.queues(), self.users()
        )
        exchange, bindings, policies, permissions = await asyncio.gather(
            self.exchange(DEAD_LETTER_EXCHANGE),
            self.bindings(DEAD_LETTER_EXCHANGE),
            self.policies(),
            self.permissions(),
        )
        return BrokerState(
            at=now,
            version=version_of(overview),
            uptime=min((node.get("uptime", 0) / 1000.0 for node in nodes if node.get("running", True)), default=0.0),
            queues={queue.name: queue for queue in queues},
            exchanges={exchange.name: exchange} if exchange else {},
            bindings=frozenset(bindings),
            policies={policy.name: policy for policy in policies},
            users={user.name: user for user in users},
            permissions={permission.user: permission for permission in permissions},
            alarms=tuple(sorted(_alarms(nodes))),
        )

    async def overview(self) -> dict[str, Any]:
        """Return the broker's own account of itself; `rabbitmq_version` among it."""
        found: dict[str, Any] = await self._get("api/overview")
        return found

    async def nodes(self) -> list[dict[str, Any]]:
        """Return name, uptime (ms), running and alarms of each node."""
        found: list[dict[str, Any]] = await self._get(
            "api/nodes", columns="name,uptime,running,mem_alarm,disk_free_alarm"
        )
        return found

    async def queues(self) -> list[QueueState]:
        """List every queue of the vhost in one call. Counts are up to 5 s old."""
        found = await self._get(f"api/queues/{self._v}", slow=True, columns=_QUEUE_COLUMNS)
        return [_queue_state(item) for item in found]

    async def queue(self, name: str) -> QueueState | None:
        """Return one queue, or None where there is none."""
        try:
            return _queue_state(await self._get(f"api/queues/{self._v}/{_q(name)}", columns=_QUEUE_COLUMNS))
        except NotThere:
            return None

    async def exchange(self, name: str) -> Exchange | None:
        """Return one exchange, or None where there is none."""
        try:
            item = await self._get(f"api/exchanges/{self._v}/{_q(name)}")
        except NotThere:
            return None
        return Exchange(
            item["name"], item["type"], item["durable"], item["auto_delete"], item["internal"], item["arguments"]
        )

    async def bindings(self, source: str) -> list[Binding]:
        """Return the bindings of queues to an exchange; none where there is no such exchange."""
        try:
            found = await self._get(f"api/exchanges/{self._v}/{_q(source)}/bindings/source")
        except NotThere:
            return []
        return [
            Binding(item["source"], item["destination"], item["routing_key"])
            for item in found
            if item["destination_type"] == "queue"
        ]

    async def policies(self) -> list[Policy]:
        """Return the vhost's policies."""
        found = await self._get(f"api/policies/{self._v}")
        return [
            Policy(item["name"], item["pattern"], item["definition"], item["priority"], item["apply-to"])
            for item in found
        ]

    async def users(self) -> list[UserState]:
        """Return every user of the broker."""
        found = await self._get("api/users", slow=True)
        return [
            UserState(item["name"], item.get("password_hash", ""), item.get("hashing_algorithm", ""), _tags(item))
            for item in found
        ]

    async def permissions(self) -> list[Permission]:
        """Return every user's permissions in the vhost."""
        found = await self._get(f"api/vhosts/{self._v}/permissions", slow=True)
        return [Permission(item["user"], item["configure"], item["write"], item["read"]) for item in found]

    async def peek(self, queue: str, count: int) -> list[Peeked]:
        """Look at the first `count` messages and leave them there; each look counts as a delivery of theirs."""
        found = await self._call(
            "POST",
            f"api/queues/{self._v}/{_q(queue)}/get",
            {"count": count, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 50_000},
        )
        return [_peeked(item) for item in found]

    # --- writing -----------------------------------------------------------------------------------------------------

    async def apply(self, change: Change) -> None:
        """Carry out one change of `topology.changes`. Deleting what isn't there is fine."""
        match change.verb, change.target:
            case "put", Queue() as queue:
                await self.declare_queue(queue)
            case "put", Exchange() as exchange:
                await self.put_exchange(exchange)
            case "put", Binding() as binding:
                await self.bind(binding)
            case "put", Policy() as policy:
                await self.put_policy(policy)
            case "put", User() as user:
                await self.put_user(user.name, hash_password(user.password), user.tags)
            case "put", Permission() as permission:
                await self.put_permission(permission)
            case "delete", Queue() as queue:
                await self.delete_queue(queue.name)
            case "delete", Policy() as policy:
                await self.delete_policy(policy.name)
            case "delete", User() as user:
                await self.delete_user(user.name)
            case verb, target:
                raise ValueError(f"no way to {verb} a {type(target).__name__}")

    async def apply_all(self, changes: Iterable[Change]) -> None:
        """Carry out changes one after the other; the first that fails ends it."""
        for change in changes:
            await self.apply(change)

    async def declare_queue(self, queue: Queue) -> None:
        """Declare a queue and see that it stays.

        A declaration while the queue is being deleted can be answered with ok and be gone: it is looked for again.

        Raises
        ------
        BrokerRefused
            Status 400: there is one with other arguments.
        BrokerUnavailable
            It vanished after each declaration.
        """
        body = {"durable": queue.durable, "auto_delete": queue.auto_delete, "arguments": dict(queue.arguments)}
        for _ in range(_LOOKS):
            await self._call("PUT", f"api/queues/{self._v}/{_q(queue.name)}", body)
            if await self._stays(queue.name):
                return
        raise BrokerUnavailable(f"queue {queue.name} was declared {_LOOKS} times and is still not there")

    async def delete_queue(self, name: str, *, if_empty: bool = False) -> bool:
        """Delete a queue and tell whether it is gone.

        Parameters
        ----------
        if_empty
            Keep it when anything is in it, or when nobody can tell. Quorum queues have no such condition of their own,
            so the count is read first; what comes in between goes with the queue.
        """
        if if_empty:
            there = await self.queue(name)
            if there is None:
                return True
            if there.messages != 0:
                return False
        await self._delete(f"api/queues/{self._v}/{_q(name)}")
        return True

    async def purge(self, name: str) -> None:
        """Drop what is ready in a queue; what is unacknowledged stays."""
        await self._delete(f"api/queues/{self._v}/{_q(name)}/contents")

    async def put_exchange(self, exchange: Exchange) -> None:
        body = {
            "type": exchange.type,
            "durable": exchange.durable,
            "auto_delete": exchange.auto_delete,
            "internal": exchange.internal,
            "arguments": dict(exchange.arguments),
        }
        await self._call("PUT", f"api/exchanges/{self._v}/{_q(exchange.name)}", body)

    async def bind(self, binding: Binding) -> None:
        path = f"api/bindings/{self._v}/e/{_q(binding.source)}/q/{_q(binding.destination)}"
        await self._call("POST", path, {"routing_key": binding.routing_key, "arguments": {}})

    async def put_policy(self, policy: Policy) -> None:
        body = {
            "pattern": policy.pattern,
            "definition": dict(policy.definition),
            "priority": policy.priority,
            "apply-to": policy.apply_to,
        }
        await self._call("PUT", f"api/policies/{self._v}/{_q(policy.name)}", body)

    async def delete_policy(self, name: str) -> None:
        await self._delete(f"api/policies/{self._v}/{_q(name)}")

    async def put_user(self, name: str, password_hash: str, tags: Iterable[str] = ()) -> None:
        """Make a user, or give it another password. The password itself never travels."""
        body = {"password_hash": password_hash, "hashing_algorithm": HASHING_ALGORITHM, "tags": ",".join(tags)}
        await self._call("PUT", f"api/users/{_q(name)}", body)

    async def delete_user(self, name: str) -> None:
        """Delete a user; its open connections are closed by the broker."""
        await self._delete(f"api/users/{_q(name)}")

    async def put_permission(self, permission: Permission) -> None:
        body = {"configure": permission.configure, "write": permission.write, "read": permission.read}
        await self._call("PUT", f"api/permissions/{self._v}/{_q(permission.user)}", body)

    # --- wire --------------------------------------------------------------------------------------------------------

    @property
    def _v(self) -> str:
        return _q(self._vhost)

    async def _stays(self, name: str) -> bool:
        for look in range(2):
            if look:
                await asyncio.sleep(_BETWEEN_LOOKS)
            if await self.queue(name) is None:
                return False
        return True

    async def _delete(self, path: str) -> None:
        try:
            await self._call("DELETE", path)
        except NotThere:
            return

    async def _get(self, path: str, *, slow: bool = False, **query: str) -> Any:
        return await self._call("GET", path, slow=slow, query=query)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        slow: bool = False,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        # Names are quoted already (`%2F` is a vhost, `/` would be a path).
        url = URL(f"{self._url}/{path}", encoded=True)
        if query:
            url = url.with_query(query)
        timeout = aiohttp.ClientTimeout(total=self._timeout * (3 if slow else 1))
        what = f"{method} {path}"
        try:
            async with self._session.request(
                method, url, json=body, headers=self._headers, timeout=timeout
            ) as response:
                content = await response.read()
                status = response.status
        except TimeoutError as error:
            raise BrokerUnavailable(f"{what}: no answer within {timeout.total:g} s") from error
        except aiohttp.ClientError as error:
            raise BrokerUnavailable(f"{what}: {error or type(error).__name__}") from error
        if status >= 500:
            raise BrokerUnavailable(f"{what}: {status} {_reason(content)}")
        if status >= 400:
            raise (NotThere if status == 404 else BrokerRefused)(what, status, _reason(content))
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise BrokerUnavailable(f"{what}: the answer is no JSON; is this the management listener?") from error


def version_of(overview: Mapping[str, Any]) -> Version:
    """Return major and minor version out of an overview."""
    major, minor, *_ = str(overview.get("rabbitmq_version", "0.0")).split(".")
    return int(major), int("".join(character for character in minor if character.isdigit()) or 0)


def _q(name: str) -> str:
    return quote(name, safe="")


def _reason(content: bytes) -> str:
    try:
        answer = json.loads(content)
    except ValueError:
        return content.decode(errors="replace")[:_REASON_CHARACTERS]
    reason = answer.get("reason", answer.get("error", "")) if isinstance(answer, dict) else answer
    return (reason if isinstance(reason, str) else json.dumps(reason))[:_REASON_CHARACTERS]


def _tags(item: Mapping[str, Any]) -> tuple[str, ...]:
    tags = item.get("tags") or []
    return tuple(tag for tag in (tags.split(",") if isinstance(tags, str) else tags) if tag)


def _alarms(nodes: Iterable[Mapping[str, Any]]) -> set[str]:
    found = set()
    for node in nodes:
        if node.get("mem_alarm"):
            found.add(f"memory of {node['name']}")
        if node.get("disk_free_alarm"):
            found.add(f"disk of {node['name']}")
    return found


def _queue_state(item: Mapping[str, Any]) -> QueueState:
    arguments = item.get("arguments") or {}
    return QueueState(
        name=item["name"],
        type=item.get("type") or arguments.get("x-queue-type", "classic"),
        durable=item["durable"],
        auto_delete=item["auto_delete"],
        exclusive=item["exclusive"],
        arguments=arguments,
        policy=item.get("policy") or None,
        state=item.get("state", "unknown"),
        messages=item.get("messages"),
        ready=item.get("messages_ready"),
        unacknowledged=item.get("messages_unacknowledged"),
        consumers=item.get("consumers") or 0,
    )


def _peeked(item: Mapping[str, Any]) -> Peeked:
    properties = item.get("properties") or {}
    if not isinstance(properties, dict):  # an empty one comes as a list
        properties = {}
    return Peeked(properties.get("headers") or {}, properties.get("message_id"), item["payload"])
