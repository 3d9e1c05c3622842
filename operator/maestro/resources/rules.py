"""Rules in CEL that the API server checks, as they stand in `x-kubernetes-validations`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VALIDATIONS = "x-kubernetes-validations"

Rule = dict[str, Any]
Extra = Callable[[dict[str, Any]], None]

_FORBIDDEN = "FieldValueForbidden"


def rule(
    expression: str,
    message: str,
    *,
    field: str | None = None,
    message_expression: str | None = None,
    reason: str | None = None,
    optional_old_self: bool = False,
) -> Rule:
    """One rule.

    Parameters
    ----------
    field
        The path, from where the rule stands, of the field that the refusal names (`.queue.name`).
    message_expression
        CEL that makes the message; `message` is what is shown where it fails.
    optional_old_self
        The rule also runs when the object is made; `oldSelf` is then an optional without a value.
    """
    made: Rule = {"rule": expression, "message": message}
    if message_expression:
        made["messageExpression"] = message_expression
    if field:
        made["fieldPath"] = field
    if reason:
        made["reason"] = reason
    if optional_old_self:
        made["optionalOldSelf"] = True
    return made


def extra(*rules: Rule, **schema: Any) -> Extra:
    """What pydantic's `json_schema_extra` takes: adds these rules, and further words of the schema (`list_type="set"`).

    Rules that the field's type brings along stay.
    """
    words = {f"x-kubernetes-{word.replace('_', '-')}": value for word, value in schema.items()}

    def extend(node: dict[str, Any]) -> None:
        node.update(words)
        if rules:
            node[VALIDATIONS] = [*node.get(VALIDATIONS, []), *rules]

    return extend


def forbidden(expression: str, message: str, *, field: str | None = None) -> Rule:
    """A rule whose refusal reads `Forbidden`: the field may not be set, or not so, here."""
    return rule(expression, message, field=field, reason=_FORBIDDEN)


def immutable(name: str) -> Rule:
    """For a field that always has a value; stands on the field itself."""
    return forbidden("self == oldSelf", f"{name} is immutable")


def immutable_optional(name: str) -> Rule:
    """For an optional field; stands in its parent, where it is seen that the field comes or goes."""
    present = f"has(self.{name}) == has(oldSelf.{name})"
    return forbidden(
        f"{present} && (!has(self.{name}) || self.{name} == oldSelf.{name})", f"{name} is immutable", field=f".{name}"
    )


def object_name(max_length: int) -> Rule:
    """For the root: what `metadata.name` may be. Objects that exist already may keep a name that broke the rule."""
    pattern = f"^[a-z]([-a-z0-9]{{0,{max_length - 2}}}[a-z0-9])?$"
    return rule(
        f"oldSelf.hasValue() || self.metadata.name.matches('{pattern}')",
        f"metadata.name must be 1 to {max_length} lower-case letters, digits or '-', begin with a letter and not end "
        f"with '-' ({pattern}): names of Jobs, labels and queues are made of it",
        optional_old_self=True,
    )
