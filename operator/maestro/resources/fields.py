"""Types of fields that several models have. Every text and list has a bound: the API server's CEL budget needs it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, WithJsonSchema

from maestro.resources.rules import Rule, extra

# The schema of an object whose keys are free. CEL can't look into it, and compares it with a gap: an entry that takes
# the place of another one under a new name, with nothing else changed, counts as equal. So an `immutable` rule on one
# is a courtesy; whoever relies on it compares for themselves (the plan's hash, the queue's declared arguments).
FREE_OBJECT: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

# Lists that are replaced as a whole, and lists without duplicates whose entries several managers may own.
ATOMIC = extra(list_type="atomic")
SET = extra(list_type="set")

FreeObject = Annotated[dict[str, Any], WithJsonSchema(FREE_OBJECT)]

ObjectName = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
AutomationName = Annotated[str, StringConstraints(max_length=52, pattern=r"^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$")]
SolutionName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
RunId = Annotated[
    str, StringConstraints(max_length=36, pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
]
Key = Annotated[str, StringConstraints(min_length=1, max_length=256)]
UserName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Hash = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ShortText = Annotated[str, StringConstraints(max_length=256)]
Text = Annotated[str, StringConstraints(max_length=4096)]


def section(model: type[Any], description: str, *rules: Rule) -> Any:
    """A field that holds a part of the resource and defaults to that part's own defaults (`default: {}`)."""
    with_rules = extra(*rules)

    def extend(node: dict[str, Any]) -> None:
        node["default"] = {}
        with_rules(node)

    return Field(default_factory=model, description=description, json_schema_extra=extend)
