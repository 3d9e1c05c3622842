"""The custom resources as pydantic models: the one source of `crds/*.yaml`, and what the rest of Maestro reads."""

from maestro.resources.automation import Automation
from maestro.resources.conditions import Condition
from maestro.resources.duration import Duration
from maestro.resources.group import API_VERSION, GROUP, VERSION
from maestro.resources.reprocessing import Reprocessing
from maestro.resources.schedule import Schedule

__all__ = ["API_VERSION", "GROUP", "VERSION", "Automation", "Condition", "Duration", "Reprocessing", "Schedule"]
