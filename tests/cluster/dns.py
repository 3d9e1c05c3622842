"""One question to a DNS server, to see whether the whole way through Service and pod works."""

from __future__ import annotations

import socket
import struct


def resolves(server: str, name: str, timeout: float = 1.0) -> bool:
    """Ask a server for the address (A) of a name over UDP; say whether it answers with one."""
    labels = b"".join(struct.pack("B", len(label)) + label.encode() for label in name.split("."))
    question = struct.pack(">HHHHHH", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        try:
            client.sendto(question, (server, 53))
            answer = client.recv(512)
        except OSError:
            return False
    _, flags, _, answers, _, _ = struct.unpack(">HHHHHH", answer[:12])
    return flags & 0x000F == 0 and answers > 0
