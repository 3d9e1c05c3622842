"""Messages as AMQP 0-9-1 frames, many at a time.

pika encodes a publication as three objects and hands each of its frames to the socket apart. What differs between two
messages of a batch is a few numbers and strings; the rest is encoded once here and joined. Pure; a test compares the
result with pika's own, byte by byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

PUB_HEADER = "maestro-pub"

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH = 60, 40
_MANDATORY = 1
_PERSISTENT = b"\x02"
_CONTENT_TYPE = b"application/json"
_FLAGS = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7  # content type, headers, delivery mode, message id
_FRAME_OVERHEAD = 8
_CHUNK_BYTES = 65_536
_CACHED_QUEUES = 10_000

_frame_head = struct.Struct(">BHI").pack
_content_head = struct.Struct(">BHIHHQH").pack
_int64 = struct.Struct(">q").pack
_uint32 = struct.Struct(">I").pack


class Outgoing(Protocol):
    """A message to publish: to the queue of that name, persistent, mandatory, as JSON.

    `headers` may be one and the same mapping for a whole batch: it is then encoded once. `maestro-pub` is added.
    """

    @property
    def queue(self) -> str: ...
    @property
    def pub(self) -> int: ...
    @property
    def message_id(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, int | str]: ...
    @property
    def body(self) -> bytes: ...


class Encoder:
    """Encodes for one channel.

    Parameters
    ----------
    frame_max
        The connection's largest frame in bytes, as negotiated; longer bodies take several frames.
    """

    def __init__(self, channel: int, frame_max: int) -> None:
        self._channel = channel
        self._body_max = frame_max - _FRAME_OVERHEAD
        self._methods: dict[str, bytes] = {}
        self._headers: Mapping[str, int | str] | None = None
        self._before_pub = b""
        self._after_pub = b""
        # What stands before the part of a content header that varies in length: class, weight, body size, flags.
        self._fixed = 2 + 2 + 8 + 2

    def encode(self, batch: Iterable[Outgoing]) -> Iterator[bytes]:
        """Yield the frames of a batch, joined to pieces of some 64 KiB (the rest of a partly sent one is copied)."""
        parts: list[bytes] = []
        size = 0
        for message in batch:
            body = message.body
            method = self._methods.get(message.queue) or self._method(message.queue)
            header = self._header(message, len(body))
            if len(body) <= self._body_max:
                parts += (method, header, _frame_head(_BODY, self._channel, len(body)), body, _END)
                if not body:
                    del parts[-3:]
            else:
                parts += (method, header, *self._body_frames(body))
            size += len(method) + len(header) + len(body) + _FRAME_OVERHEAD
            if size >= _CHUNK_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)

    def _method(self, queue: str) -> bytes:
        payload = struct.pack(">HHH", _BASIC, _PUBLISH, 0) + b"\x00" + _short(queue) + bytes([_MANDATORY])
        if len(self._methods) >= _CACHED_QUEUES:
            self._methods.clear()
        frame = _frame_head(_METHOD, self._channel, len(payload)) + payload + _END
        self._methods[queue] = frame
        return frame

    def _header(self, message: Outgoing, body_size: int) -> bytes:
        if message.headers is not self._headers:
            self._encode_headers(message.headers)
        tail = b"".join((self._before_pub, _int64(message.pub), self._after_pub, _short(message.message_id)))
        size = self._fixed + len(tail)
        return _content_head(_HEADER, self._channel, size, _BASIC, 0, body_size, _FLAGS) + tail + _END

    def _encode_headers(self, headers: Mapping[str, int | str]) -> None:
        others = b"".join(_short(key) + _value(value) for key, value in headers.items() if key != PUB_HEADER)
        pub = _short(PUB_HEADER) + b"l"
        table = _uint32(len(pub) + 8 + len(others))
        self._before_pub = _short_bytes(_CONTENT_TYPE) + table + pub
        self._after_pub = others + _PERSISTENT
        self._headers = headers

    def _body_frames(self, body: bytes) -> Iterator[bytes]:
        for start in range(0, len(body), self._body_max):
            piece = body[start : start + self._body_max]
            yield _frame_head(_BODY, self._channel, len(piece)) + piece + _END


def _short(text: str) -> bytes:
    return _short_bytes(text.encode())


def _short_bytes(text: bytes) -> bytes:
    if len(text) > 255:
        raise ValueError(f"AMQP names and ids have at most 255 bytes, not {len(text)}")
    return bytes((len(text),)) + text


def _value(value: int | str) -> bytes:
    if isinstance(value, int):
        return b"l" + _int64(value)
    text = value.encode()
    return b"S" + _uint32(len(text)) + text
