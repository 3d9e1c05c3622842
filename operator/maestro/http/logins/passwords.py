"""Hashes of passwords: Argon2id, in threads, a few at a time."""

from __future__ import annotations

import asyncio
import secrets

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST, LONGEST = 12, 256
# 19 MiB, two passes, one lane: what OWASP advises at least. Four at once stay far below the pod's memory.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
_AT_ONCE = 4
_GENERATED_BYTES = 18


class Passwords:
    """Makes and checks hashes without stopping the loop."""

    def __init__(self) -> None:
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._nobodys = _HASHER.hash(generated())

    async def hashed(self, password: str) -> str:
        """The hash to keep."""
        async with self._gate:
            return await asyncio.to_thread(_HASHER.hash, password)

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Whether the password is the one of this hash; None (no such user) takes as long, and is False."""
        async with self._gate:
            right = await asyncio.to_thread(_matches, hashed or self._nobodys, password)
        return right and hashed is not None


def generated() -> str:
    """A random password."""
    return secrets.token_urlsafe(_GENERATED_BYTES)


def problem(password: str, username: str) -> str | None:
    """The rule that a new password breaks; None: it is fine."""
    if not SHORTEST <= len(password) <= LONGEST:
        return f"must have {SHORTEST} to {LONGEST} characters"
    if username.lower() in password.lower() and len(password) < 2 * len(username) + SHORTEST // 2:
        return "must not be made of the user's name"
    if len(set(password)) < SHORTEST // 3:
        return f"must have at least {SHORTEST // 3} different characters"
    return None


def _matches(hashed: str, password: str) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False
