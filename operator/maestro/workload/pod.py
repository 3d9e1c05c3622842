"""The pod that an Automation's work runs in, built from its spec. Pure: no input or output, no clock, no chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maestro.resources import Automation, names
from maestro.resources.group import API_VERSION
from maestro.workload.merge import InvalidTemplate, MergeTable, merge

Object = dict[str, Any]

WORKER = "worker"
"""The container that does the work."""
NON_ROOT = 65532
VOLUME = "maestro"
"""The volume of what is renewed in place: the token, and the broker's Secret where there is a queue."""
SECRETS = "/var/run/secrets/maestro"
"""Where it is mounted."""

_TOKEN_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where workers find the broker."""

    host: str
    port: int = 5672
    vhost: str = "/"


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


def schedule_owner(name: str, uid: str) -> Object:
    """The reference by which the Job of a tick goes with its Schedule."""
    return {"apiVersion": API_VERSION, "kind": "Schedule", "name": name, "uid": uid, "controller": True}


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The reference to the object that controls this one, or None."""
    references = (obj.get("metadata") or {}).get("ownerReferences") or []
    return next((reference for reference in references if reference.get("controller")), None)


def metadata(automation: Automation, name: str, annotations: Mapping[str, str] | None = None) -> Object:
    """Name, labels and owner of an object that belongs to an Automation."""
    meta: Object = {
        "name": name,
        "namespace": automation.metadata.namespace,
        "labels": names.automation_labels(automation.metadata.name),
        "ownerReferences": [owner(automation)],
    }
    if annotations:
        meta["annotations"] = dict(annotations)
    return meta


def worker_pod(automation: Automation, env: list[Object], sources: list[Object]) -> Object:
    """The pod before `worker.template`: `env` is ours, `sources` are those of the projected volume.

    Raises
    ------
    InvalidTemplate
        `worker.env` gives a variable that is ours.
    """
    worker = automation.spec.worker
    given = worker.dump()
    container: Object = {
        "name": WORKER,
        "image": worker.image,
        "env": _with_given(env, given.get("env") or []),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": VOLUME, "mountPath": SECRETS, "readOnly": True}],
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
        "volumes": [{"name": VOLUME, "projected": {"sources": sources}}],
    }
    if given.get("imagePullSecrets"):
        spec["imagePullSecrets"] = given["imagePullSecrets"]
    return {"metadata": {"labels": names.automation_labels(automation.metadata.name)}, "spec": spec}


def merged(automation: Automation, base: Object, table: MergeTable, locked: Mapping[str, str] | None = None) -> Object:
    """A pod with `worker.template` merged over it; the pod's labels and the `locked` ones must come through.

    Raises
    ------
    InvalidTemplate
        The template breaks a rule.
    """
    template = automation.spec.worker.template
    if not template:
        return base
    fixed = {**base["metadata"]["labels"], **(locked or {})}
    given = (template.get("metadata") or {}).get("labels") or {}
    for label in fixed:
        if label in given:
            raise InvalidTemplate(f"worker.template.metadata.labels.{label}: is Maestro's own and can't be set")
    try:
        found = merge(base, template, table)
    except InvalidTemplate as error:
        raise InvalidTemplate(f"worker.template.{error}") from None
    if not any(container["name"] == WORKER for container in found["spec"].get("containers") or ()):
        raise InvalidTemplate(f"worker.template.spec.containers: the container {WORKER!r} can't be removed")
    labels = (found.get("metadata") or {}).get("labels") or {}
    for label, value in fixed.items():
        if labels.get(label) != value:
            raise InvalidTemplate(f"worker.template.metadata.labels: {label} is Maestro's own and can't be removed")
    return found


def _with_given(ours: list[Object], given: list[Object]) -> list[Object]:
    """Our variables, then the Automation's own, which may refer to ours."""
    taken = {variable["name"] for variable in ours}
    for variable in given:
        if variable["name"] in taken:
            raise InvalidTemplate(f"worker.env: {variable['name']} is set by Maestro and can't be given")
    return [*ours, *given]


def common_env(automation: Automation, installation: Installation) -> list[Object]:
    """The variables that every worker has, with a queue or without."""
    return [
        {"name": "MAESTRO_API_URL", "value": installation.api_url},
        {"name": "MAESTRO_AUTOMATION", "value": automation.id},
        {"name": "MAESTRO_TOKEN_FILE", "value": f"{SECRETS}/token"},
        {"name": "MAESTRO_DRAIN_TIMEOUT", "value": f"{automation.spec.worker.drain_timeout.seconds:g}"},
        {"name": "MAESTRO_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "MAESTRO_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]


def token(installation: Installation) -> Object:
    """The source of the token that a worker shows to the HTTP API."""
    return {
        "serviceAccountToken": {
            "audience": installation.audience,
            "expirationSeconds": _TOKEN_SECONDS,
            "path": "token",
        }
    }
