"""Least privilege: what Maestro's own account may not do, and who may write status."""

from __future__ import annotations

import json

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.errors import CommandError
from tests.e2e.installation import NAMESPACE, RELEASE

pytestmark = pytest.mark.e2e

ACCOUNT = f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("list", "secrets"),
        ("watch", "secrets"),
        ("update", "automations.maestro-operator.io"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("delete", "namespaces"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
        ("impersonate", "users"),
        ("list", "nodes"),
        ("update", "customresourcedefinitions.apiextensions.k8s.io"),
    ],
)
def test_the_account_may_not(maestro: Cluster, namespace: str, verb: str, resource: str) -> None:
    with pytest.raises(CommandError, match="no"):
        maestro.kubectl("auth", "can-i", verb, resource, "-n", namespace, ACCOUNT)


def secret(namespace: str, name: str, type_: str) -> str:
    return json.dumps(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "type": type_}
    )


def test_the_account_makes_no_other_secrets(maestro: Cluster, namespace: str) -> None:
    with pytest.raises(CommandError, match="may only make Secrets of type"):
        maestro.kubectl("create", "-f", "-", ACCOUNT, stdin=secret(namespace, "mine", "Opaque"))
    maestro.kubectl("create", "-f", "-", ACCOUNT, stdin=secret(namespace, "mine", "maestro-operator.io/broker"))


def test_the_account_reads_no_other_secret_by_an_empty_patch(maestro: Cluster, namespace: str) -> None:
    maestro.kubectl("create", "-f", "-", stdin=secret(namespace, "theirs", "Opaque"))
    with pytest.raises(CommandError, match="may only"):
        maestro.kubectl("-n", namespace, "patch", "secret", "theirs", "-p", "{}", "--dry-run=server", ACCOUNT)


def test_the_account_annotates_pods_but_changes_nothing_that_they_run(maestro: Cluster, namespace: str) -> None:
    container = {"name": "c", "image": "registry.k8s.io/pause:3.10"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "theirs", "namespace": namespace}}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    spec = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{**container, "securityContext": security}],
    }
    maestro.kubectl("create", "-f", "-", stdin=json.dumps({**pod, "spec": spec}))
    patch = ("-n", namespace, "patch", "pod", "theirs", ACCOUNT)
    marked = {"metadata": {"annotations": {"maestro-operator.io/busy": ""}}}
    maestro.kubectl(*patch, "--type=merge", "-p", json.dumps(marked))
    other = [{"op": "replace", "path": "/spec/containers/0/image", "value": "example.org/evil"}]
    with pytest.raises(CommandError, match="may annotate pods, never change what they run"):
        maestro.kubectl(*patch, "--type=json", "-p", json.dumps(other))


def test_nobody_else_writes_status(maestro: Cluster, namespace: str) -> None:
    maestro.kubectl("apply", "-f", "-", stdin=json.dumps({
        "apiVersion": "maestro-operator.io/v1alpha1", "kind": "Automation",
        "metadata": {"name": "plain", "namespace": namespace}, "spec": {},
    }))  # fmt: skip
    with pytest.raises(CommandError, match="status is written by"):
        maestro.kubectl("-n", namespace, "patch", "automation", "plain", "--subresource=status", "--type=merge",
                        "-p", '{"status": {"observedGeneration": 7}}')  # fmt: skip
