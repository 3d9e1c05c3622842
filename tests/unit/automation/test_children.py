"""The builders of an Automation's objects."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.unit.automation.worlds import INSTALLATION, LOGIN, QUEUE, automation

from maestro.automation import children
from maestro.automation.credentials import Login, decoded
from maestro.workload.job import job
from maestro.workload.merge import InvalidTemplate
from maestro.workload.pod import BrokerAddress


def _deployment(spec: dict[str, Any] | None = None) -> dict[str, Any]:
    return children.deployment(automation(spec), INSTALLATION, user=LOGIN.user, replicas=2)


def _env(container: dict[str, Any]) -> dict[str, Any]:
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in container["env"]}


def test_deployment() -> None:
    body = _deployment({"worker": {"image": "i", "concurrency": 4, "drainTimeout": "1m30s"}})
    pod = body["spec"]["template"]
    container = pod["spec"]["containers"][0]
    env = _env(container)
    assert body["spec"]["replicas"] == 2
    assert body["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert env["MAESTRO_BROKER_URL"] == {"secretKeyRef": {"name": "orders-broker", "key": "url"}}
    assert env["MAESTRO_BROKER_URL_FILE"] == "/var/run/secrets/maestro/broker/url"
    assert env["MAESTRO_QUEUE"] == QUEUE
    assert env["MAESTRO_API_URL"] == "http://maestro:8080"
    assert env["MAESTRO_AUTOMATION"] == "shop.orders"
    assert env["MAESTRO_TOKEN_FILE"] == "/var/run/secrets/maestro/token"
    assert env["MAESTRO_CONCURRENCY"] == "4"
    assert env["MAESTRO_DRAIN_TIMEOUT"] == "90"
    assert {"MAESTRO_POD_UID", "MAESTRO_POD_NAME"} <= set(env)
    assert pod["spec"]["terminationGracePeriodSeconds"] == 90
    token, secret = pod["spec"]["volumes"][0]["projected"]["sources"]
    assert token["serviceAccountToken"] == {"audience": "maestro", "expirationSeconds": 3600, "path": "token"}
    assert {"key": "url", "path": "broker/url"} in secret["secret"]["items"]
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == ("uid-1", True)
    assert "blockOwnerDeletion" not in owner


def test_pods_are_restricted() -> None:
    for body in (_deployment(), job(automation({"launch": "Job"}), INSTALLATION, "r", 1, {})):
        spec = body["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_hash_ignores_the_number_of_pods() -> None:
    def hashed(replicas: int, image: str = "i") -> str:
        of = automation({"worker": {"image": image}})
        body = children.deployment(of, INSTALLATION, user="u", replicas=replicas)
        return str(body["metadata"]["annotations"][children.ANNOTATION_SPEC])

    assert hashed(1) == hashed(5) != hashed(1, "other")


def test_what_is_given_is_taken() -> None:
    worker = {
        "image": "i",
        "command": ["run"],
        "args": ["$(MAESTRO_QUEUE)"],
        "env": [{"name": "LEVEL", "value": "debug"}],
        "envFrom": [{"secretRef": {"name": "keys"}}],
        "resources": {"limits": {"memory": "1Gi"}},
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "mine",
    }
    spec = _deployment({"worker": worker})["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert [container[key] for key in ("command", "args", "envFrom", "resources", "imagePullPolicy")] == [
        worker[key] for key in ("command", "args", "envFrom", "resources", "imagePullPolicy")
    ]
    assert container["env"][-1] == {"name": "LEVEL", "value": "debug"}  # may refer to ours
    assert spec["serviceAccountName"] == "mine"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


@pytest.mark.parametrize(
    ("worker", "words"),
    [
        ({"env": [{"name": "MAESTRO_QUEUE", "value": "x"}]}, "worker.env: MAESTRO_QUEUE"),
        ({"template": {"metadata": {"labels": {"maestro-operator.io/automation": "x"}}}}, "metadata.labels"),
        ({"template": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}}}, "metadata.labels"),
        ({"template": {"metadata": None}}, "labels"),
        ({"template": {"metadata": {"$patch": "replace"}}}, "labels"),
        ({"template": {"spec": {"containers": [{"name": "worker", "$patch": "delete"}]}}}, "can't be removed"),
        ({"template": {"spec": {"containers": [{"image": "x"}]}}}, "worker.template.spec.containers[0].name"),
        ({"template": {"spec": {"containers": "worker"}}}, "must be a list"),
        ({"template": {"spec": []}}, "must be an object"),
    ],
)
def test_templates_that_break_a_rule(worker: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTemplate) as error:
        _deployment({"worker": {"image": "i", **worker}})
    assert words in str(error.value)


def test_only_workers_that_read_once_roll_with_the_user() -> None:
    raw = _deployment({"queue": {"name": "older", "arguments": {}}})
    assert raw["spec"]["template"]["metadata"]["annotations"] == {children.ANNOTATION_USER: LOGIN.user}
    assert "annotations" not in _deployment()["spec"]["template"]["metadata"]


def test_secret() -> None:
    login = Login("user", "p/w:@")
    body = children.secret(automation(), login, BrokerAddress("host", 5673, "/v"), "2030-01-01T00:00:00Z")
    values = decoded(body)
    assert body["type"] == "maestro-operator.io/broker"
    assert values["url"] == "amqp://user:p%2Fw%3A%40@host:5673/%2Fv"
    assert urlsplit(values["url"]).hostname == "host"
    assert {key: values[key] for key in ("username", "password", "host", "port", "vhost", "queue")} == {
        "username": "user",
        "password": "p/w:@",
        "host": "host",
        "port": "5673",
        "vhost": "/v",
        "queue": QUEUE,
    }
