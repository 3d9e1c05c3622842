"""Durations as people write them in a manifest: `90s`, `1h30m`, `1.5h`."""

from __future__ import annotations

import re
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from maestro.resources.rules import VALIDATIONS

PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
MAX_LENGTH = 32
MINIMUM_SECONDS = 1.0
# The API server reads a duration into 64 bits of nanoseconds; a longer one is refused there.
MAXIMUM_SECONDS = (2**63 - 1) / 1e9

_WHOLE = re.compile(PATTERN)
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(str):
    """A duration of at least one second, in the text that the manifest has.

    Attributes
    ----------
    seconds
        The same in seconds.

    Raises
    ------
    ValueError
        The text isn't a duration, is shorter than a second, or longer than 292 years.
    """

    __slots__ = ("seconds",)
    seconds: float

    def __new__(cls, text: str) -> Duration:
        if len(text) > MAX_LENGTH or not _WHOLE.fullmatch(text):
            raise ValueError("must be a duration such as 90s, 15m or 1h30m (units ms, s, m, h)")
        seconds = sum(float(number) * _UNIT[unit] for number, unit in _PART.findall(text))
        if seconds < MINIMUM_SECONDS:
            raise ValueError("must be a duration of at least 1s")
        if seconds > MAXIMUM_SECONDS:
            raise ValueError("must be a duration of less than 2562047h")
        made = super().__new__(cls, text)
        made.seconds = seconds
        return made

    def __getnewargs__(self) -> tuple[str]:
        return (str(self),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # Not `format: duration`: the API server takes `P1D` and `1 day` for that.
        return {
            "type": "string",
            "maxLength": MAX_LENGTH,
            "pattern": PATTERN,
            VALIDATIONS: [{"rule": "duration(self) >= duration('1s')", "message": "must be a duration of at least 1s"}],
        }
