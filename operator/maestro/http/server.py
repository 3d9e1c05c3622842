"""uvicorn as the API needs it: no banner, no access log of its own, an end to endless headers."""

from __future__ import annotations

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from maestro.http.answers import encode

_MAX_HEADER_BYTES = 256 * 1024
_GRACE_SECONDS = 10


class _Protocol(HttpToolsProtocol):
    """Refuses a request whose header fields don't end; the parser itself has no limit."""

    _header_bytes = 0

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise ValueError("the header fields are too large")
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        """What isn't HTTP gets the same form of error as everything else."""
        body = encode({"status": 400, "message": msg, "details": []})
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


def server_config(app: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """The configuration of one listening server; port 0 takes a free one."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=1024,
    )
