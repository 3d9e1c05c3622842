"""Dead letters: what the broker says about one, by what it is told from others, what its body holds. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from maestro.runs.model import Parameters, to_micros
from maestro.runs.restored import Publication

PUBLISHED = "published"
"""Reason of a letter that no queue gave up: somebody sent it where dead letters are kept."""
_TEXT_LIMIT = 1024


_MAX_STORE_ID = 64


class Arrived(Protocol):
    """A message of the queue of dead letters; see `maestro.broker.consumer.Delivery`."""

    @property
    def connection(self) -> int: ...
    @property
    def tag(self) -> int: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def message_id(self) -> str | None: ...
    @property
    def content_type(self) -> str | None: ...
    @property
    def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter on its way into the store.

    Attributes
    ----------
    queue, reason, count
        Of its last death: which queue gave it up, why (`rejected`, `expired`, `maxlen`, `delivery_limit`) and how
        often that has happened. Without any: no queue, reason `published`.
    died_at
        Microseconds; whole seconds, as the broker says it.
    headers
        All of them, as JSON can hold them.
    run_id
        The Run that it says it is about; whether there is one, the store knows.
    store, pub
        The publication that it is a copy of; None where Maestro didn't send it.
    identity
        Equal for two deliveries of one letter.
    distinct
        No other letter has this identity. Foreign messages without an id may be sent twice with the same content.
    redelivered
        It was delivered before.
    """

    queue: str
    reason: str
    count: int
    died_at: int | None
    headers: Mapping[str, Any]
    message_id: str | None
    content_type: str | None
    body: bytes = field(repr=False)
    run_id: UUID | None
    store: str | None
    pub: int | None
    identity: str
    distinct: bool
    redelivered: bool

    @property
    def publication(self) -> Publication | None:
        """What the message says of itself, where Maestro sent it: it may show that the store was restored since."""
        if self.store is None or len(self.store) > _MAX_STORE_ID:
            return None
        return Publication(self.store, _integer(self.headers.get("maestro-epoch")), self.pub, self.run_id)


def read(arrived: Arrived) -> Letter:
    """Read a message of the queue of dead letters; takes whatever comes."""
    death = _last_death(arrived.headers)
    store, pub = _text(arrived.headers.get("maestro-store")), _integer(arrived.headers.get("maestro-pub"))
    if store is None or pub is None:
        store = pub = None
    queue, reason = _text(death.get("queue")) or "", _text(death.get("reason")) or PUBLISHED
    died_at = _micros(death.get("time"))
    message_id, body = _text(arrived.message_id), arrived.body
    return Letter(
        queue=queue,
        reason=reason,
        count=_integer(death.get("count")) or 1,
        died_at=died_at,
        headers=_plain(arrived.headers),
        message_id=message_id,
        content_type=_text(arrived.content_type),
        body=body,
        run_id=_run_id(body, message_id),
        store=store,
        pub=pub,
        identity=_hash(queue, reason, died_at, message_id, store, pub, arrived.exchange, arrived.routing_key, body),
        distinct=message_id is not None or pub is not None,
        redelivered=arrived.redelivered,
    )


def _last_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The latest entry of `x-death`: the broker puts it first."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return deaths[0]
    return {}


def _run_id(body: bytes, message_id: str | None) -> UUID | None:
    content = content_of(body)
    named = content.get("job_id") if content is not None else None
    for candidate in (named, message_id):
        if isinstance(candidate, str) and len(candidate) == 36:
            try:
                return UUID(candidate)
            except ValueError:
                continue
    return None


def _hash(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


def _text(value: object) -> str | None:
    """A short text that any database takes."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")[:_TEXT_LIMIT]


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else None


def _micros(value: object) -> int | None:
    if not isinstance(value, datetime):
        return None
    return to_micros(value if value.tzinfo is not None else value.replace(tzinfo=UTC))


def _plain(value: Any) -> Any:
    """AMQP's values in JSON: times as RFC 3339, bytes as text or `{"base64": …}`."""
    match value:
        case dict():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode()}
        case datetime():
            return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).isoformat()
        case None | bool() | int() | str():
            return value
        case float():
            return value if value - value == 0 else str(value)
        case _:
            return str(value)


# -- the body -------------------------------------------------------------------------------------------------------


class Unusable(ValueError):  # noqa: N818 - a finding
    """The body has no parameters for a Run; the message says why."""


def content_of(body: bytes) -> dict[str, Any] | None:
    """The body as a JSON object; None where it is something else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def parameters_of(body: bytes) -> Parameters:
    """The parameters in a message's body: those of a message of Maestro's form, else the whole object.

    Raises
    ------
    Unusable
        It is no JSON object, or a message of Maestro's that doesn't carry its parameters.
    """
    content = content_of(body)
    if content is None:
        raise Unusable("the body isn't a JSON object")
    parameters = content.get("parameters")
    if isinstance(parameters, dict):
        return parameters
    if "job_id" in content:
        raise Unusable("the message names a Run that the store doesn't know, and doesn't carry its parameters")
    return content


Encoding = Literal["json", "text", "base64"]


def shown(body: bytes) -> tuple[Encoding, Any]:
    """The body as people read it: a JSON value, a text, else base64."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(body).decode()
    try:
        return "json", json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return ("text", text) if _printable(text) else ("base64", base64.b64encode(body).decode())


def redacted(body: bytes, redact: Callable[[Parameters], Parameters]) -> bytes:
    """The body as it may be shown where some parameters are secret: unchanged where it holds none of them.

    Parameters
    ----------
    redact
        Parameters without the secret ones.
    """
    content = content_of(body)
    if content is None:
        return body
    hidden = redact(content)
    if isinstance(hidden.get("parameters"), dict):
        hidden["parameters"] = redact(hidden["parameters"])
    return body if hidden == content else json.dumps(hidden, ensure_ascii=False).encode("utf-8", "replace")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _printable(text: str) -> bool:
    return all(character.isprintable() or character in "\r\n\t" for character in text)
