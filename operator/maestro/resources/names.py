"""Every name, label and annotation that is derived from a resource's own name."""

from __future__ import annotations

from uuid import UUID

from maestro.resources.group import GROUP

FIELD_MANAGER = "maestro"

LABEL_AUTOMATION = f"{GROUP}/automation"
LABEL_SCHEDULE = f"{GROUP}/schedule"
LABEL_SOLUTION = f"{GROUP}/solution"
LABEL_RUN = f"{GROUP}/run"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "maestro"

ANNOTATION_UNPAUSE = f"{GROUP}/unpause"
ANNOTATION_RUN_NOW = f"{GROUP}/run-now"
"""On a Schedule: start a Run now, once for each value."""
ANNOTATION_ENDED = f"{GROUP}/ended"
"""On the Job of a tick: how its Run's attempt ended; it is there once that was recorded."""
ANNOTATION_RERUN = f"{GROUP}/rerun"
ANNOTATION_VIA = f"{GROUP}/decided-via"
ANNOTATION_DISPLAY_NAME = f"{GROUP}/display-name"
ANNOTATION_BUSY = f"{GROUP}/busy"
DO_NOT_DISRUPT = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Annotations by which the usual autoscalers leave a pod, and so its node, alone."""

BROKER_SECRET_TYPE = f"{GROUP}/broker"
USERS_SECRET_TYPE = f"{GROUP}/users"

# Names of Jobs, labels (63 characters) and queues are made of an object's name, with something added.
MAX_NAME = 52
MAX_SCHEDULE_NAME = 40


def automation_id(namespace: str, name: str) -> str:
    """How HTTP, messages and the store name an Automation."""
    return f"{namespace}.{name}"


def solution_id(namespace: str, solution: str) -> str:
    """How HTTP and the store name a Solution."""
    return f"{namespace}.{solution}"


def queue(namespace: str, name: str) -> str:
    """The work queue of an Automation that names none."""
    return f"maestro.{namespace}.{name}"


def deployment(name: str) -> str:
    """The Deployment of an Automation's workers."""
    return name


def service_account(name: str) -> str:
    """The ServiceAccount of workers whose Automation names none."""
    return name


def broker_secret(name: str) -> str:
    """The Secret with the address and the password that an Automation's workers reach the broker with."""
    return f"{name}-broker"


def run_job(run_id: UUID | str, attempt: int) -> str:
    """The Kubernetes Job of one attempt of a Run: being the name, it can't be made twice."""
    return f"{run_id}-{attempt}"


def tick_job(schedule: str, unix_minutes: int, mark: str = "") -> str:
    """The name of a tick's Kubernetes Jobs, before the attempt; `mark`: of what isn't the timetable's own."""
    return f"{schedule}-{unix_minutes}{mark}"


def attempt_job(name: str, attempt: int) -> str:
    """The Kubernetes Job of one attempt of a tick's Run."""
    return f"{name}-{attempt}"


def managed_labels() -> dict[str, str]:
    """The labels of everything that Maestro makes."""
    return {LABEL_MANAGED_BY: MANAGED_BY}


def selector_labels(name: str) -> dict[str, str]:
    """The labels that an Automation's Deployment selects its pods by."""
    return {LABEL_AUTOMATION: name}


def automation_labels(name: str) -> dict[str, str]:
    """The labels of everything that Maestro makes for an Automation."""
    return {**managed_labels(), **selector_labels(name)}
