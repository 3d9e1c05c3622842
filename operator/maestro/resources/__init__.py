"""The custom resources as pydantic models: the one source of `crds/*.yaml`, and what the rest of Maestro reads."""

from maestro.resources.automation import Automation
from maestro.resources.conditions import Condition
from maestro.resources.duration import Duration
from maestro.resources.group import API_VERSION, GROUP, VERSION

__all__ = ["API_VERSION", "GROUP", "VERSION", "Automation", "Condition", "Duration"]
