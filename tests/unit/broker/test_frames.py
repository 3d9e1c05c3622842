"""The encoder's frames are those that pika would have made of the same publication."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

import pika
import pytest
from pika import frame, spec
from pika.compat import long

from maestro.broker.frames import Encoder

FRAME_MAX = 131_072


@dataclass
class Message:
    queue: str = "maestro.shop.nightly"
    pub: int = 7
    message_id: str = field(default_factory=lambda: str(uuid4()))
    headers: dict[str, int | str] = field(default_factory=lambda: {"maestro-epoch": 3, "maestro-store": "s-1"})
    body: bytes = b'{"job_id": "x"}'


def encode(messages: list[Message], frame_max: int = FRAME_MAX) -> bytes:
    return b"".join(Encoder(1, frame_max).encode(messages))


def by_pika(message: Message, frame_max: int = FRAME_MAX) -> bytes:
    headers = {"maestro-pub": long(message.pub)}
    headers |= {key: long(value) if isinstance(value, int) else value for key, value in message.headers.items()}
    properties = pika.BasicProperties(
        content_type="application/json", headers=headers, delivery_mode=2, message_id=message.message_id
    )
    publish = spec.Basic.Publish(exchange="", routing_key=message.queue, mandatory=True)
    frames = [frame.Method(1, publish), frame.Header(1, len(message.body), properties)]
    step = frame_max - 8
    frames += [frame.Body(1, message.body[at : at + step]) for at in range(0, len(message.body), step)]
    return b"".join(each.marshal() for each in frames)


@pytest.mark.parametrize(
    "message",
    [
        Message(),
        Message(pub=2**40),
        Message(queue="größe", message_id="ü"),
        Message(headers={}),
        Message(body=b""),
        Message(body=b"x" * (FRAME_MAX - 8)),
    ],
    ids=["plain", "large number", "not ascii", "no headers", "empty", "one full frame"],
)
def test_equal_to_pika(message: Message) -> None:
    assert encode([message]) == by_pika(message)


@pytest.mark.parametrize("size", [4088, 4089, 10_000, 8176])
def test_a_long_body_takes_several_frames(size: int) -> None:
    message = Message(body=b"x" * size)
    assert encode([message], 4096) == by_pika(message, 4096)


def test_a_batch_is_its_messages_one_after_the_other() -> None:
    shared: dict[str, int | str] = {"maestro-epoch": 3}
    other: dict[str, int | str] = {"maestro-epoch": 4}
    batch = [Message(pub=1, headers=shared), Message(pub=2, headers=shared, queue="b"), Message(pub=3, headers=other)]
    assert encode(batch) == b"".join(map(by_pika, batch))


def test_pieces_stay_small() -> None:
    pieces = list(Encoder(1, FRAME_MAX).encode([Message(body=b"x" * 1000) for _ in range(1000)]))
    assert max(map(len, pieces)) < 70_000


def test_a_name_that_amqp_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="255 bytes"):
        encode([Message(queue="x" * 256)])
