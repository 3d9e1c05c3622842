"""What the API server takes and refuses of the custom resources: each refusal names the field and the rule."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from tests.cluster.apiserver import ApiServer

from maestro.resources import API_VERSION, crds
from maestro.resources.kinds import AUTOMATION, DEFINITIONS, REPROCESSING, SCHEDULE, Definition

Body = dict[str, Any]

EXAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "examples"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
RUN = "01920000-0000-7000-8000-000000000001"
BY_STATE = {"select": {"states": ["Failed"]}}


class RefusedError(Exception):
    """The API server's answer wasn't a success; the text is its message, `status` its code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Objects:
    """The custom resources of one namespace, written as plain JSON with strict field validation."""

    def __init__(self, apiserver: ApiServer, namespace: str) -> None:
        self.namespace = namespace
        self._address = urlsplit(apiserver.url).netloc
        self._context = ssl.create_default_context(cafile=str(apiserver.certificate_authority))
        self._context.load_cert_chain(str(apiserver.client_certificate), str(apiserver.client_key))

    def create(
        self, kind: Definition, spec: object, name: str = "a", *, dry_run: bool = False, **extra: object
    ) -> Body:
        body = {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": name}, "spec": spec, **extra}
        return self.post(kind, body, dry_run=dry_run)

    def post(self, kind: Definition, body: Mapping[str, object], *, dry_run: bool = False) -> Body:
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        return self._send("POST", self._path(kind) + query, body, "application/json")

    def patch(self, kind: Definition, spec: Mapping[str, object], name: str = "a") -> Body:
        return self._send("PATCH", f"{self._path(kind)}/{name}?fieldValidation=Strict", {"spec": spec}, MERGE)

    def patch_status(self, kind: Definition, status: Mapping[str, object], name: str = "a") -> Body:
        return self._send("PATCH", f"{self._path(kind)}/{name}/status", {"status": status}, MERGE)

    def apply(self, kind: Definition, spec: Mapping[str, object], manager: str, name: str = "a") -> Body:
        body = {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": name}, "spec": spec}
        return self._send("PATCH", f"{self._path(kind)}/{name}?fieldManager={manager}", body, APPLY)

    def scale(self, replicas: int, name: str = "a") -> Body:
        path = f"{self._path(AUTOMATION)}/{name}/scale"
        return self._send("PATCH", path, {"spec": {"replicas": replicas}}, MERGE)

    def get(self, kind: Definition, name: str = "a", subresource: str = "") -> Body:
        return self._send("GET", f"{self._path(kind)}/{name}{subresource}", None, "application/json")

    def clear(self) -> None:
        for kind in DEFINITIONS:
            self._send("DELETE", self._path(kind), None, "application/json")

    def _path(self, kind: Definition) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{kind.plural}"

    def _send(self, method: str, path: str, body: Mapping[str, object] | None, content_type: str) -> Body:
        connection = http.client.HTTPSConnection(self._address, context=self._context, timeout=30)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": content_type})
            response = connection.getresponse()
            answer: Body = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 300:
            raise RefusedError(response.status, answer["message"])
        return answer


@pytest.fixture(scope="module")
def namespace(apiserver: ApiServer) -> Iterator[str]:
    with apiserver.namespace("crds") as name:
        yield name


@pytest.fixture
def objects(apiserver: ApiServer, namespace: str) -> Iterator[Objects]:
    made = Objects(apiserver, namespace)
    yield made
    made.clear()


def _reprocessing(**spec: object) -> Body:
    return {"solution": "shop", **BY_STATE, **spec}


def _schedule(**spec: object) -> Body:
    return {"automation": "films", "schedule": "0 6 * * *", **spec}


VALID: list[tuple[Definition, str, Body]] = [
    (AUTOMATION, "nothing", {}),
    (
        AUTOMATION,
        "everything",
        {
            "solution": "shop",
            "displayName": "Films",
            "description": "Cuts films.",
            "scriptPath": "robots/films.py",
            "suspend": True,
            "launch": "Queue",
            "parameterSchema": {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]},
            "defaultParameters": {"width": 320, "deep": [1, {"a": None}]},
            "queue": {"name": "films.in", "arguments": {"x-max-length": 5}, "deletionPolicy": "Retain"},
            "worker": {
                "image": "registry.example.com:5000/films@sha256:0123",
                "command": ["/bin/films"],
                "args": ["--all", "$(WIDTH)"],
                "env": [
                    {"name": "WIDTH", "value": "320"},
                    {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                    {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "mode"}}},
                ],
                "envFrom": [{"prefix": "A_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1.5Gi", "cpu": 2, "x.io/gpu": "1"}},
                "serviceAccountName": "films",
                "imagePullPolicy": "IfNotPresent",
                "imagePullSecrets": [{"name": "registry"}],
                "template": {
                    "metadata": {"labels": {"team": "media"}, "annotations": {"a": "b"}},
                    "spec": {"nodeSelector": {"disk": "fast"}, "containers": [{"name": "worker", "tty": True}]},
                },
                "replicas": 3,
                "concurrency": 2,
                "autoscaling": {"minReplicas": 1, "maxReplicas": 5, "runsPerReplica": 10, "scaleDownDelay": "2m"},
                "drainTimeout": "1h",
            },
            "run": {
                "timeout": "10m",
                "cancelGrace": "1s",
                "heartbeatTimeout": "90s",
                "retry": {"attempts": 1, "backoff": {"initial": "1s", "factor": 1.5, "max": "1h"}},
                "parallelism": 4,
                "orderingKey": ["customer"],
                "onKeyFailure": "Block",
                "maxPending": 10,
                "pauseAfterFailures": 0,
            },
            "reads": ["price-list/$(params.list)"],
            "writes": ["catalogue"],
            "history": {"succeeded": {"limit": 1, "ttl": "1h"}, "failed": {"limit": 0}, "logLines": 0},
            "notifications": [
                {"name": "ops", "events": ["Failed"], "url": {"secretKeyRef": {"name": "apprise", "key": "url"}}}
            ],
        },
    ),
    (AUTOMATION, "a classic queue", {"queue": {"type": "classic"}}),
    (AUTOMATION, "a Job", {"launch": "Job", "worker": {"image": "busybox", "args": ["true"]}}),
    (
        AUTOMATION,
        "a Job with the defaults written out",
        {
            "launch": "Job",
            "queue": {"deletionPolicy": "IfEmpty"},
            "worker": {"image": "a", "replicas": 1, "concurrency": 1},
        },
    ),
    (SCHEDULE, "one rule", _schedule()),
    (SCHEDULE, "several rules", {"automation": "films", "schedules": ["@daily", "0 8 L * *"]}),
    (
        SCHEDULE,
        "everything",
        _schedule(
            timeZone="America/Argentina/Buenos_Aires",
            dst={"gap": "Skip", "overlap": "Both"},
            startAt="2026-01-01T00:00:00Z",
            endAt="2026-12-31T23:00:00+02:00",
            exclude={
                "dates": ["2026-12-25"],
                "ranges": [{"from": "2026-08-01", "to": "2026-08-01"}],
                "weekdays": ["Saturday", "Sunday"],
                "configMap": {"name": "holidays"},
                "onExcluded": "Previous",
            },
            suspend=True,
            launch="Queue",
            concurrencyPolicy="Replace",
            startingDeadlineSeconds=60,
            missed={"onOutage": "All", "onResume": "Latest", "onBlocked": "None", "maxRuns": 5},
            jitter="30s",
            parameters={"day": "$(yesterday)", "list": [1, 2]},
            successfulJobsHistoryLimit=0,
            failedJobsHistoryLimit=0,
        ),
    ),
    (REPROCESSING, "the least", _reprocessing()),
    (REPROCESSING, "10,000 Runs", _reprocessing(select={"runs": [RUN] * 10_000})),
    (
        REPROCESSING,
        "everything",
        _reprocessing(
            reason="The price list was late.",
            select={
                "runs": [RUN],
                "automations": ["films"],
                "states": ["Succeeded", "Failed", "Canceled"],
                "from": "2026-01-01T00:00:00Z",
                "to": "2026-01-02T00:00:00Z",
                "timeField": "startedAt",
                "parameters": {"list": 42, "deep": {"a": None}},
                "labels": {"team": "media"},
                "references": ["order-1"],
                "deadLettered": False,
                "reads": ["price-list/42"],
            },
            parameters={"force": True},
            origin={"run": RUN, "event": "price list 42 corrected"},
            parallelism=4,
            block=False,
            maxBlock="2h",
            drainTimeout="1m",
            cascade={"enabled": False, "maxAdditions": 0},
            onFailure="Continue",
            autoApprove=True,
            requestedBy="ann",
            suspend=True,
            resume=0,
            cancel=False,
            fail=False,
        ),
    ),
]

# kind, spec, the field that the refusal names, words of the rule
INVALID: list[tuple[Definition, object, str, str]] = [
    (AUTOMATION, {"launch": "Robot"}, "spec.launch", 'supported values: "Queue", "Job"'),
    (AUTOMATION, {"launch": 1}, "spec.launch", "must be of type string"),
    (AUTOMATION, {"lunch": "Job"}, "spec.lunch", "unknown field"),
    (AUTOMATION, {"solution": "Shop"}, "spec.solution", "should match"),
    (AUTOMATION, {"solution": "a.b"}, "spec.solution", "should match"),
    (AUTOMATION, {"solution": "a" * 64}, "spec.solution", "may not be more than 63"),
    (AUTOMATION, {"description": "a" * 4097}, "spec.description", "may not be more than 4096"),
    (AUTOMATION, {"parameterSchema": True}, "spec.parameterSchema", "must be of type object"),
    (AUTOMATION, {"defaultParameters": [1]}, "spec.defaultParameters", "must be of type object"),
    (AUTOMATION, {"queue": {"name": "maestro.x"}}, "spec.queue.name", "must not begin with 'maestro.' or 'amq.'"),
    (AUTOMATION, {"queue": {"name": "amq.x"}}, "spec.queue.name", "must not begin with 'maestro.' or 'amq.'"),
    (AUTOMATION, {"queue": {"name": ""}}, "spec.queue.name", "at least 1 chars"),
    (AUTOMATION, {"queue": {"name": "a b"}}, "spec.queue.name", "should match"),
    (AUTOMATION, {"queue": {"name": "a" * 256}}, "spec.queue.name", "may not be more than 255"),
    (AUTOMATION, {"queue": {"type": "stream"}}, "spec.queue.type", "supported values"),
    (AUTOMATION, {"queue": {"arguments": {}}}, "spec.queue.arguments", "arguments need a name"),
    (
        AUTOMATION,
        {"queue": {"name": "a", "arguments": {}, "type": "quorum"}},
        "spec.queue.type",
        "type and arguments exclude each other",
    ),
    (AUTOMATION, {"queue": {"deletionPolicy": "Keep"}}, "spec.queue.deletionPolicy", "supported values"),
    (AUTOMATION, {"worker": {"image": "a b"}}, "spec.worker.image", "should match"),
    (AUTOMATION, {"worker": {"replicas": -1}}, "spec.worker.replicas", "greater than or equal to 0"),
    (AUTOMATION, {"worker": {"replicas": 1001}}, "spec.worker.replicas", "less than or equal to 1000"),
    (AUTOMATION, {"worker": {"concurrency": 0}}, "spec.worker.concurrency", "greater than or equal to 1"),
    (AUTOMATION, {"worker": {"concurrency": "2"}}, "spec.worker.concurrency", "must be of type integer"),
    (AUTOMATION, {"worker": {"autoscaling": {}}}, "spec.worker.autoscaling.maxReplicas", "Required value"),
    (
        AUTOMATION,
        {"worker": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}},
        "spec.worker.autoscaling.minReplicas",
        "minReplicas must not be greater than maxReplicas",
    ),
    (AUTOMATION, {"worker": {"env": [{"value": "1"}]}}, "spec.worker.env[0].name", "Required value"),
    (AUTOMATION, {"worker": {"env": [{"name": "A=B"}]}}, "spec.worker.env[0].name", "should match"),
    (AUTOMATION, {"worker": {"env": [{"name": "A"}, {"name": "A"}]}}, "spec.worker.env[1]", "Duplicate value"),
    (AUTOMATION, {"worker": {"resources": {"limits": {"cpu": "much"}}}}, "spec.worker.resources.limits.cpu", "match"),
    (AUTOMATION, {"worker": {"imagePullPolicy": "Often"}}, "spec.worker.imagePullPolicy", "supported values"),
    (AUTOMATION, {"worker": {"template": []}}, "spec.worker.template", "must be of type object"),
    (
        AUTOMATION,
        {"worker": {"template": {"metadata": {"labels": {"maestro-operator.io/automation": "b"}}}}},
        "spec.worker.template.metadata.labels",
        "the Deployment selects its pods by it",
    ),
    *(
        (AUTOMATION, {"run": {"timeout": text}}, "spec.run.timeout", "should match")
        for text in ("1d", "P1D", "1 day", "5")
    ),
    (AUTOMATION, {"run": {"timeout": "1s" * 17}}, "spec.run.timeout", "may not be more than 32"),
    (AUTOMATION, {"run": {"timeout": "999ms"}}, "spec.run.timeout", "at least 1s"),
    (AUTOMATION, {"run": {"timeout": "9999999h"}}, "spec.run.timeout", "at least 1s"),
    (AUTOMATION, {"run": {"cancelGrace": "0s"}}, "spec.run.cancelGrace", "at least 1s"),
    (AUTOMATION, {"run": {"retry": {"attempts": 0}}}, "spec.run.retry.attempts", "greater than or equal to 1"),
    (AUTOMATION, {"run": {"retry": {"backoff": {"factor": 0.5}}}}, "spec.run.retry.backoff.factor", "greater than"),
    (
        AUTOMATION,
        {"run": {"retry": {"backoff": {"initial": "20m"}}}},
        "spec.run.retry.backoff.initial",
        "initial must not be longer than max",
    ),
    (AUTOMATION, {"run": {"parallelism": 0}}, "spec.run.parallelism", "greater than or equal to 1"),
    (AUTOMATION, {"run": {"orderingKey": []}}, "spec.run.orderingKey", "at least 1 items"),
    (AUTOMATION, {"run": {"onKeyFailure": "Stop"}}, "spec.run.onKeyFailure", "supported values"),
    (AUTOMATION, {"run": {"maxPending": 0}}, "spec.run.maxPending", "greater than or equal to 1"),
    (AUTOMATION, {"run": {"pauseAfterFailures": -1}}, "spec.run.pauseAfterFailures", "greater than or equal to 0"),
    (AUTOMATION, {"reads": ["a", "a"]}, "spec.reads[1]", "Duplicate value"),
    (AUTOMATION, {"history": {"logLines": -1}}, "spec.history.logLines", "greater than or equal to 0"),
    (
        AUTOMATION,
        {"notifications": [{"name": "a", "events": ["Happy"], "url": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        "spec.notifications[0].events[0]",
        "supported values",
    ),
    (
        AUTOMATION,
        {"notifications": [{"name": "a", "events": ["Failed"]}]},
        "spec.notifications[0].url",
        "Required value",
    ),
    *(
        (
            AUTOMATION,
            {"launch": "Job", part: {field: value}},
            f"spec.{part}.{field}",
            "an Automation with launch: Job has no",
        )
        for part, field, value in (
            ("queue", "name", "a"),
            ("queue", "type", "quorum"),
            ("queue", "deletionPolicy", "Delete"),
            ("worker", "replicas", 2),
            ("worker", "concurrency", 2),
            ("worker", "autoscaling", {"maxReplicas": 1}),
        )
    ),
    (
        AUTOMATION,
        {"launch": "Job", "queue": {"name": "a", "arguments": {}}},
        "spec.queue.arguments",
        "an Automation with launch: Job has no",
    ),
    (SCHEDULE, {"schedule": "@daily"}, "spec.automation", "Required value"),
    (SCHEDULE, {"automation": "films"}, "spec.schedule", "exactly one of schedule and schedules"),
    (SCHEDULE, _schedule(schedules=["@daily"]), "spec.schedule", "exactly one of schedule and schedules"),
    (SCHEDULE, {"automation": "films", "schedules": []}, "spec.schedules", "at least 1 items"),
    (SCHEDULE, {"automation": "films", "schedules": ["a", "a"]}, "spec.schedules[1]", "Duplicate value"),
    (SCHEDULE, {"automation": "films", "schedules": [str(n) for n in range(17)]}, "spec.schedules", "at most 16 items"),
    (SCHEDULE, _schedule(schedule="CRON_TZ=UTC 0 6 * * *"), "spec.schedule", "may not name a time zone; use timeZone"),
    (SCHEDULE, _schedule(automation="Films"), "spec.automation", "should match"),
    (SCHEDULE, _schedule(timeZone=""), "spec.timeZone", "at least 1 chars"),
    (SCHEDULE, _schedule(timeZone="Europe/Lisbon; DROP"), "spec.timeZone", "should match"),
    (SCHEDULE, _schedule(dst={"gap": "Both"}), "spec.dst.gap", "supported values"),
    (SCHEDULE, _schedule(startAt="tomorrow"), "spec.startAt", "date-time"),
    (
        SCHEDULE,
        _schedule(startAt="2026-01-02T00:00:00Z", endAt="2026-01-01T00:00:00Z"),
        "spec.endAt",
        "endAt must be later than startAt",
    ),
    (SCHEDULE, _schedule(exclude={"dates": ["2026-02-30"]}), "spec.exclude.dates[0]", "date"),
    (
        SCHEDULE,
        _schedule(exclude={"ranges": [{"from": "2026-02-02", "to": "2026-02-01"}]}),
        "spec.exclude.ranges[0].from",
        "from must not be later than to",
    ),
    (SCHEDULE, _schedule(exclude={"weekdays": ["Samstag"]}), "spec.exclude.weekdays[0]", "supported values"),
    (SCHEDULE, _schedule(exclude={"onExcluded": "Run"}), "spec.exclude.onExcluded", "supported values"),
    (SCHEDULE, _schedule(launch="Pod"), "spec.launch", "supported values"),
    (SCHEDULE, _schedule(concurrencyPolicy="Deny"), "spec.concurrencyPolicy", "supported values"),
    (SCHEDULE, _schedule(startingDeadlineSeconds=0), "spec.startingDeadlineSeconds", "greater than or equal to 1"),
    (SCHEDULE, _schedule(missed={"onOutage": "Some"}), "spec.missed.onOutage", "supported values"),
    (SCHEDULE, _schedule(missed={"maxRuns": 0}), "spec.missed.maxRuns", "greater than or equal to 1"),
    (SCHEDULE, _schedule(jitter="1d"), "spec.jitter", "should match"),
    (SCHEDULE, _schedule(failedJobsHistoryLimit=-1), "spec.failedJobsHistoryLimit", "greater than or equal to 0"),
    (REPROCESSING, BY_STATE, "spec.solution", "Required value"),
    (REPROCESSING, {"solution": "shop"}, "spec.select", "Required value"),
    (REPROCESSING, _reprocessing(select={}), "spec.select", "at least one of runs, automations"),
    (
        REPROCESSING,
        _reprocessing(select={"timeField": "startedAt"}),
        "spec.select",
        "at least one of runs, automations",
    ),
    (REPROCESSING, _reprocessing(select={"runs": ["1"]}), "spec.select.runs[0]", "should match"),
    (REPROCESSING, _reprocessing(select={"runs": [RUN] * 10_001}), "spec.select.runs", "at most 10000 items"),
    (REPROCESSING, _reprocessing(select={"states": ["Running"]}), "spec.select.states[0]", "supported values"),
    (
        REPROCESSING,
        _reprocessing(select={"from": "2026-02-02T00:00:00Z", "to": "2026-02-01T00:00:00Z"}),
        "spec.select.from",
        "from must not be later than to",
    ),
    (REPROCESSING, _reprocessing(parallelism=0), "spec.parallelism", "greater than or equal to 1"),
    (REPROCESSING, _reprocessing(drainTimeout="0s"), "spec.drainTimeout", "at least 1s"),
    (REPROCESSING, _reprocessing(maxBlock="0s"), "spec.maxBlock", "at least 1s"),
    (REPROCESSING, _reprocessing(onFailure="Ignore"), "spec.onFailure", "supported values"),
    (REPROCESSING, _reprocessing(cascade={"maxAdditions": -1}), "spec.cascade.maxAdditions", "greater than or equal"),
    (REPROCESSING, _reprocessing(decision="Maybe"), "spec.decision", "supported values"),
    (REPROCESSING, _reprocessing(decidedBy="ann"), "spec.decidedBy", "only together with decision"),
    (REPROCESSING, _reprocessing(resume=-1), "spec.resume", "greater than or equal to 0"),
]

LONGEST = {AUTOMATION: 52, SCHEDULE: 40, REPROCESSING: 52}
SPEC = {AUTOMATION: {}, SCHEDULE: _schedule(), REPROCESSING: _reprocessing()}


def _id(value: object) -> str | None:
    return value.kind if isinstance(value, Definition) else value if isinstance(value, str) else None


@pytest.mark.parametrize(("kind", "title", "spec"), VALID, ids=_id)
def test_taken(objects: Objects, kind: Definition, title: str, spec: Body) -> None:
    made = objects.create(kind, spec, dry_run=True)
    # Nothing that was given is pruned or changed, and the models read what the API server made of it.
    assert _contains(made["spec"], spec)
    kind.model.model_validate(made)


@pytest.mark.parametrize(("kind", "spec", "field", "words"), INVALID, ids=_id)
def test_refused(objects: Objects, kind: Definition, spec: object, field: str, words: str) -> None:
    with pytest.raises(RefusedError) as caught:
        objects.create(kind, spec, dry_run=True)
    assert field in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", DEFINITIONS, ids=_id)
def test_spec_is_required(objects: Objects, kind: Definition) -> None:
    body = {"apiVersion": API_VERSION, "kind": kind.kind, "metadata": {"name": "a"}}
    with pytest.raises(RefusedError, match="spec: Required value"):
        objects.post(kind, body, dry_run=True)


@pytest.mark.parametrize("kind", DEFINITIONS, ids=_id)
@pytest.mark.parametrize("name", ["1a", "a.b", "a-", "too long"])
def test_names_that_are_refused(objects: Objects, kind: Definition, name: str) -> None:
    name = "a" * (LONGEST[kind] + 1) if name == "too long" else name
    with pytest.raises(RefusedError) as caught:
        objects.create(kind, SPEC[kind], name, dry_run=True)
    assert "metadata.name" in str(caught.value)


@pytest.mark.parametrize("kind", DEFINITIONS, ids=_id)
def test_the_longest_and_the_shortest_name(objects: Objects, kind: Definition) -> None:
    for name in ("a", "a" * LONGEST[kind]):
        assert objects.create(kind, SPEC[kind], name, dry_run=True)["metadata"]["name"] == name


def test_defaults_are_in_the_object(objects: Objects) -> None:
    spec = objects.create(AUTOMATION, {})["spec"]
    assert spec == {
        "suspend": False,
        "launch": "Queue",
        "queue": {"deletionPolicy": "IfEmpty"},
        "worker": {"replicas": 1, "concurrency": 1, "drainTimeout": "15m"},
        "run": {
            "timeout": "4h",
            "cancelGrace": "30s",
            "heartbeatTimeout": "5m",
            "retry": {"attempts": 3, "backoff": {"initial": "10s", "factor": 2, "max": "10m"}},
            "onKeyFailure": "Continue",
            "maxPending": 1000000,
            "pauseAfterFailures": 20,
        },
        "history": {
            "succeeded": {"limit": 1000, "ttl": "720h"},
            "failed": {"limit": 1000, "ttl": "2160h"},
            "logLines": 10000,
        },
    }
    schedule = objects.create(SCHEDULE, _schedule(exclude={"configMap": {"name": "c"}}))["spec"]
    assert schedule["missed"] == {"onOutage": "Latest", "onResume": "None", "onBlocked": "Latest", "maxRuns": 100}
    assert schedule["dst"] == {"gap": "RunAfter", "overlap": "First"}
    assert schedule["exclude"] == {"configMap": {"name": "c", "key": "calendar.ics"}, "onExcluded": "Skip"}
    reprocessing = objects.create(REPROCESSING, _reprocessing())["spec"]
    assert reprocessing["cascade"] == {"enabled": True, "maxAdditions": 1000}
    assert not {"decision", "resume", "cancel", "fail"} & set(reprocessing)


@pytest.mark.parametrize("kind", DEFINITIONS, ids=_id)
def test_status_of_an_object_that_nobody_has_looked_at(objects: Objects, kind: Definition) -> None:
    made = objects.create(kind, SPEC[kind], status={"observedGeneration": 7})
    assert made["status"] == {"observedGeneration": -1}
    assert objects.get(kind)["status"] == {"observedGeneration": -1}
    assert kind.model.model_validate(made).model_dump()["status"]["observed_generation"] == -1


# kind, spec at first, patch, field, words of the rule; words None: the patch is taken
UPDATES: list[tuple[Definition, Body, Body, str, str | None]] = [
    (AUTOMATION, {}, {"launch": "Job"}, "spec.launch", "launch is immutable"),
    (AUTOMATION, {"launch": "Job"}, {"launch": None}, "spec.launch", "launch is immutable"),
    (AUTOMATION, {}, {"queue": {"name": "a"}}, "spec.queue.name", "name is immutable"),
    (AUTOMATION, {"queue": {"name": "a"}}, {"queue": {"name": "b"}}, "spec.queue.name", "name is immutable"),
    (AUTOMATION, {"queue": {"name": "a"}}, {"queue": {"name": None}}, "spec.queue.name", "name is immutable"),
    (AUTOMATION, {"queue": {"name": "a"}}, {"queue": None}, "spec.queue.name", "name is immutable"),
    (AUTOMATION, {}, {"queue": {"type": "classic"}}, "spec.queue.type", "type is immutable"),
    (
        AUTOMATION,
        {"queue": {"name": "a", "arguments": {"x": 1}}},
        {"queue": {"arguments": {"x": 2}}},
        "spec.queue.arguments",
        "arguments is immutable",
    ),
    (
        AUTOMATION,
        {"queue": {"name": "a", "arguments": {"x": 1}}},
        {"queue": {"arguments": {"x": None}}},
        "spec.queue.arguments",
        "arguments is immutable",
    ),
    (AUTOMATION, {}, {"queue": {"deletionPolicy": "Delete"}}, "", None),
    (AUTOMATION, {"queue": {"name": "a"}}, {"solution": "b", "suspend": True, "worker": {"image": "c"}}, "", None),
    (SCHEDULE, _schedule(), {"automation": "other", "schedule": None, "schedules": ["@daily"]}, "", None),
    (SCHEDULE, _schedule(), {"schedule": None}, "spec.schedule", "exactly one of"),
    *(
        (REPROCESSING, _reprocessing(**before), after, f"spec.{field}", f"{field} is immutable")
        for field, before, after in (
            ("solution", {}, {"solution": "other"}),
            ("reason", {"reason": "a"}, {"reason": "b"}),
            ("reason", {}, {"reason": "b"}),
            ("select", {}, {"select": {"states": ["Succeeded"]}}),
            ("select", {}, {"select": {"automations": ["a"]}}),
            ("select", {"select": {"parameters": {"a": {"b": 1}}}}, {"select": {"parameters": {"a": {"b": 2}}}}),
            ("select", {"select": {"runs": [RUN] * 10_000}}, {"select": {"runs": [RUN] * 9_999}}),
            ("parameters", {"parameters": {"a": 1}}, {"parameters": {"a": 2}}),
            ("parameters", {"parameters": {"a": 1}}, {"parameters": None}),
            ("origin", {"origin": {"event": "a"}}, {"origin": {"event": "b"}}),
            ("origin", {}, {"origin": {"event": "b"}}),
            ("block", {}, {"block": False}),
            ("maxBlock", {}, {"maxBlock": "1h"}),
            ("maxBlock", {"maxBlock": "1h"}, {"maxBlock": "2h"}),
            ("drainTimeout", {}, {"drainTimeout": "1h"}),
            ("cascade", {}, {"cascade": {"enabled": False}}),
            ("onFailure", {}, {"onFailure": "Continue"}),
            ("autoApprove", {}, {"autoApprove": True}),
            ("requestedBy", {"requestedBy": "ann"}, {"requestedBy": "bob"}),
            ("requestedBy", {}, {"requestedBy": "bob"}),
        )
    ),
    (REPROCESSING, _reprocessing(), {"parallelism": 8, "suspend": True}, "", None),
    (REPROCESSING, _reprocessing(), {"resume": 1, "cancel": True, "fail": True}, "", None),
    (REPROCESSING, _reprocessing(resume=1), {"resume": 2}, "", None),
    (REPROCESSING, _reprocessing(resume=2), {"resume": 1}, "spec.resume", "resume only grows"),
    (REPROCESSING, _reprocessing(resume=2), {"resume": None}, "spec.resume", "resume only grows"),
    (REPROCESSING, _reprocessing(cancel=True), {"cancel": False}, "spec.cancel", "cancel can't be taken back"),
    (REPROCESSING, _reprocessing(cancel=True), {"cancel": None}, "spec.cancel", "cancel can't be taken back"),
    (REPROCESSING, _reprocessing(fail=True), {"fail": False}, "spec.fail", "fail can't be taken back"),
]

_DECIDED = {"decision": "Approved", "decidedBy": "ann", "planHash": "1", "decisionReason": "fine"}
_FINAL = "already Approved by ann"
UPDATES += [
    (REPROCESSING, _reprocessing(), _DECIDED, "", None),
    (REPROCESSING, _reprocessing(), {"decidedBy": "ann"}, "spec.decidedBy", "only together with decision"),
    (REPROCESSING, _reprocessing(), {"planHash": "1"}, "spec.planHash", "only together with decision"),
    (REPROCESSING, _reprocessing(), {"decisionReason": "a"}, "spec.decisionReason", "only together with decision"),
    (REPROCESSING, _reprocessing(**_DECIDED), {"suspend": True, "resume": 1}, "", None),
    (REPROCESSING, _reprocessing(**_DECIDED), {"decision": "Skipped"}, "spec.decision", _FINAL),
    (REPROCESSING, _reprocessing(**_DECIDED), {"decision": None}, "spec.decision", _FINAL),
    (REPROCESSING, _reprocessing(**_DECIDED), {"decision": None, "decidedBy": None}, "spec.decision", _FINAL),
    (REPROCESSING, _reprocessing(**_DECIDED), {"decidedBy": "bob"}, "spec.decision", _FINAL),
    (REPROCESSING, _reprocessing(**_DECIDED), {"decisionReason": "bad"}, "spec.decision", _FINAL),
    (REPROCESSING, _reprocessing(**_DECIDED), {"planHash": None}, "spec.decision", _FINAL),
    (REPROCESSING, _reprocessing(**_DECIDED), {"decision": None, "planHash": "2"}, "spec.decision", _FINAL),
    (REPROCESSING, _reprocessing(**_DECIDED), {"decision": "Skipped", "decidedBy": "bob", "planHash": "2"}, "", None),
    (REPROCESSING, _reprocessing(**_DECIDED), {"planHash": "2"}, "", None),
    (REPROCESSING, _reprocessing(decision="Skipped"), {"decision": "Approved"}, "spec.decision", "by somebody"),
    (REPROCESSING, _reprocessing(decision="Skipped"), {"decision": "Approved", "planHash": "1"}, "", None),
]


@pytest.mark.parametrize(("kind", "before", "change", "field", "words"), UPDATES, ids=_id)
def test_updates(objects: Objects, kind: Definition, before: Body, change: Body, field: str, words: str | None) -> None:
    objects.create(kind, before)
    if words is None:
        assert objects.patch(kind, change)["metadata"]["generation"] == 2
        return
    with pytest.raises(RefusedError) as caught:
        objects.patch(kind, change)
    assert caught.value.status == 422
    assert field in str(caught.value)
    assert words in str(caught.value)


def test_scale(objects: Objects) -> None:
    objects.create(AUTOMATION, {})
    objects.patch_status(AUTOMATION, {"observedGeneration": 1, "replicas": 1, "selector": "a=b"})
    assert objects.scale(4)["spec"]["replicas"] == 4
    assert objects.get(AUTOMATION)["spec"]["worker"]["replicas"] == 4
    assert objects.get(AUTOMATION, subresource="/scale")["status"] == {"replicas": 1, "selector": "a=b"}
    with pytest.raises(RefusedError, match=r"replicas"):
        objects.scale(1001)


def test_scale_of_a_job_automation_is_refused(objects: Objects) -> None:
    objects.create(AUTOMATION, {"launch": "Job"})
    with pytest.raises(RefusedError, match=r"worker\.replicas may only be 1"):
        objects.scale(2)


def test_status_and_spec_are_written_apart(objects: Objects) -> None:
    objects.create(AUTOMATION, {})
    patched = objects.patch_status(AUTOMATION, {"observedGeneration": 1, "solution": "shop"})
    assert patched["metadata"]["generation"] == 1
    assert objects.patch(AUTOMATION, {"suspend": True})["status"] == {"observedGeneration": 1, "solution": "shop"}
    condition = {"type": "Ready", "status": "True", "reason": "two words", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    with pytest.raises(RefusedError, match=r"status\.conditions\[0\]\.reason"):
        objects.patch_status(AUTOMATION, {"conditions": [condition]})


def test_managers_share_lists_by_their_keys(objects: Objects) -> None:
    def url(name: str) -> Body:
        return {"name": name, "events": ["Failed"], "url": {"secretKeyRef": {"name": "s", "key": name}}}

    objects.apply(AUTOMATION, {"worker": {"env": [{"name": "A", "value": "1"}]}, "notifications": [url("a")]}, "git")
    both = objects.apply(
        AUTOMATION,
        {"worker": {"env": [{"name": "B", "value": "2"}]}, "notifications": [url("b")], "reads": ["k"]},
        "ann",
    )["spec"]
    assert [entry["name"] for entry in both["worker"]["env"]] == ["A", "B"]
    assert [entry["name"] for entry in both["notifications"]] == ["a", "b"]
    again = objects.apply(AUTOMATION, {"worker": {"env": []}}, "ann")["spec"]
    assert [entry["name"] for entry in again["worker"]["env"]] == ["A"]
    assert "reads" not in again
    with pytest.raises(RefusedError, match="conflict with"):
        objects.apply(AUTOMATION, {"worker": {"env": [{"name": "A", "value": "3"}]}}, "ann")


def test_columns(apiserver: ApiServer, objects: Objects, namespace: str) -> None:
    conditions = [
        {"type": type, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for type, status, reason in (("GatewayBlocked", "True", "Replay"), ("Ready", "True", "Running"))
    ]
    objects.create(AUTOMATION, {"worker": {"image": "films:1"}})
    objects.patch_status(
        AUTOMATION,
        {
            "conditions": conditions,
            "readyReplicas": 2,
            "solution": "shop",
            "queue": {"name": "maestro.n.a"},
            "runs": {"waiting": 3, "held": 4, "running": 5, "failed24h": 6},
            "lastRun": {"id": RUN, "state": "Succeeded"},
        },
    )
    objects.create(SCHEDULE, _schedule(timeZone="Europe/Lisbon"))
    objects.patch_status(
        SCHEDULE,
        {
            "conditions": conditions,
            "schedule": "0 6 * * *",
            "active": [{"name": "a-1-1"}],
            "recentTicks": [{"time": "2026-01-01T00:00:00Z", "outcome": "Skipped", "reason": "Gateway"}],
            "nextScheduleTime": "2099-01-01T00:00:00Z",
        },
    )
    objects.create(REPROCESSING, _reprocessing())
    objects.patch_status(
        REPROCESSING,
        {
            "conditions": conditions,
            "phase": "Running",
            "progress": {"done": 1, "total": 9},
            "approval": {"decision": "Approved", "by": "ann"},
        },
    )
    for names, expected in (
        (("automations", "auto"), ["a", "Running", "2", "3", "4", "5", "6", "Succeeded"]),
        (
            ("schedules", "sched"),
            ["a", "0 6 * * *", "Europe/Lisbon", "films", "Running", "a-1-1", "Skipped", "2099-01-01T00:00:00Z"],
        ),
        (("reprocessings", "reproc"), ["a", "shop", "Running", "1", "9", "True", "ann"]),
    ):
        for name in names:
            assert _row(apiserver, namespace, name)[:-1] == expected
    header, row = apiserver.kubectl("get", "auto", "-n", namespace, "-o", "wide").splitlines()
    columns = ["NAME", "STATUS", "WORKERS", "WAITING", "HELD", "RUNNING", "FAILED-24H", "LAST", "AGE"]
    assert header.split() == [*columns, "SOLUTION", "QUEUE", "IMAGE", "DEAD-LETTERS"]
    assert row.split()[9:12] == ["shop", "maestro.n.a", "films:1"]
    everything = apiserver.kubectl("get", "maestro", "-n", namespace, "-o", "name").split()
    assert len(everything) == 3


def test_explain_describes_every_field(apiserver: ApiServer) -> None:
    served = json.loads(apiserver.kubectl("get", "--raw", f"/openapi/v3/apis/{API_VERSION}"))["components"]["schemas"]
    for kind in DEFINITIONS:
        (schema,) = [node for name, node in served.items() if name.endswith(f".{kind.kind}")]
        assert _undescribed(schema, kind.singular) == []
    explained = apiserver.kubectl("explain", "automation.spec.queue")
    for words in (
        "deletionPolicy",
        "What happens to the queue once the Automation is gone",
        "enum: Retain, IfEmpty, Delete",
    ):
        assert words in explained
    assert "Europe/Lisbon" in apiserver.kubectl("explain", "sched.spec.timeZone")
    assert "final for" in " ".join(apiserver.kubectl("explain", "reproc.spec.decision").split()).lower()


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_examples_are_taken(objects: Objects, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        for kind in DEFINITIONS:
            if document["kind"] == kind.kind:
                objects.create(kind, document["spec"], document["metadata"]["name"], dry_run=True)


def test_kubectl_apply_and_get(apiserver: ApiServer, objects: Objects, namespace: str) -> None:
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "Automation",
        "metadata": {"name": "a", "namespace": namespace},
        "spec": {},
    }
    apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    assert apiserver.get("auto", "a", "-n", namespace)["status"] == {"observedGeneration": -1}
    apiserver.kubectl("scale", "auto/a", "--replicas=3", "-n", namespace)
    assert objects.get(AUTOMATION)["spec"]["worker"]["replicas"] == 3


@pytest.mark.parametrize("kind", DEFINITIONS, ids=_id)
def test_the_api_server_has_no_complaint_about_the_definition(apiserver: ApiServer, kind: Definition) -> None:
    conditions = apiserver.get("crd", f"{kind.plural}.maestro-operator.io")["status"]["conditions"]
    states = {condition["type"]: condition["status"] for condition in conditions}
    assert states["Established"] == states["NamesAccepted"] == "True"
    assert states.get("NonStructuralSchema", "False") == "False"
    served = apiserver.get("crd", f"{kind.plural}.maestro-operator.io")["spec"]["versions"][0]["schema"]
    assert served["openAPIV3Schema"] == crds.object_schema(kind)


def _row(apiserver: ApiServer, namespace: str, name: str) -> list[str]:
    """The cells that `kubectl get` prints of the only object, split where the columns begin."""
    header, line = apiserver.kubectl("get", name, "-n", namespace).splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", header)]
    return [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]


def _undescribed(schema: Body, path: str) -> list[str]:
    missing = []
    for name, node in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        if not node.get("description") and below.split(".", 1)[1] not in ("metadata",):
            missing.append(below)
        if below.split(".", 1)[1] != "metadata":
            missing += _undescribed(node.get("items", node), below)
    return missing


def _contains(made: object, given: object) -> bool:
    if isinstance(given, dict) and isinstance(made, dict):
        return all(key in made and _contains(made[key], value) for key, value in given.items())
    if isinstance(given, list) and isinstance(made, list):
        return len(made) == len(given) and all(_contains(one, other) for one, other in zip(made, given, strict=True))
    return made == given
