"""What a CustomResourceDefinition says of a kind beside its schema: names, columns, subresources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from maestro.resources.automation import Automation
from maestro.resources.model import Resource
from maestro.resources.reprocessing import Reprocessing
from maestro.resources.schedule import Schedule

Column = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A kind as its CustomResourceDefinition presents it."""

    model: type[Resource]
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    scale: dict[str, str] | None = None
    note: str = ""

    @property
    def kind(self) -> str:
        """The kind's name, such as Automation."""
        return self.model.__name__

    @property
    def singular(self) -> str:
        """The kind's name in lower case."""
        return self.kind.lower()


def _column(
    name: str, path: str, description: str, *, type: Literal["string", "integer", "date"] = "string", wide: bool = False
) -> Column:
    column: Column = {"name": name, "type": type, "description": description, "jsonPath": path}
    return {**column, "priority": 1} if wide else column


def _condition(type: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{type}")].{field}'


_AGE = _column("Age", ".metadata.creationTimestamp", "How long ago the object was made.", type="date")

AUTOMATION = Definition(
    model=Automation,
    plural="automations",
    short_name="auto",
    scale={
        "specReplicasPath": ".spec.worker.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
    columns=(
        _column("Status", _condition("Ready", "reason"), "The reason of the condition Ready."),
        _column("Workers", ".status.readyReplicas", "Worker pods that are ready.", type="integer"),
        _column("Waiting", ".status.runs.waiting", "Runs that wait.", type="integer"),
        _column("Held", ".status.runs.held", "Runs held back by a blocked gateway.", type="integer"),
        _column("Running", ".status.runs.running", "Runs that a worker holds.", type="integer"),
        _column("Failed-24h", ".status.runs.failed24h", "Runs that failed within 24 hours.", type="integer"),
        _column("Last", ".status.lastRun.state", "The state of the Run that changed last."),
        _AGE,
        _column("Solution", ".status.solution", "The Solution that it belongs to.", wide=True),
        _column("Queue", ".status.queue.name", "The queue on the broker.", wide=True),
        _column("Image", ".spec.worker.image", "The workers' image.", wide=True),
        _column("Dead-Letters", ".status.runs.deadLettered", "Dead letters that wait.", type="integer", wide=True),
    ),
)

SCHEDULE = Definition(
    model=Schedule,
    plural="schedules",
    short_name="sched",
    note="Velero, too, has a kind with the plural `schedules`; where it is installed, say `kubectl get sched` or "
    "`kubectl get schedules.maestro-operator.io`.",
    columns=(
        _column("Schedule", ".status.schedule", "The rules in one line."),
        _column("TimeZone", ".spec.timeZone", "The time zone that the rules are read in."),
        _column("Automation", ".spec.automation", "The Automation whose Runs are started."),
        _column("Status", _condition("Ready", "reason"), "The reason of the condition Ready."),
        _column("Active", ".status.active[*].name", "What ticks started and hasn't ended."),
        _column("Last", ".status.recentTicks[0].outcome", "What became of the last tick."),
        # Not a date: kubectl prints <invalid> for one that lies ahead.
        _column("Next", ".status.nextScheduleTime", "The next tick."),
        _AGE,
    ),
)

REPROCESSING = Definition(
    model=Reprocessing,
    plural="reprocessings",
    short_name="reproc",
    columns=(
        _column("Solution", ".spec.solution", "The Solution whose Runs are run again."),
        _column("Phase", ".status.phase", "Where it is."),
        _column("Done", ".status.progress.done", "Replayed Runs that have ended.", type="integer"),
        _column("Total", ".status.progress.total", "Runs to replay.", type="integer"),
        _column("Blocking", _condition("GatewayBlocked", "status"), "Whether it blocks the Solution's gateway."),
        _column("By", ".status.approval.by", "Who decided."),
        _AGE,
    ),
)

DEFINITIONS = (AUTOMATION, SCHEDULE, REPROCESSING)
