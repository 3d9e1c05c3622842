"""What one Automation's workers use to reach the broker. Pure, but for the making of a password."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from maestro.workload.pod import BrokerAddress

_PASSWORD_BYTES = 24


def new_password() -> str:
    """A random password (URL-safe characters, 192 bits)."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


@dataclass(frozen=True, slots=True)
class Login:
    """A broker user of an Automation; the password shows in no repr."""

    user: str
    password: str = field(repr=False)

    def url(self, address: BrokerAddress) -> str:
        """The AMQP URL with this login in it."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"amqp://{login}@{address.host}:{address.port}/{quote(address.vhost, safe='')}"


def secret_values(login: Login, address: BrokerAddress, queue: str) -> dict[str, str]:
    """What stands in an Automation's broker Secret, by key."""
    return {
        "url": login.url(address),
        "username": login.user,
        "password": login.password,
        "host": address.host,
        "port": str(address.port),
        "vhost": address.vhost,
        "queue": queue,
    }


def encoded(values: Mapping[str, str]) -> dict[str, str]:
    """Values as a Secret's `data` has them."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


def decoded(secret: Mapping[str, Any]) -> dict[str, str]:
    """The values of a Secret that are text; what isn't, is left out."""
    found = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            continue
    return found
