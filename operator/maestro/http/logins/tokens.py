"""Tokens of login users: signed, short-lived, void as soon as the user's password changes."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, NamedTuple

import jwt
from jwt.types import Options

from maestro.runtime.clock import Clock

PREFIX = "maestro_"
"""How each of these tokens begins: it is told from a Kubernetes token at sight, and never sent to the API server."""

ACCESS = timedelta(minutes=15)
REFRESH = timedelta(hours=12)

_ISSUER = "maestro"
_ALGORITHM = "HS256"
_CLAIMS = ["exp", "iat", "iss", "sub", "typ", "ver"]

Use = Literal["access", "refresh"]


class Holder(NamedTuple):
    """Whom a token names: the user, and the version of the account that it was made for."""

    username: str
    version: int


def issue(key: bytes, holder: Holder, use: Use, clock: Clock) -> str:
    """A new token."""
    now = clock()
    claims = {
        "iss": _ISSUER,
        "sub": holder.username,
        "ver": holder.version,
        "typ": use,
        "iat": now,
        "exp": now + (ACCESS if use == "access" else REFRESH),
    }
    return PREFIX + jwt.encode(claims, key, algorithm=_ALGORITHM)


def holder_of(key: bytes, token: str, use: Use, clock: Clock) -> Holder | None:
    """Whom a token names; None for one that isn't ours, is over, or is for another use."""
    # The time is compared below: with the clock that is handed in.
    unasked = Options(require=_CLAIMS, verify_exp=False, verify_iat=False)
    given = token.removeprefix(PREFIX)
    try:
        claims = jwt.decode(given, key, algorithms=[_ALGORITHM], issuer=_ISSUER, options=unasked)
    except (jwt.InvalidTokenError, UnicodeError):
        return None
    over = not isinstance(claims["exp"], int) or claims["exp"] <= clock().timestamp()
    if over or claims["typ"] != use or not isinstance(claims["sub"], str) or not isinstance(claims["ver"], int):
        return None
    return Holder(claims["sub"], claims["ver"])
