"""Events of events.k8s.io/v1: what `kubectl describe` shows below an object."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

# The API server's own limits.
NOTE_LIMIT = 1024
REASON_LIMIT = 128
INSTANCE_LIMIT = 128


def event_body(
    involved: Mapping[str, Any],
    type_: str,
    reason: str,
    message: str,
    action: str,
    reporter: str,
    now: datetime,
) -> dict[str, Any]:
    """The Event about `involved` (a whole object, or the part with apiVersion, kind, name, namespace and uid)."""
    meta = involved.get("metadata") or {}
    namespace = str(meta.get("namespace") or "default")
    return {
        "metadata": {"name": f"{str(meta.get('name', 'unknown'))[:200]}.{uuid4().hex[:16]}", "namespace": namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": type_,
        "reason": reason[:REASON_LIMIT],
        "note": _cut(message, NOTE_LIMIT),
        "action": action[:REASON_LIMIT],
        "reportingController": reporter,
        "reportingInstance": _instance(reporter),
        "regarding": {
            "apiVersion": involved.get("apiVersion"),
            "kind": involved.get("kind"),
            "namespace": meta.get("namespace"),
            "name": meta.get("name"),
            "uid": meta.get("uid"),
            "resourceVersion": meta.get("resourceVersion"),
        },
    }


def _instance(reporter: str) -> str:
    return f"{reporter}-{os.environ.get('HOSTNAME') or socket.gethostname()}"[:INSTANCE_LIMIT]


def _cut(text: str, limit: int) -> str:
    """`text` with at most `limit` bytes: the API server counts bytes, not characters."""
    raw = text.encode("utf-8")
    return text if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "…"
