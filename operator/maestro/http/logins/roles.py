"""What the three roles of a login may do, in the words of RBAC, so that one question serves every caller. No I/O."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["admin", "operator", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)

_LOOK = frozenset({"get", "list", "watch"})
_DECIDE = frozenset({"create", "update", "approve"})
_KINDS = frozenset({"automations", "schedules", "reprocessings"})


def may(role: Role, verb: str, resource: str, subresource: str = "") -> bool:
    """Whether a role has a verb on a resource of the group.

    A viewer looks. An operator runs things too: Runs, dead letters and ticks (all that is a subresource), and decides
    about Reprocessings; what an Automation or a Schedule is stays as it is. An admin does everything.
    """
    if role == "admin":
        return True
    if resource not in _KINDS:
        return False
    if verb in _LOOK:
        return True
    if role != "operator":
        return False
    return bool(subresource) or (resource == "reprocessings" and verb in _DECIDE)
