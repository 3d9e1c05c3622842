"""States of containers, as a pod's status says them."""

from __future__ import annotations

from typing import Any


def terminated(code: int, reason: str, **more: Any) -> dict[str, Any]:
    """A container that has ended."""
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


def waiting(reason: str) -> dict[str, Any]:
    """A container that doesn't run yet."""
    return {"waiting": {"reason": reason, "message": "because"}}
