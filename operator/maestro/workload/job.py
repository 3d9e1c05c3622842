"""The Kubernetes Job of a Run's attempt. Pure: no input or output, no clock, no chance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from maestro.resources import Automation, names
from maestro.runs.model import TickJob
from maestro.workload.merge import BUILT_IN, MergeTable
from maestro.workload.pod import (
    NON_ROOT,
    SECRETS,
    VOLUME,
    Installation,
    common_env,
    merged,
    metadata,
    schedule_owner,
    token,
    worker_pod,
)

Object = dict[str, Any]

PARAMETERS = "/var/run/maestro"
PARAMETERS_FILE = f"{PARAMETERS}/parameters.json"

# A Job's deadline counts from before its image is pulled; Maestro's own timeout, from the start, is the one that binds.
_JOB_ALLOWANCE = 600
_ENV_VALUE_LIMIT = 32_768
_PARAMETERS_VOLUME = "maestro-parameters"


def job(
    automation: Automation,
    installation: Installation,
    run_id: UUID | str,
    attempt: int,
    parameters: Mapping[str, Any],
    secret_names: Collection[str] = (),
    *,
    tick: TickJob | None = None,
    table: MergeTable = BUILT_IN,
) -> Object:
    """The Job of one attempt of a Run. Its name is its lock.

    Parameters
    ----------
    secret_names
        Parameters that are `writeOnly`: they reach the pod by the file only.
    tick
        The Run is a Schedule's: the Job is named after the tick, and goes with the Schedule.

    Raises
    ------
    InvalidTemplate
        As for `deployment`.
    """
    env = _job_env(automation, installation, run_id, attempt)
    own = {variable["name"] for variable in automation.spec.worker.env or ()}
    given = [variable for variable in parameter_env(parameters, secret_names) if variable["name"] not in own]
    base = worker_pod(automation, [*env, *given], [token(installation)])
    _add_parameters(base["spec"], installation, env)
    labels = {names.LABEL_RUN: str(run_id), names.LABEL_ATTEMPT: str(attempt)}
    if tick is not None:
        labels[names.LABEL_SCHEDULE] = tick.schedule
    base["metadata"]["labels"] |= labels
    # its pod is at work from its first to its last moment
    base["metadata"]["annotations"] = dict(names.DO_NOT_DISRUPT)
    template = merged(automation, base, table, locked=labels)
    run = automation.spec.run
    meta = metadata(automation, job_name(run_id, attempt, tick))
    meta["labels"] |= labels
    if tick is not None:
        meta["ownerReferences"] = [schedule_owner(tick.schedule, tick.uid)]
    return {
        "metadata": meta,
        "spec": {
            # Attempts are the run store's: a Job has one pod, and ends with it.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": math.ceil(run.timeout.seconds + run.cancel_grace.seconds) + _JOB_ALLOWANCE,
            "template": template,
        },
    }


def job_name(run_id: UUID | str, attempt: int, tick: TickJob | None = None) -> str:
    """What the Job of an attempt is called."""
    return names.run_job(run_id, attempt) if tick is None else names.attempt_job(tick.name, attempt)


def parameter_env(parameters: Mapping[str, Any], secret_names: Collection[str] = ()) -> list[Object]:
    """Scalar parameters as `PARAM_<NAME>`, for `$(PARAM_X)` in a container's arguments.

    Left out: `writeOnly` ones, what is too long for an environment, and a name that another one has taken.
    """
    found: dict[str, str] = {}
    for name, value in parameters.items():
        if name in secret_names or value is None or isinstance(value, list | Mapping):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        variable = "PARAM_" + re.sub(r"[^A-Z0-9_]", "_", name.upper())
        if len(text.encode()) <= _ENV_VALUE_LIMIT and "\0" not in text:
            # The kubelet would expand `$(OTHER)` in a value: a parameter must not read the pod's other variables.
            found.setdefault(variable, text.replace("$", "$$"))
    return [{"name": name, "value": value} for name, value in found.items()]


def _job_env(automation: Automation, installation: Installation, run_id: UUID | str, attempt: int) -> list[Object]:
    return [
        {"name": "MAESTRO_RUN_ID", "value": str(run_id)},
        {"name": "MAESTRO_ATTEMPT", "value": str(attempt)},
        {"name": "MAESTRO_PARAMETERS_FILE", "value": PARAMETERS_FILE},
        *common_env(automation, installation),
    ]


def _add_parameters(spec: Object, installation: Installation, env: list[Object]) -> None:
    """The init container that writes the Run's parameters to a file, and the volume that holds it."""
    mount = {"name": _PARAMETERS_VOLUME, "mountPath": PARAMETERS}
    spec["restartPolicy"] = "Never"
    spec["volumes"].append({"name": _PARAMETERS_VOLUME, "emptyDir": {}})
    container = spec["containers"][0]
    container["volumeMounts"].append({**mount, "readOnly": True})
    spec["initContainers"] = [
        {
            "name": _PARAMETERS_VOLUME,
            "image": installation.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["fetch-parameters"],
            "env": env,
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": NON_ROOT,
            },
            "volumeMounts": [mount, {"name": VOLUME, "mountPath": SECRETS, "readOnly": True}],
        }
    ]
