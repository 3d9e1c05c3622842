"""The objects that belong to an Automation, built from its spec. Pure: no input or output, no clock, no chance."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from maestro.automation.credentials import Login, encoded, secret_values
from maestro.resources import GROUP, Automation, names
from maestro.workload.merge import BUILT_IN, MergeTable
from maestro.workload.pod import SECRETS, BrokerAddress, Installation, common_env, merged, metadata, token, worker_pod

Object = dict[str, Any]

ANNOTATION_ACCOUNT = f"{GROUP}/service-account-uid"
ANNOTATION_SPEC = f"{GROUP}/spec"
"""On a Deployment: the hash of what was applied, so that a changed wish is told from somebody's change."""
ANNOTATION_USER = f"{GROUP}/broker-user"
"""On pods whose workers don't read their address anew: another user makes them roll."""
ANNOTATION_ROTATED = f"{GROUP}/rotated-at"
"""On the Secret: when its password was made."""


# --- what all have ---------------------------------------------------------------------------------------------------


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
        "metadata": metadata(automation, name, {ANNOTATION_ROTATED: rotated_at}),
        "type": names.BROKER_SECRET_TYPE,
        "data": encoded(secret_values(login, broker, queue)),
    }


def service_account(automation: Automation) -> Object:
    """The account of workers whose Automation names none; it may do nothing."""
    return {
        "metadata": metadata(automation, names.service_account(automation.metadata.name)),
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
    return {"metadata": metadata(automation, name, {ANNOTATION_SPEC: hashed}), "spec": spec}


def pod_template(automation: Automation, installation: Installation, *, table: MergeTable = BUILT_IN) -> Object:
    """The pod of a queue's worker: ours, with `worker.template` merged over it. Raises InvalidTemplate."""
    base = worker_pod(automation, _queue_env(automation, installation), _queue_sources(automation, installation))
    return merged(automation, base, table)


# --- environment and volumes -----------------------------------------------------------------------------------------


def _queue_env(automation: Automation, installation: Installation) -> list[Object]:
    reference = {"name": names.broker_secret(automation.metadata.name), "key": "url"}
    return [
        {"name": "MAESTRO_BROKER_URL", "valueFrom": {"secretKeyRef": reference}},
        {"name": "MAESTRO_BROKER_URL_FILE", "value": f"{SECRETS}/broker/url"},
        {"name": "MAESTRO_QUEUE", "value": automation.queue_name or ""},
        {"name": "MAESTRO_CONCURRENCY", "value": str(automation.spec.worker.concurrency)},
        *common_env(automation, installation),
    ]


def _queue_sources(automation: Automation, installation: Installation) -> list[Object]:
    """One volume for the token and the broker's Secret: both are renewed in place."""
    keys = ("host", "password", "port", "queue", "url", "username", "vhost")
    items = [{"key": key, "path": f"broker/{key}"} for key in keys]
    return [
        token(installation),
        {"secret": {"name": names.broker_secret(automation.metadata.name), "items": items}},
    ]
