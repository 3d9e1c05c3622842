"""RabbitMQ's salted SHA-256 password hashes, for users made over the management API and for definitions files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

HASHING_ALGORITHM = "rabbit_password_hashing_sha256"
_SALT_BYTES = 4


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Return RabbitMQ's hash of `password`: base64 of a four-byte salt and the SHA-256 of salt and password.

    Parameters
    ----------
    salt
        Four bytes; random ones where none are given.
    """
    chosen = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    if len(chosen) != _SALT_BYTES:
        raise ValueError(f"salt: must have {_SALT_BYTES} bytes, not {len(chosen)}")
    return base64.b64encode(chosen + hashlib.sha256(chosen + password.encode()).digest()).decode()


def matches(password: str, password_hash: str) -> bool:
    """Tell whether `password_hash`, as the broker reports it, was made of `password`."""
    try:
        salt = base64.b64decode(password_hash, validate=True)[:_SALT_BYTES]
    except (binascii.Error, ValueError):
        return False
    return len(salt) == _SALT_BYTES and hmac.compare_digest(hash_password(password, salt), password_hash)
