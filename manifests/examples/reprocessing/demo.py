"""The demo's second part: forty invoices by a wrong price list are written again, in order, after an approval.

Run by `make demo` once Maestro is installed; needs kubectl on the PATH and KUBECONFIG. Everything goes by kubectl, as
the README has it; the ledger in the workers' volume is what is judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import kubectl, step  # noqa: E402 - the folder above is no package

NAME = "prices-march"
FORTY, LATE = list(range(1, 41)), [41, 42, 43]
APPROVE = '{"spec":{"decision":"Approved"}}'


class Shop:
    """The example's namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *args: str, **options: Any) -> str:
        return kubectl("-n", self.namespace, *args, **options)

    def apply(self, file: str, job: str | None = None) -> None:
        """Apply a step; where it is a Job, wait until it is done."""
        self.kubectl("apply", "-f", str(HERE / "steps" / file))
        if job:
            self.kubectl("wait", "--for=condition=Complete", f"job/{job}", "--timeout=240s")

    def ledger(self) -> list[dict[str, Any]]:
        text = self.kubectl("exec", "deployment/invoice", "--", "cat", "/data/ledger.jsonl")
        return [json.loads(line) for line in text.splitlines()]

    def invoices(self) -> list[tuple[int, float]]:
        return [(line["number"], line["total"]) for line in self.ledger() if "number" in line]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "reproc", NAME, "-o", "json"))["status"]
        return found

    def show(self) -> None:
        print(self.kubectl("get", "reproc"), end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="demo-billing")
    parser.add_argument("--service", default="maestro")
    args = parser.parse_args()
    ns = args.namespace
    shop = Shop(ns)

    step(f"The Solution billing: kubectl apply -f manifests/examples/reprocessing/  (namespace {ns})")
    # Anew each time: the ledger is judged as a whole.
    kubectl("delete", "namespace", ns, "--ignore-not-found", "--timeout=180s")
    namespace = {"name": ns, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": namespace}))
    shop.kubectl("create", "rolebinding", "ann-approver", f"--clusterrole={args.service}-approver", "--user=ann")
    shop.kubectl("create", "rolebinding", "ed-editor", f"--clusterrole={args.service}-editor", "--user=ed")
    shop.kubectl("apply", "-f", str(HERE / "automation.yaml"))
    shop.apply("0-statements.yaml")
    shop.kubectl("wait", "--for=condition=Ready", "automation", "--all", "--timeout=180s")

    step("March's price list says 10, and forty invoices are written by it; then it is corrected to 12")
    shop.apply("1-wrong-prices.yaml", "wrong-prices")
    shop.apply("2-invoices.yaml", "invoices")
    shop.apply("3-right-prices.yaml", "right-prices")
    expect("forty invoices at 10", sorted(shop.invoices()), [total(number, 10) for number in FORTY])

    step("An editor asks for a Reprocessing; it is planned, and awaits approval")
    shop.kubectl("apply", "-f", str(HERE / "steps" / "4-reprocessing.yaml"), "--as=ed")
    shop.kubectl("wait", "--for=jsonpath={.status.phase}=PendingApproval", f"reproc/{NAME}", "--timeout=120s")
    shop.show()

    step(f"kubectl patch reprocessing {NAME} --type merge -p '{APPROVE}'")
    patch = ("patch", "reprocessing", NAME, "--type", "merge", "-p", APPROVE)
    if shop.kubectl(*patch, "--as=ed", check=False):
        raise SystemExit("an editor could approve")
    print("  by ed, an editor: refused")
    shop.kubectl(*patch, "--as=ann")
    print("  by ann, an approver: taken")

    step("The gateway shuts; three more invoices are ordered, and the minute's statement is due: they wait")
    shop.kubectl("wait", "--for=jsonpath={.status.phase}=Running", f"reproc/{NAME}", "--timeout=120s")
    shop.apply("5-late-invoices.yaml", "late-invoices")
    watch(shop, 300)
    shop.show()

    step("What the ledger says")
    began = time.monotonic()
    while len(shop.invoices()) < 83:
        if time.monotonic() - began > 120:
            raise SystemExit("the invoices that were held didn't go on")
        time.sleep(0.5)
    invoices = shop.invoices()
    expect("the forty again at 12, in order", invoices[40:80], [total(number, 12) for number in FORTY])
    expect("then what was held", sorted(invoices[80:]), [total(number, 12) for number in LATE])
    between = [line for line in shop.ledger() if "statement" in line and 40 < line["invoices"] < 80]
    expect("no statement in between: the ticks waited", between, [])
    print(shop.kubectl("get", "schedules.maestro-operator.io,automations"), end="")
    shop.kubectl(
        "patch", "schedules.maestro-operator.io", "statement", "--type", "merge", "-p", '{"spec":{"suspend":true}}'
    )

    step("Try next")
    print(f"  kubectl -n {ns} describe reprocessing {NAME}")
    print(f"  kubectl -n {ns} exec deployment/invoice -- cat /data/ledger.jsonl")


def total(number: int, price: int) -> tuple[int, float]:
    """An invoice as the ledger has it."""
    return number, float((number % 7 + 1) * price)


def expect(what: str, found: Any, wanted: Any) -> None:
    """Print that it is so; end the demo where it isn't."""
    if found != wanted:
        raise SystemExit(f"not so: {what}\n  {found}")
    print(f"  ✓ {what}", flush=True)


def watch(shop: Shop, seconds: float) -> None:
    """Show a line of progress until the Reprocessing has ended."""
    began, last = time.monotonic(), ""
    while True:
        status = shop.status()
        progress = status.get("progress", {})
        done, of = progress.get("done", 0), progress.get("total", 40)
        shown = done - done % 5  # a line for each would be a long list
        line = f"  {'█' * (30 * shown // of)}{'░' * (30 - 30 * shown // of)} {shown:>3}/{of}  {status['phase']}"
        if line != last:
            print(f"{line}  ({time.monotonic() - began:.0f} s)", flush=True)
            last = line
        if status["phase"] == "Finished":
            return
        if status["phase"] not in ("Approved", "Running") or time.monotonic() - began > seconds:
            raise SystemExit(f"it did not finish: {status}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
