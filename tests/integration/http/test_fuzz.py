"""Whatever is sent, the answer is one that the OpenAPI document names, and never a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.http.api import Api

SCHEMA = {"type": "object", "properties": {"url": {"type": "string", "maxLength": 5}, "n": {"type": "number"}}}
JOB = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    running = Api(tmp_path_factory.mktemp("api"), users_secret="users")
    try:
        running.automation(parameterSchema=SCHEMA)
        yield running
    finally:
        running.close()


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.sampled_from(["start", "log", "progress", "finish", "release", "completed", "failed", "canceled", JOB]),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
)
REPORT_FIELDS = (
    *("attempt", "pub", "epoch", "store", "redelivered", "lines", "done", "total", "text"),
    *("status", "result", "error_class", "kind", "message", "level", "at", "actionable"),
)
FIELDS = (
    *("op", "job", "worker", *REPORT_FIELDS, "parameters", "labels", "reference", "priority"),
    *("notBefore", "not_before", "expiresAt", "fairnessKey", "notify", "url", "n"),
)
NAMES = (
    *("status", "automation", "user", "since", "until", "limit", "cursor", "reference", "schedule"),
    *("after", "force", "attempt", "worker", "namespace", "blocked", "queue", "reason", "run", "redriven"),
)
keys = st.sampled_from(FIELDS) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=15
)
report = st.fixed_dictionaries(
    {"op": scalars, "job": st.just(JOB), "worker": st.just("w/p")}, optional=dict.fromkeys(REPORT_FIELDS, values)
)
reports = st.lists(report, max_size=3)
queries = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), st.text(max_size=8), max_size=3)


def operations(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", "/openapi.json", token=None).json["paths"]
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_answer_is_one_that_the_document_names(api: Api, data: st.DataObject) -> None:
    paths = operations(api)
    path = data.draw(st.sampled_from(sorted(path for path in paths if not path.endswith("stream"))))
    method, operation = data.draw(st.sampled_from(sorted(paths[path].items(), key=lambda pair: pair[0])))
    ids = st.sampled_from(["video", "team.video", JOB, "nobody"]) | st.text(min_size=1, max_size=8)
    url = path
    for name in ("id", "solution", "key"):
        url = url.replace(f"{{{name}}}", quote(data.draw(ids), safe=""))
    asked = data.draw(queries) if method == "get" else {}
    if asked:
        url += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in asked.items())
    raw = None
    if "requestBody" in operation:
        body = data.draw(reports if path.endswith("reports") else values)
        raw = data.draw(st.sampled_from([json.dumps(body).encode()] * 4 + [data.draw(st.binary(max_size=30))]))
    token = "worker-video-1" if "/worker/" in path else "ana"
    answer = api.call(method.upper(), url, raw=raw, token=token)
    # What isn't the path's any more once its ids are filled in (an id with a slash, or none) may be nowhere.
    assert str(answer.status) in {*operation["responses"], "404"}, (answer.status, answer.body)
    assert answer.status != 500
