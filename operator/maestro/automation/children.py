"""The objects that belong to an Automation, built from its spec. Pure: no input or output, no clock, no chance."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from maestro.automation.credentials import BrokerAddress, Login, encoded, secret_values
from maestro.automation.merge import BUILT_IN, InvalidTemplate, MergeTable, merge
from maestro.resources import GROUP, Automation, names
from maestro.resources.group import API_VERSION

Object = dict[str, Any]

WORKER = "worker"
NON_ROOT = 65532

ANNOTATION_ACCOUNT = f"{GROUP}/service-account-uid"
ANNOTATION_SPEC = f"{GROUP}/spec"
"""On a Deployment: the hash of what was applied, so that a changed wish is told from somebody's change."""
ANNOTATION_USER = f"{GROUP}/broker-user"
"""On pods whose workers don't read their address anew: another user makes them roll."""
ANNOTATION_ROTATED = f"{GROUP}/rotated-at"
"""On the Secret: when its password was made."""

SECRETS = "/var/run/secrets/maestro"
PARAMETERS = "/var/run/maestro"
PARAMETERS_FILE = f"{PARAMETERS}/parameters.json"

_TOKEN_SECONDS = 3600
# A Job's deadline counts from before its image is pulled; Maestro's own timeout, from the start, is the one that binds.
_JOB_ALLOWANCE = 600
_ENV_VALUE_LIMIT = 32_768
_VOLUME = "maestro"
_PARAMETERS_VOLUME = "maestro-parameters"


@dataclass(frozen=True, slots=True)
class Installation:
    """What of the installation stands in every Automation's objects.

    Attributes
    ----------
    api_url
        Where pods reach the HTTP API; no path.
    audience
        Of the workers' tokens.
    image
        Maestro's own: the init container of Jobs.
    broker
        None while it isn't known.
    """

    api_url: str
    audience: str
    image: str
    broker: BrokerAddress | None = None


# --- what all have ---------------------------------------------------------------------------------------------------


def owner(automation: Automation) -> Object:
    """The reference by which a child goes with its Automation."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Automation",
        "name": automation.metadata.name,
        "uid": automation.metadata.uid,
        # Without blockOwnerDeletion, which needs rights on the owner's finalizers where their use is policed.
        "controller": True,
    }


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The reference to the object that controls this one, or None."""
    references = (obj.get("metadata") or {}).get("ownerReferences") or []
    return next((reference for reference in references if reference.get("controller")), None)


def _metadata(automation: Automation, name: str, annotations: Mapping[str, str] | None = None) -> Object:
    meta: Object = {
        "name": name,
        "namespace": automation.metadata.namespace,
        "labels": names.automation_labels(automation.metadata.name),
        "ownerReferences": [owner(automation)],
    }
    if annotations:
        meta["annotations"] = dict(annotations)
    return meta


def digest(body: Any) -> str:
    """A short hash of a JSON value, the same for equal values."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- Secret and ServiceAccount ---------------------------------------------------------------------------------------


def secret(automation: Automation, login: Login, broker: BrokerAddress, rotated_at: str) -> Object:
    """The Secret with the broker's address and the workers' password.

    Parameters
    ----------
    rotated_at
        When the password was made (RFC 3339).
    """
    queue = automation.queue_name
    assert queue is not None, "an Automation without a queue has no broker Secret"
    name = names.broker_secret(automation.metadata.name)
    return {
        "metadata": _metadata(automation, name, {ANNOTATION_ROTATED: rotated_at}),
        "type": names.BROKER_SECRET_TYPE,
        "data": encoded(secret_values(login, broker, queue)),
    }


def service_account(automation: Automation) -> Object:
    """The account of workers whose Automation names none; it may do nothing."""
    return {
        "metadata": _metadata(automation, names.service_account(automation.metadata.name)),
        "automountServiceAccountToken": False,
    }


# --- the worker's pod ------------------------------------------------------------------------------------------------


def deployment(
    automation: Automation,
    installation: Installation,
    *,
    user: str,
    replicas: int,
    account_uid: str | None = None,
    table: MergeTable = BUILT_IN,
) -> Object:
    """The Deployment of an Automation's workers.

    Parameters
    ----------
    user
        The broker user in the Secret.
    replicas
        How many pods; Maestro owns the field, `kubectl scale` goes through the Automation.
    account_uid
        Of the ServiceAccount that Maestro made for them: a token is bound to it, so that pods of one that was made
        anew are made anew too. None: the account is somebody else's.
    table
        The merge rules for `worker.template`.

    Raises
    ------
    InvalidTemplate
        `worker.env` or `worker.template` breaks a rule.
    """
    template = pod_template(automation, installation, table=table)
    if automation.spec.queue.arguments is not None:
        template["metadata"].setdefault("annotations", {})[ANNOTATION_USER] = user
    if account_uid is not None:
        template["metadata"].setdefault("annotations", {})[ANNOTATION_ACCOUNT] = account_uid
    spec = {
        "replicas": replicas,
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": names.selector_labels(automation.metadata.name)},
        "template": template,
    }
    # The number of pods changes on its own account and is compared by itself.
    hashed = digest({**spec, "replicas": None})
    name = names.deployment(automation.metadata.name)
    return {"metadata": _metadata(automation, name, {ANNOTATION_SPEC: hashed}), "spec": spec}


def pod_template(automation: Automation, installation: Installation, *, table: MergeTable = BUILT_IN) -> Object:
    """The pod of a queue's worker: ours, with `worker.template` merged over it. Raises InvalidTemplate."""
    base = _pod(automation, _queue_env(automation, installation), _queue_sources(automation, installation))
    return _merged(automation, base, table)


def job(
    automation: Automation,
    installation: Installation,
    run_id: UUID | str,
    attempt: int,
    parameters: Mapping[str, Any],
    secret_names: Collection[str] = (),
    *,
    table: MergeTable = BUILT_IN,
) -> Object:
    """The Job of one attempt of a Run (`launch: Job`). Its name is its lock.

    Parameters
    ----------
    secret_names
        Parameters that are `writeOnly`: they reach the pod by the file only.

    Raises
    ------
    InvalidTemplate
        As for `deployment`.
    """
    env = _job_env(automation, installation, run_id, attempt)
    own = {variable["name"] for variable in automation.spec.worker.env or ()}
    given = [variable for variable in parameter_env(parameters, secret_names) if variable["name"] not in own]
    base = _pod(automation, [*env, *given], [_token(installation)])
    _add_parameters(base["spec"], installation, env)
    labels = {names.LABEL_RUN: str(run_id), names.LABEL_ATTEMPT: str(attempt)}
    base["metadata"]["labels"] |= labels
    template = _merged(automation, base, table, locked=labels)
    run = automation.spec.run
    meta = _metadata(automation, names.run_job(run_id, attempt))
    meta["labels"] |= labels
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


def _pod(automation: Automation, env: list[Object], sources: list[Object]) -> Object:
    worker = automation.spec.worker
    given = worker.dump()
    container: Object = {
        "name": WORKER,
        "image": worker.image,
        "env": _with_given(env, given.get("env") or []),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": _VOLUME, "mountPath": SECRETS, "readOnly": True}],
    }
    for key in ("imagePullPolicy", "command", "args", "envFrom", "resources"):
        if given.get(key):
            container[key] = given[key]
    spec: Object = {
        "serviceAccountName": worker.service_account_name or names.service_account(automation.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(worker.drain_timeout.seconds),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NON_ROOT,
            "runAsGroup": NON_ROOT,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": _VOLUME, "projected": {"sources": sources}}],
    }
    if given.get("imagePullSecrets"):
        spec["imagePullSecrets"] = given["imagePullSecrets"]
    return {"metadata": {"labels": names.automation_labels(automation.metadata.name)}, "spec": spec}


def _merged(automation: Automation, base: Object, table: MergeTable, locked: Mapping[str, str] | None = None) -> Object:
    template = automation.spec.worker.template
    if not template:
        return base
    fixed = {**base["metadata"]["labels"], **(locked or {})}
    given = (template.get("metadata") or {}).get("labels") or {}
    for label in fixed:
        if label in given:
            raise InvalidTemplate(f"worker.template.metadata.labels.{label}: is Maestro's own and can't be set")
    try:
        merged = merge(base, template, table)
    except InvalidTemplate as error:
        raise InvalidTemplate(f"worker.template.{error}") from None
    if not any(container["name"] == WORKER for container in merged["spec"].get("containers") or ()):
        raise InvalidTemplate(f"worker.template.spec.containers: the container {WORKER!r} can't be removed")
    labels = (merged.get("metadata") or {}).get("labels") or {}
    for label, value in fixed.items():
        if labels.get(label) != value:
            raise InvalidTemplate(f"worker.template.metadata.labels: {label} is Maestro's own and can't be removed")
    return merged


def _with_given(ours: list[Object], given: list[Object]) -> list[Object]:
    """Our variables, then the Automation's own, which may refer to ours."""
    taken = {variable["name"] for variable in ours}
    for variable in given:
        if variable["name"] in taken:
            raise InvalidTemplate(f"worker.env: {variable['name']} is set by Maestro and can't be given")
    return [*ours, *given]


# --- environment and volumes -----------------------------------------------------------------------------------------


def _common_env(automation: Automation, installation: Installation) -> list[Object]:
    return [
        {"name": "MAESTRO_API_URL", "value": installation.api_url},
        {"name": "MAESTRO_AUTOMATION", "value": automation.id},
        {"name": "MAESTRO_TOKEN_FILE", "value": f"{SECRETS}/token"},
        {"name": "MAESTRO_DRAIN_TIMEOUT", "value": f"{automation.spec.worker.drain_timeout.seconds:g}"},
        {"name": "MAESTRO_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "MAESTRO_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]


def _queue_env(automation: Automation, installation: Installation) -> list[Object]:
    reference = {"name": names.broker_secret(automation.metadata.name), "key": "url"}
    return [
        {"name": "MAESTRO_BROKER_URL", "valueFrom": {"secretKeyRef": reference}},
        {"name": "MAESTRO_BROKER_URL_FILE", "value": f"{SECRETS}/broker/url"},
        {"name": "MAESTRO_QUEUE", "value": automation.queue_name or ""},
        {"name": "MAESTRO_CONCURRENCY", "value": str(automation.spec.worker.concurrency)},
        *_common_env(automation, installation),
    ]


def _job_env(automation: Automation, installation: Installation, run_id: UUID | str, attempt: int) -> list[Object]:
    return [
        {"name": "MAESTRO_RUN_ID", "value": str(run_id)},
        {"name": "MAESTRO_ATTEMPT", "value": str(attempt)},
        {"name": "MAESTRO_PARAMETERS_FILE", "value": PARAMETERS_FILE},
        *_common_env(automation, installation),
    ]


def _token(installation: Installation) -> Object:
    return {
        "serviceAccountToken": {
            "audience": installation.audience,
            "expirationSeconds": _TOKEN_SECONDS,
            "path": "token",
        }
    }


def _queue_sources(automation: Automation, installation: Installation) -> list[Object]:
    """One volume for the token and the broker's Secret: both are renewed in place."""
    keys = ("host", "password", "port", "queue", "url", "username", "vhost")
    items = [{"key": key, "path": f"broker/{key}"} for key in keys]
    return [
        _token(installation),
        {"secret": {"name": names.broker_secret(automation.metadata.name), "items": items}},
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
            "volumeMounts": [mount, {"name": _VOLUME, "mountPath": SECRETS, "readOnly": True}],
        }
    ]
