"""Strategic merge by Kubernetes' merge keys."""

from __future__ import annotations

from typing import Any

import pytest

from maestro.workload.merge import BUILT_IN, InvalidTemplate, merge, table_of, uncovered

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "worker",
                "image": "i",
                "args": ["x", "y"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "volumeMounts": [{"name": "token", "mountPath": "/token"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
        "tolerations": [{"key": "a"}],
    },
}


def _spec(overlay: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = merge(BASE, {"spec": overlay})["spec"]
    return merged


def _worker(**overlay: Any) -> dict[str, Any]:
    merged: dict[str, Any] = _spec({"containers": [{"name": "worker", **overlay}]})["containers"][0]
    return merged


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda: _worker(image="j")["image"], "j"),
        (lambda: _worker(args=["z"])["args"], ["z"]),
        (lambda: _worker(args=None), {k: v for k, v in BASE["spec"]["containers"][0].items() if k != "args"}),
        (
            lambda: _worker(env=[{"name": "B", "value": "3"}, {"name": "C", "value": "4"}])["env"],
            [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
        ),
        (lambda: _worker(env=[{"name": "A", "$patch": "delete"}])["env"], [{"name": "B", "value": "2"}]),
        (
            lambda: _worker(env=[{"$patch": "replace"}, {"name": "C", "value": "4"}])["env"],
            [{"name": "C", "value": "4"}],
        ),
        (
            lambda: _worker(volumeMounts=[{"name": "x", "mountPath": "/x"}])["volumeMounts"],
            [{"name": "token", "mountPath": "/token"}, {"name": "x", "mountPath": "/x"}],
        ),
        (
            lambda: _worker(volumeMounts=[{"name": "other", "mountPath": "/token"}])["volumeMounts"],
            [{"name": "other", "mountPath": "/token"}],
        ),
        (
            lambda: _worker(securityContext={"capabilities": {"add": ["NET"]}})["securityContext"],
            {"capabilities": {"drop": ["ALL"], "add": ["NET"]}},
        ),
        (
            lambda: _worker(securityContext={"$patch": "replace", "runAsUser": 1})["securityContext"],
            {"runAsUser": 1},
        ),
        # A volume is of one kind: the other kind goes.
        (
            lambda: _spec({"volumes": [{"name": "scratch", "hostPath": {"path": "/x"}}]})["volumes"],
            [{"name": "scratch", "hostPath": {"path": "/x"}}],
        ),
        (
            lambda: _spec({"volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}]})["volumes"],
            [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}}],
        ),
        (lambda: _spec({"tolerations": [{"key": "b"}]})["tolerations"], [{"key": "b"}]),
        (lambda: [c["name"] for c in _spec({"containers": [{"name": "side"}]})["containers"]], ["worker", "side"]),
        (lambda: merge(BASE, {"metadata": {"labels": {"b": "2"}}})["metadata"], {"labels": {"a": "1", "b": "2"}}),
    ],
)
def test_merge(found: Any, expected: Any) -> None:
    assert found() == expected


def test_neither_is_changed() -> None:
    before = repr(BASE)
    _worker(env=[{"name": "A", "value": "9"}])
    assert repr(BASE) == before


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"spec": {"containers": {}}}, "spec.containers: must be a list, not an object"),
        ({"spec": "x"}, "spec: must be an object, not a single value"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0].name: is required"),
        ({"spec": {"containers": ["worker"]}}, "spec.containers[0].name: is required"),
        ({"spec": {"$patch": "explode"}}, "spec: $patch 'explode'"),
        (
            {"spec": {"containers": [{"name": "worker", "env": [{"value": "1"}]}]}},
            "spec.containers[name=worker].env[0].name: is required",
        ),
    ],
)
def test_refusals_name_the_path(overlay: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidTemplate) as error:
        merge(BASE, overlay)
    assert words in str(error.value)


def test_a_table_from_openapi() -> None:
    def reference(name: str) -> dict[str, Any]:
        return {"allOf": [{"$ref": f"#/components/schemas/io.k8s.api.core.v1.{name}"}]}

    keyed = {"x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge,retainKeys"}
    schemas = {
        "io.k8s.api.core.v1.PodTemplateSpec": {"properties": {"spec": reference("PodSpec")}},
        "io.k8s.api.core.v1.PodSpec": {
            "properties": {
                "volumes": {"type": "array", "items": reference("Volume"), **keyed},
                "claims": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-map-keys": ["id"]},
                "ports": {"type": "array", "items": {}, "x-kubernetes-list-map-keys": ["a", "b"]},
                "plain": {"type": "array", "items": reference("Volume")},
                "nodeName": {"type": "string"},
            }
        },
        "io.k8s.api.core.v1.Volume": {"properties": {"name": {"type": "string"}}},
    }
    table = table_of({"components": {"schemas": schemas}})
    assert set(table) == {"PodTemplateSpec", "PodSpec"}
    assert set(table["PodSpec"]) == {"volumes", "claims"}
    assert table["PodSpec"]["volumes"].retain
    assert table["PodSpec"]["claims"].key == "id"
    with pytest.raises(ValueError, match="no type PodTemplateSpec"):
        table_of({})


def _one(field: str, name: str, **more: Any) -> dict[str, Any]:
    return {"spec": {field: [{"name": name, **more}]}}


@pytest.mark.parametrize(
    ("live", "wanted", "expected"),
    [
        ({"a": 1, "more": 2}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({}, {"a": 0, "b": "", "c": None, "d": [], "e": {}, "f": False}, []),
        (_one("containers", "w", image="x"), _one("containers", "w", image="y"), ["spec.containers[w].image"]),
        ({"spec": {"containers": []}}, _one("containers", "w"), ["spec.containers[w]"]),
        (_one("tolerations", "a", effect="x"), _one("tolerations", "a"), []),
        ({"spec": {"tolerations": [{}, {}]}}, _one("tolerations", "a"), ["spec.tolerations"]),
        ({"x": {"requests": {"cpu": "100m"}}}, {"x": {"requests": {"cpu": 0.1}}}, []),
        ({"x": {"limits": {"memory": "512Mi"}}}, {"x": {"limits": {"memory": "0.5Gi"}}}, []),
        ({"x": {"limits": {"memory": "512Mi"}}}, {"x": {"limits": {"memory": "512M"}}}, ["x.limits.memory"]),
        ({"env": {"value": "1k"}}, {"env": {"value": "1000"}}, ["env.value"]),
        ({"a": [1]}, {"a": {"b": 1}}, ["a"]),
    ],
)  # fmt: skip
def test_uncovered(live: dict[str, Any], wanted: dict[str, Any], expected: list[str]) -> None:
    assert list(uncovered(live, wanted, BUILT_IN)) == expected
