"""The client against a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.apiserver import ApiServer
from tests.integration.kube.conftest import run, until

from maestro.kube import errors
from maestro.kube.client import KubeClient, Rate
from maestro.kube.credentials import Credentials, TokenFile, load_credentials
from maestro.kube.kinds import CONFIG_MAP, DEPLOYMENT, EVENT, NAMESPACE, POD, SERVICE_ACCOUNT, Kind
from maestro.runtime.metrics import REGISTRY


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def deployment(name: str, image: str = "example.org/worker:1") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "worker", "image": image}]},
            },
        },
    }


def test_objects_are_made_read_listed_patched_and_deleted(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        try:
            made = await client.create(CONFIG_MAP, namespace, config_map("a", x="1"))
            assert made["metadata"]["uid"]
            with pytest.raises(errors.AlreadyExists) as exists:
                await client.create(CONFIG_MAP, namespace, config_map("a"))
            assert isinstance(exists.value, errors.Conflict)

            assert (await client.get(CONFIG_MAP, namespace, "a"))["data"] == {"x": "1"}
            patched = await client.patch(CONFIG_MAP, namespace, "a", {"data": {"x": None, "y": "2"}})
            assert patched["data"] == {"y": "2"}
            operations = [{"op": "replace", "path": "/data/y", "value": "3"}]
            patched = await client.patch(CONFIG_MAP, namespace, "a", operations, type="json")
            assert patched["data"] == {"y": "3"}

            patched["data"] = {"z": "4"}
            replaced = await client.replace(CONFIG_MAP, namespace, "a", patched)
            with pytest.raises(errors.Conflict):
                await client.replace(CONFIG_MAP, namespace, "a", patched)
            assert replaced["data"] == {"z": "4"}

            for number in range(5):
                labels = {"labels": {"part": "list"}, "name": f"l{number}"}
                await client.create(CONFIG_MAP, namespace, {"metadata": labels})
            objects, version = await client.list(CONFIG_MAP, namespace, label_selector="part=list", limit=2)
            assert [o["metadata"]["name"] for o in objects] == [f"l{number}" for number in range(5)]
            assert all(o["kind"] == "ConfigMap" and o["apiVersion"] == "v1" for o in objects)
            assert int(version) > 0
            everywhere, _ = await client.list(CONFIG_MAP, field_selector="metadata.name=l3")
            assert namespace in {o["metadata"]["namespace"] for o in everywhere}

            await client.probe(CONFIG_MAP, namespace)
            with pytest.raises(errors.Conflict):
                await client.delete(CONFIG_MAP, namespace, "a", uid="somebody-else")
            await client.delete(CONFIG_MAP, namespace, "a", uid=made["metadata"]["uid"])
            await client.delete(CONFIG_MAP, namespace, "a")
            with pytest.raises(errors.NotFound):
                await client.get(CONFIG_MAP, namespace, "a")
            assert (await client.get(NAMESPACE, None, namespace))["kind"] == "Namespace"
        finally:
            await client.close()

    run(scenario())


def test_apply_creates_changes_and_leaves_to_others_what_is_theirs(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        try:
            dry = await client.apply_dry(DEPLOYMENT, namespace, "d", deployment("d"))
            assert dry["spec"]["progressDeadlineSeconds"] == 600, "the server's defaults are in the answer"
            with pytest.raises(errors.NotFound):
                await client.get(DEPLOYMENT, namespace, "d")

            first = await client.apply(DEPLOYMENT, namespace, "d", deployment("d"))
            assert first["metadata"]["generation"] == 1
            again = await client.apply(DEPLOYMENT, namespace, "d", deployment("d"))
            assert again["metadata"]["generation"] == 1

            await client.patch(DEPLOYMENT, namespace, "d", {"metadata": {"annotations": {"theirs": "1"}}})
            changed = await client.apply(DEPLOYMENT, namespace, "d", deployment("d", "example.org/worker:2"))
            assert changed["metadata"]["annotations"]["theirs"] == "1"
            assert changed["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":2")

            with pytest.raises(errors.Conflict) as conflict:
                await client.apply(DEPLOYMENT, namespace, "d", deployment("d"), manager="other", force=False)
            assert conflict.value.causes[0]["field"].endswith(".image")

            stale = deployment("d")
            stale["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000"
            with pytest.raises(errors.Invalid) as another:
                await client.apply(DEPLOYMENT, namespace, "d", stale)
            assert another.value.causes[0]["field"] == "metadata.uid"
        finally:
            await client.close()

    run(scenario())


def test_an_invalid_object_names_its_fields(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        bad = deployment("bad")
        bad["spec"]["template"]["spec"]["containers"][0]["name"] = "Not A Name"
        bad["spec"]["template"]["metadata"]["labels"] = {"app": "else"}
        try:
            with pytest.raises(errors.Invalid) as invalid:
                await client.apply(DEPLOYMENT, namespace, "bad", bad)
        finally:
            await client.close()
        fields = {cause["field"] for cause in invalid.value.causes}
        assert "spec.template.spec.containers[0].name" in fields
        assert "spec.template.metadata.labels" in fields
        assert all(cause["message"] for cause in invalid.value.causes)

    run(scenario())


def test_a_status_is_only_written_over_a_known_version(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        try:
            made = await client.create(DEPLOYMENT, namespace, deployment("s"))
            current = await client.get(DEPLOYMENT, namespace, "s")
            version = current["metadata"]["resourceVersion"]
            moved = await client.patch(DEPLOYMENT, namespace, "s", {"metadata": {"annotations": {"a": "1"}}})
            with pytest.raises(errors.Conflict):
                await client.patch_status(DEPLOYMENT, namespace, "s", {"replicas": 7}, resource_version=version)
            version = moved["metadata"]["resourceVersion"]
            # The deployment controller writes here too: what counts is that our version was the current one.
            try:
                written = await client.patch_status(
                    DEPLOYMENT, namespace, "s", {"collisionCount": 7}, resource_version=version
                )
            except errors.Conflict:
                fresh = await client.get(DEPLOYMENT, namespace, "s")
                version = fresh["metadata"]["resourceVersion"]
                written = await client.patch_status(
                    DEPLOYMENT, namespace, "s", {"collisionCount": 7}, resource_version=version
                )
            assert written["status"]["collisionCount"] == 7
            assert written["spec"] == made["spec"]
            with pytest.raises(ValueError, match="resource_version"):
                await client.patch_status(DEPLOYMENT, namespace, "s", {}, resource_version="")
        finally:
            await client.close()

    run(scenario())


def test_a_watch_tells_every_change_and_then_ends(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        try:
            _, version = await client.list(CONFIG_MAP, namespace)
            await client.create(CONFIG_MAP, namespace, config_map("w", x="1" * 500_000))
            await client.patch(CONFIG_MAP, namespace, "w", {"data": {"y": "2"}})
            await client.delete(CONFIG_MAP, namespace, "w")
            seen = []
            last = ""
            async for type_, obj in client.watch(CONFIG_MAP, namespace, resource_version=version, timeout_seconds=3):
                if not seen:
                    assert (type_, obj["metadata"]["resourceVersion"]) == ("BOOKMARK", version)
                seen.append((type_, obj["metadata"].get("name")))
                last = obj["metadata"]["resourceVersion"]
            told = [pair for pair in seen if pair[0] != "BOOKMARK" and pair[1] == "w"]
            assert told == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")]
            assert int(last) > int(version)
        finally:
            await client.close()

    run(scenario())


def test_a_silent_watch_is_given_up(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        try:
            _, version = await client.list(CONFIG_MAP, namespace)
            with pytest.raises(errors.Unavailable, match="nothing was heard"):
                async for _ in client.watch(CONFIG_MAP, namespace, resource_version=version, silence=0.5):
                    pass
        finally:
            await client.close()

    run(scenario())


def test_no_answer_is_unavailable(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig, timeout=0.5)
        try:
            await client.list(CONFIG_MAP, namespace)
            apiserver.pause()
            try:
                with pytest.raises(errors.Unavailable, match="timed out"):
                    await client.get(CONFIG_MAP, namespace, "x")
                assert REGISTRY.get_sample_value("maestro_up", {"dependency": "kube"}) == 0
            finally:
                apiserver.resume()
            nowhere = Kind("nobody.example.org", "v1", "things", "Thing")
            with pytest.raises(errors.NotFound):
                await client.list(nowhere, namespace, timeout=10.0)
            assert REGISTRY.get_sample_value("maestro_up", {"dependency": "kube"}) == 1, "a refusal is an answer"
        finally:
            await client.close()

        credentials = await load_credentials(apiserver.kubeconfig)
        credentials.configuration.host = "https://127.0.0.1:1"
        lost = KubeClient(credentials)
        try:
            with pytest.raises(errors.Unavailable) as refused:
                await lost.list(CONFIG_MAP, namespace)
        finally:
            await lost.close()
        assert refused.value.status == 0

    run(scenario())


def service_account_token(apiserver: ApiServer, namespace: str, audience: str | None = None) -> str:
    arguments = ["create", "token", "default", "-n", namespace]
    return apiserver.kubectl(*arguments, *(["--audience", audience] if audience else [])).strip()


def token_client(apiserver: ApiServer, file: Path, credentials: Credentials) -> KubeClient:
    configuration = credentials.configuration
    configuration.cert_file = configuration.key_file = None
    return KubeClient(Credentials(configuration, TokenFile(file, max_age=3600.0)))


def test_a_token_that_was_replaced_is_read_again(apiserver: ApiServer, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("not-a-token")
    token = service_account_token(apiserver, namespace)

    async def scenario() -> None:
        client = token_client(apiserver, file, await load_credentials(apiserver.kubeconfig))
        try:
            with pytest.raises(errors.Unauthorized):
                await client.get(SERVICE_ACCOUNT, namespace, "default")
            file.write_text(token + "\n")
            with pytest.raises(errors.Forbidden) as forbidden:
                await client.get(SERVICE_ACCOUNT, namespace, "default")
            assert f"system:serviceaccount:{namespace}:default" in forbidden.value.message
            file.unlink()
            with pytest.raises(errors.Forbidden):
                await client.get(SERVICE_ACCOUNT, namespace, "default")
        finally:
            await client.close()

    run(scenario())


def test_in_a_pod_the_service_account_is_used(apiserver: ApiServer, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(service_account_token(apiserver, namespace))
    host, port = apiserver.url.removeprefix("https://").split(":")

    async def scenario() -> None:
        credentials = await load_credentials(
            environ={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port},
            token_path=str(file),
            ca_path=str(apiserver.certificate_authority),
        )
        client = KubeClient(credentials)
        try:
            review = await client_review(client)
            assert review == f"system:serviceaccount:{namespace}:default"
        finally:
            await client.close()

    async def client_review(client: KubeClient) -> str:
        me = Kind("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)
        return str((await client.create(me, None, {}))["status"]["userInfo"]["username"])

    run(scenario())


def test_tokens_and_rights_of_others_are_asked_for(apiserver: ApiServer, namespace: str) -> None:
    mine = service_account_token(apiserver, namespace, "maestro")

    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        try:
            review = await client.token_review(mine, ["maestro"])
            assert review["status"]["authenticated"]
            assert review["status"]["user"]["username"] == f"system:serviceaccount:{namespace}:default"
            assert mine not in json.dumps(review)
            assert not (await client.token_review(mine, ["else"]))["status"].get("authenticated")
            assert not (await client.token_review("nonsense", ["maestro"]))["status"].get("authenticated")

            attributes = {"namespace": namespace, "verb": "get", "resource": "pods"}
            nobody = await client.subject_access_review({"user": "nobody", "resourceAttributes": attributes})
            assert not nobody["status"]["allowed"]
            admin = {"user": "x", "groups": ["system:masters"], "resourceAttributes": attributes}
            assert (await client.subject_access_review(admin))["status"]["allowed"]
        finally:
            await client.close()

    run(scenario())


def test_events_are_shown_by_describe_and_never_raise(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig, rate=Rate(events_qps=0.001, events_burst=2))
        try:
            made = await client.create(CONFIG_MAP, namespace, config_map("told"))
            for reason in ("First", "Second", "Dropped"):
                await client.event(made, type="Warning", reason=reason, message="ä" * 4000)
            events, _ = await client.list(EVENT, namespace)
            assert sorted(e["reason"] for e in events if e["regarding"]["name"] == "told") == ["First", "Second"]
        finally:
            await client.close()

        client = await KubeClient.connect(apiserver.kubeconfig_for("nobody"))
        try:
            await client.event(made, type="Normal", reason="Refused", message="m")
        finally:
            await client.close()

    run(scenario())
    assert "First" in apiserver.kubectl("describe", "configmap", "told", "-n", namespace)


def test_a_log_is_asked_for_where_there_is_none(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "worker", "image": "example.org/x:1"}]}}
        try:
            with pytest.raises(errors.NotFound):
                await client.pod_log(namespace, "none")
            with pytest.raises(errors.Forbidden):
                await client.create(POD, namespace, pod)
        finally:
            await client.close()

    run(scenario())


def test_the_rate_is_limited(apiserver: ApiServer, namespace: str) -> None:
    async def scenario() -> list[float]:
        client = await KubeClient.connect(apiserver.kubeconfig, rate=Rate(qps=20.0, burst=1))
        loop = asyncio.get_running_loop()
        times: list[float] = []

        async def one() -> None:
            await client.probe(CONFIG_MAP, namespace)
            times.append(loop.time())

        try:
            begun = loop.time()
            await asyncio.gather(*(one() for _ in range(11)))
        finally:
            await client.close()
        return [time - begun for time in times]

    # Ten of the eleven wait for a token of a twentieth of a second: however fast or slow the machine is, not less.
    assert max(run(scenario())) >= 0.5


@contextlib.asynccontextmanager
async def one_seat_taken(kubeconfig: Path, namespace: str) -> AsyncIterator[None]:
    """A request that doesn't end for the block: its body never comes."""
    credentials = await load_credentials(kubeconfig)
    host, port = credentials.server.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=credentials.ssl_context())
    try:
        head = f"POST {CONFIG_MAP.path(namespace)} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        await writer.drain()
        yield
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_too_many_requests_are_sent_again_when_the_server_says_and_only_so_often(
    apiserver: ApiServer, namespace: str
) -> None:
    flow, rbac, name = "flowcontrol.apiserver.k8s.io", "rbac.authorization.k8s.io", "throttled"
    user = {"kind": "User", "name": name, "apiGroup": rbac}
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"], "clusterScope": True, "namespaces": ["*"]}
    # One request at a time for this user, and none may wait for it.
    limit = {"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0}
    apiserver.apply(
        {
            "apiVersion": f"{flow}/v1",
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": name},
            "spec": {"type": "Limited", "limited": {**limit, "limitResponse": {"type": "Reject"}}},
        },
        {
            "apiVersion": f"{flow}/v1",
            "kind": "FlowSchema",
            "metadata": {"name": name},
            "spec": {
                "matchingPrecedence": 10,
                "priorityLevelConfiguration": {"name": name},
                "rules": [{"subjects": [{"kind": "User", "user": {"name": name}}], "resourceRules": [everything]}],
            },
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": name, "namespace": namespace},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "list"]}],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [user],
        },
    )
    kubeconfig = apiserver.kubeconfig_for(name)
    audit = apiserver.audit()

    def statuses() -> list[int]:
        return [request.status for request in audit.requests(user=name) if request.verb == "list"]

    async def scenario() -> None:
        hasty = await KubeClient.connect(kubeconfig, rate=Rate(retries=1))
        impatient = await KubeClient.connect(kubeconfig, rate=Rate(retries=100, longest_wait=0.1))
        patient = await KubeClient.connect(kubeconfig, rate=Rate(retries=100))

        async def is_throttled() -> bool:
            try:
                await impatient.probe(CONFIG_MAP, namespace)
            except errors.TooManyRequests as error:
                return (error.retry_after or 0) >= 1
            except errors.Forbidden:
                # The new rights aren't known yet.
                return False
            return False

        try:
            async with one_seat_taken(kubeconfig, namespace):
                await until("the server says no", is_throttled)
                audit.mark()
                with pytest.raises(errors.TooManyRequests):
                    await hasty.probe(CONFIG_MAP, namespace)
                await until("both are in the log", lambda: len(statuses()) >= 2)
                assert statuses() == [429, 429]
                waiting = asyncio.create_task(patient.probe(CONFIG_MAP, namespace))
                await until("it was refused", lambda: len(statuses()) >= 3)
            await waiting
        finally:
            for client in (hasty, impatient, patient):
                await client.close()

    try:
        run(scenario())
    finally:
        apiserver.kubectl("delete", "flowschema,prioritylevelconfiguration", name)
