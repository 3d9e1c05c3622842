"""Which Runs become stale by which: the Automations' `reads` and `writes`, filled with a Run's parameters. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

_PLACE = re.compile(r"\$\(params\.([^()]+)\)")


@dataclass(frozen=True, slots=True)
class Templates:
    """What the Runs of one Automation depend on and change, as templates over their parameters."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def templates_of(automations: Iterable[Mapping[str, Any]], namespace: str, solution: str) -> dict[str, Templates]:
    """The templates of a Solution's Automations, as the API server has them, by `<namespace>.<name>`."""
    found = {}
    for obj in automations:
        meta, spec = obj["metadata"], obj.get("spec") or {}
        if meta["namespace"] == namespace and (spec.get("solution") or namespace) == solution:
            found[f"{namespace}.{meta['name']}"] = Templates(
                tuple(spec.get("reads") or ()), tuple(spec.get("writes") or ())
            )
    return found


def keys(templates: Sequence[str], parameters: Mapping[str, Any]) -> set[str]:
    """The keys that a Run with these parameters has. A template whose parameter isn't given names no key."""
    return {key for template in templates if (key := _filled(template, parameters)) is not None}


def key_hash(key: str) -> UUID:
    """How the store knows a key: sixteen bytes, however long it is."""
    return UUID(bytes=hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=16).digest())


def _filled(template: str, parameters: Mapping[str, Any]) -> str | None:
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        found: Any = parameters
        for step in match[1].split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
        if found is None:
            missing = True
            return ""
        return found if isinstance(found, str) else json.dumps(found, sort_keys=True, separators=(",", ":"))

    key = _PLACE.sub(value, template)
    return None if missing else key
