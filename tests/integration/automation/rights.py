"""The rights that the controller has in these tests: the least it can do with, verb by verb."""

from __future__ import annotations

from typing import Any

USER = "maestro-controller"

Rules = list[dict[str, Any]]


def _rule(group: str, resources: str, verbs: str, *names: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"apiGroups": [group], "resources": resources.split(), "verbs": verbs.split()}
    return rule | ({"resourceNames": list(names)} if names else {})


WORK: Rules = [
    _rule("maestro-operator.io", "automations", "get list watch"),
    _rule("maestro-operator.io", "automations/status", "patch"),
    _rule("apps", "deployments", "get list watch create patch delete"),
    _rule("batch", "jobs", "get list watch create patch delete"),
    _rule("", "pods", "get list watch patch"),
    _rule("", "pods/log", "get"),
    _rule("", "serviceaccounts", "get list watch create patch delete"),
    _rule("", "secrets", "get create patch delete"),
    _rule("events.k8s.io", "events", "create"),
]


def bound(namespace: str, rules: Rules = WORK) -> list[dict[str, Any]]:
    """A Role with these rules in a namespace, for the controller's user; and the right to see the namespace's end."""
    meta = {"name": USER, "namespace": namespace}
    api = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": api, "kind": "Role", "name": USER},
            "subjects": [{"apiGroup": api, "kind": "User", "name": USER}],
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": f"{USER}-{namespace}"},
            "rules": [_rule("", "namespaces", "get", namespace)],
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{USER}-{namespace}"},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": f"{USER}-{namespace}"},
            "subjects": [{"apiGroup": api, "kind": "User", "name": USER}],
        },
    ]
