"""Path ids and query strings, checked."""

from __future__ import annotations

import re
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from maestro.http.errors import invalid, invalid_model, not_found

M = TypeVar("M", bound=BaseModel)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def run_id(request: Request) -> UUID:
    """The Run's id in the path; 404 for what can't be one."""
    given = request.path_params["id"]
    if not _UUID.fullmatch(given):
        raise not_found("there is no such Run: its id is a UUID")
    return UUID(given)


def query(request: Request, model: type[M]) -> M:
    """The query string as its model; 422 for an unknown name, a name given twice, a value that breaks its rule."""
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    if len(given) != len(pairs):
        twice = next(name for name in given if sum(name == other for other, _ in pairs) > 1)
        raise invalid(twice[:64], "is given more than once")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid_model(error, model) from None
