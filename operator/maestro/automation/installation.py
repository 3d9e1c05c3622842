"""The broker's administrator: read from its Secret, which is made first where the broker is the installation's own.

The Secret is made here and not by the chart, so that what a GitOps tool renders never changes and no password passes
through Helm. The broker's pod can't start before the Secret is there, and imports its definitions at each boot.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from maestro.broker.passwords import HASHING_ALGORITHM, hash_password
from maestro.kube.client import KubeClient
from maestro.kube.errors import AlreadyExists, NotFound
from maestro.kube.kinds import SECRET
from maestro.resources.names import BROKER_SECRET_TYPE
from maestro.settings import Settings

ADMINISTRATOR = "maestro"


class InvalidBrokerSecret(ValueError):  # noqa: N818 - reads as what it is
    """The Secret with the broker's administrator lacks a key or holds a value that can't be used; both are named."""


@dataclass(frozen=True, slots=True)
class BrokerAdmin:
    """Where the broker is and who administers it."""

    host: str
    port: int
    management_port: int
    vhost: str
    username: str
    password: str = field(repr=False)

    @property
    def management_url(self) -> str:
        """The base URL of the management API."""
        return f"http://{self.host}:{self.management_port}"

    def amqp_url(self, username: str, password: str) -> str:
        """The URL with which somebody else connects."""
        vhost = quote(self.vhost, safe="")
        return f"amqp://{quote(username, safe='')}:{quote(password, safe='')}@{self.host}:{self.port}/{vhost}"


async def broker_admin(kube: KubeClient, settings: Settings) -> BrokerAdmin:
    """The administrator as the Secret `settings.broker_secret` names it; made when absent and the broker is our own.

    Raises
    ------
    NotFound
        The Secret of a broker that isn't the installation's own doesn't exist.
    InvalidBrokerSecret
        A key is missing or can't be used.
    KubeError
        The API server refused or is away.
    """
    try:
        secret = await kube.get(SECRET, settings.namespace, settings.broker_secret)
    except NotFound:
        if not settings.broker_managed:
            raise
        secret = await _make(kube, settings)
    return parse(secret, settings)


def parse(secret: Mapping[str, Any], settings: Settings) -> BrokerAdmin:
    """Read the Secret's keys; host, ports and vhost may be absent and come from the settings then.

    Raises
    ------
    InvalidBrokerSecret
        A key is missing or can't be used.
    """
    name = settings.broker_secret
    data = {key: _text(name, key, value) for key, value in (secret.get("data") or {}).items()}
    for key in ("username", "password"):
        if not data.get(key):
            raise InvalidBrokerSecret(f"Secret {settings.namespace}/{name}: key {key} is missing or empty")
    return BrokerAdmin(
        host=data.get("host") or settings.broker_host,
        port=_port(name, "port", data.get("port"), settings.broker_port),
        management_port=_port(name, "management-port", data.get("management-port"), settings.broker_management_port),
        vhost=data.get("vhost") or settings.broker_vhost,
        username=data["username"],
        password=data["password"],
    )


async def _make(kube: KubeClient, settings: Settings) -> dict[str, Any]:
    try:
        return await kube.create(SECRET, settings.namespace, new_secret(settings, secrets.token_urlsafe(32)))
    except AlreadyExists:  # another replica was faster: its password is the one the broker gets
        return await kube.get(SECRET, settings.namespace, settings.broker_secret)


def new_secret(settings: Settings, password: str) -> dict[str, Any]:
    """The Secret of an own broker: its administrator, its Erlang cookie and the definitions it imports at each boot."""
    definitions = {
        "users": [
            {
                "name": ADMINISTRATOR,
                "password_hash": hash_password(password),
                "hashing_algorithm": HASHING_ALGORITHM,
                "tags": ["administrator"],
            }
        ],
        "vhosts": [{"name": settings.broker_vhost, "default_queue_type": "quorum"}],
        "permissions": [
            {"user": ADMINISTRATOR, "vhost": settings.broker_vhost, "configure": ".*", "write": ".*", "read": ".*"}
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": settings.broker_secret,
            "namespace": settings.namespace,
            "labels": {"app.kubernetes.io/part-of": "maestro", "app.kubernetes.io/instance": settings.release},
        },
        "type": BROKER_SECRET_TYPE,
        "stringData": {
            "username": ADMINISTRATOR,
            "password": password,
            "host": settings.broker_host,
            "port": str(settings.broker_port),
            "management-port": str(settings.broker_management_port),
            "vhost": settings.broker_vhost,
            "erlang-cookie": secrets.token_hex(32),
            "definitions.json": json.dumps(definitions),
        },
    }


def _text(secret: str, key: str, value: str) -> str:
    try:
        return base64.b64decode(value).decode()
    except UnicodeDecodeError:
        raise InvalidBrokerSecret(f"Secret {secret}: key {key} isn't UTF-8") from None


def _port(secret: str, key: str, value: str | None, default: int) -> int:
    if not value:
        return default
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise InvalidBrokerSecret(f"Secret {secret}: key {key} isn't a port (1 to 65535)")
    return int(value)
