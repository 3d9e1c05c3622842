"""A message of the queue. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from maestro_worker.run import Message


class NotARun(ValueError):  # noqa: N818 - a finding
    """The message doesn't speak of a Run: Maestro never sent it."""


@dataclass(slots=True)
class Delivery:
    """One copy of a Run's message.

    Attributes
    ----------
    connection, tag
        Where it has to be acknowledged: a tag means something only on the connection that brought it.
    pub, epoch, store
        The publication that this copy belongs to.
    arrived
        When the engine took it, by its clock.
    """

    connection: int
    tag: int
    message: Message
    redelivered: bool
    pub: int | None
    epoch: int | None
    store: str | None
    arrived: float = 0.0

    def same_publication(self, other: Delivery) -> bool:
        """Both are copies of one publication: the later one replaces the earlier as what is to be acknowledged."""
        return (self.pub, self.epoch, self.store) == (other.pub, other.epoch, other.store)


def read(connection: int, tag: int, redelivered: bool, headers: Mapping[str, Any] | None, body: bytes) -> Delivery:
    """Read a message.

    Raises
    ------
    NotARun
        It isn't a JSON object with a `job_id`.
    """
    try:
        content = from_json(body)
    except ValueError:
        raise NotARun("the body isn't JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("job_id"), str):
        raise NotARun("the body has no job_id")
    headers = headers or {}
    return Delivery(
        connection,
        tag,
        Message(content["job_id"], content),
        redelivered,
        _integer(headers.get("maestro-pub")),
        _integer(headers.get("maestro-epoch")),
        _text(headers.get("maestro-store")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
