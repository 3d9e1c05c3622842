"""The walk-through on the node: a wrong price list, forty invoices written again in order after an approval.

Once by kubectl alone, once by HTTP alone.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.cluster.cluster import Cluster
from tests.cluster.errors import CommandError
from tests.cluster.paths import REPOSITORY
from tests.cluster.process import wait_for
from tests.e2e.client import Client, client_of
from tests.e2e.installation import RELEASE

pytestmark = pytest.mark.e2e

EXAMPLE = REPOSITORY / "manifests" / "examples" / "reprocessing"
NAME = "prices-march"
FORTY, LATE = list(range(1, 41)), [41, 42, 43]


class Billing:
    """The example's namespace, seen through kubectl."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        for person, roles in {"ed": ("editor",), "ann": ("editor", "approver")}.items():
            for role in roles:
                self.kubectl(
                    "create", "rolebinding", f"{person}-{role}", f"--clusterrole={RELEASE}-{role}", f"--user={person}"
                )
        self.kubectl("apply", "-f", str(EXAMPLE / "automation.yaml"))
        self.kubectl("wait", "--for=condition=Ready", "automation", "--all", "--timeout=180s")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def step(self, file: str, job: str) -> None:
        """Apply a step that is a Job, and wait until it is done."""
        self.kubectl("apply", "-f", str(EXAMPLE / "steps" / file))
        self.kubectl("wait", "--for=condition=Complete", f"job/{job}", "--timeout=180s")

    def ledger(self) -> list[tuple[int, float]]:
        """Number and total of each invoice, in the order in which they were written."""
        text = self.kubectl("exec", "deployment/invoice", "--", "cat", "/data/ledger.jsonl")
        return [(line["number"], line["total"]) for line in map(json.loads, text.splitlines())]

    def phase(self, phase: str, timeout: int = 120) -> None:
        self.kubectl("wait", f"--for=jsonpath={{.status.phase}}={phase}", f"reproc/{NAME}", f"--timeout={timeout}s")

    def condition(self, resource: str, type_: str) -> str:
        return self.kubectl("get", resource, "-o", f'jsonpath={{.status.conditions[?(@.type=="{type_}")].status}}')


@pytest.fixture
def billing(maestro: Cluster, namespace: str) -> Billing:
    maestro.load_image("example-reprocessing")
    return Billing(maestro, namespace)


def total(number: int, price: int) -> tuple[int, float]:
    return number, float((number % 7 + 1) * price)


def check_ledger(billing: Billing) -> None:
    """The forty with the wrong price, the forty with the right one in order, then the late ones in order."""
    wait_for("every invoice to be written", lambda: len(billing.ledger()) >= 83, timeout=60)
    lines = billing.ledger()
    assert sorted(lines[:40]) == [total(number, 10) for number in FORTY]
    assert lines[40:80] == [total(number, 12) for number in FORTY]
    assert sorted(lines[80:]) == [total(number, 12) for number in LATE]


def test_by_kubectl_alone(billing: Billing) -> None:
    kubectl = billing.kubectl
    billing.step("1-wrong-prices.yaml", "wrong-prices")
    billing.step("2-invoices.yaml", "invoices")
    billing.step("3-right-prices.yaml", "right-prices")
    assert sorted(billing.ledger()) == [total(number, 10) for number in FORTY]

    wanted = (EXAMPLE / "steps" / "4-reprocessing.yaml").read_text().replace("seconds: 1.5", "seconds: 0.5")
    kubectl("apply", "-f", "-", "--as=ed", stdin=wanted)
    billing.phase("PendingApproval")
    assert kubectl("get", "reproc", NAME, "-o", "jsonpath={.status.plan.total}") == "40"
    assert billing.condition("automation/invoice", "GatewayBlocked") != "True"

    approve = ("patch", "reproc", NAME, "--type", "merge", "-p", '{"spec":{"decision":"Approved"}}')
    with pytest.raises(CommandError, match="ed may not decide about a Reprocessing"):
        kubectl(*approve, "--as=ed")
    kubectl(*approve, "--as=ann")
    with pytest.raises(CommandError, match="already Approved by ann"):
        kubectl("patch", "reproc", NAME, "--type", "merge", "-p", '{"spec":{"decision":"Skipped"}}', "--as=ann")
    billing.phase("Running")
    billing.step("5-late-invoices.yaml", "late-invoices")
    wait_for(
        "the gateway to be shut",
        lambda: billing.condition("automation/invoice", "GatewayBlocked") == "True",
        timeout=30,
    )
    with pytest.raises(CommandError, match="ed may not delete"):
        kubectl("delete", "reproc", NAME, "--as=ed")

    billing.phase("Finished", 180)
    check_ledger(billing)
    progress = json.loads(kubectl("get", "reproc", NAME, "-o", "jsonpath={.status.progress}"))
    assert (progress["done"], progress["succeeded"], progress["total"]) == (40, 40, 40)
    approval = json.loads(kubectl("get", "reproc", NAME, "-o", "jsonpath={.status.approval}"))
    assert (approval["decision"], approval["by"], approval["via"]) == ("Approved", "ann", "kubectl")
    assert "ann" in kubectl("get", "reproc", NAME)
    story = kubectl("describe", "reproc", NAME)
    for word in ("PendingApproval", "approved by ann", "Finished", "Events:"):
        assert word in story, story
    wait_for(
        "the gateway to be open",
        lambda: billing.condition("automation/invoice", "GatewayBlocked") == "False",
        timeout=60,
    )


def test_by_http_alone(billing: Billing, maestro: Cluster) -> None:
    namespace = billing.namespace
    with client_of(maestro, namespace) as editor, client_of(maestro, namespace, "boss", "editor", "approver") as boss:
        prices, invoices = f"{namespace}.price-list", f"{namespace}.invoice"

        def publish(price: float) -> None:
            (run,) = editor.ended(prices, [editor.execute(prices, {"price_list": "march", "price": price})])
            assert run["state"] == "Succeeded", run

        def order(numbers: list[int]) -> list[str]:
            lines = [{"number": n, "quantity": n % 7 + 1, "price_list": "march"} for n in numbers]
            return editor.execute_many(invoices, lines)

        publish(10)
        first = order(FORTY)
        editor.ended(invoices, first)
        publish(12)

        body = {
            "name": NAME,
            "solution": f"{namespace}.billing",
            "reason": "The price list of March said 10 instead of 12.",
            "select": {"reads": ["price-list/march"], "states": ["Succeeded"]},
            "parameters": {"seconds": 0.5},
        }
        status, plan = editor.call("POST", "/reprocessings/preview", body)
        assert (status, plan["total"]) == (200, 40), plan
        status, made = editor.call("POST", "/reprocessings", body)
        assert status == 201, made
        path = f"/reprocessings/{made['id']}"

        def phase() -> Any:
            return editor.call("GET", path)[1]["phase"]

        wait_for("it to await approval", lambda: phase() == "PendingApproval", timeout=60)
        status, refused = editor.call("POST", f"{path}/approve", {})
        assert (status, "may not approve reprocessings" in refused["message"]) == (403, True)
        assert proceed(editor, namespace) == 200
        status, approved = boss.call("POST", f"{path}/approve", {"planHash": plan["hash"], "reason": "looks right"})
        assert status == 202, approved
        status, told = boss.call("POST", f"{path}/skip", {})
        assert (status, told["reason"]) == (409, "AlreadyDecided")
        assert f"by system:serviceaccount:{namespace}:boss" in told["message"]
        wait_for("the gateway to be shut", lambda: proceed(editor, namespace) == 403, timeout=30)
        late = order(LATE)

        wait_for("it to be finished", lambda: phase() == "Finished", timeout=180)
        assert {run["state"] for run in editor.ended(invoices, late)} == {"Succeeded"}
        wait_for("the gateway to be open", lambda: proceed(editor, namespace) == 200, timeout=30)
        status, items = editor.call("GET", f"{path}/items")
        assert [item["run"] for item in items["items"]] == first
        again = [editor.run(item["replayedBy"]) for item in items["items"]]
        assert [run["replayOf"] for run in again] == first
        assert {run["state"] for run in again} == {"Succeeded"}
        approval = editor.call("GET", path)[1]["status"]["approval"]
        assert (approval["by"], approval["via"]) == (f"system:serviceaccount:{namespace}:boss", "http")
    check_ledger(billing)


def proceed(client: Client, namespace: str) -> int:
    """What the gateway says to a service that asks."""
    answer = client.pool.request(
        "GET",
        f"{client.base}/v1.0.0/gateway/{namespace}.billing/proceed",
        headers={"Authorization": f"Bearer {client.token}"},
        timeout=30.0,
    )
    return answer.status
