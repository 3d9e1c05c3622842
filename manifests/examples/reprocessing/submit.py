"""What other systems do: `prices march 12` has a price list taken in, `invoices march 1 40` has invoices written.

Runs in a pod, by the token of its ServiceAccount, and waits until the Runs have ended (`--no-wait`: until they are
accepted).
"""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

API = os.environ.get("MAESTRO_API_URL", "http://maestro.maestro.svc:8080")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def call(path: str, body: Any = None) -> Any:
    request = urllib.request.Request(  # noqa: S310 - the address is the installation's own
        f"{API}/api/v1{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def submit(automation: str, lines: list[dict[str, Any]]) -> list[str]:
    namespace = (ACCOUNT / "namespace").read_text()
    accepted = call(f"/automations/{namespace}.{automation}/execute-many", lines)
    return [item["job_id"] for item in accepted["items"]]


def main(what: str, price_list: str, *numbers: str) -> None:
    if what == "prices":
        ids = submit("price-list", [{"parameters": {"price_list": price_list, "price": float(numbers[0])}}])
    else:
        first, last = map(int, numbers)
        ids = submit(
            "invoice",
            [
                {
                    "parameters": {"number": number, "quantity": number % 7 + 1, "price_list": price_list},
                    "reference": f"invoice-{number:03}",
                }
                for number in range(first, last + 1)
            ],
        )
    print(f"accepted: {len(ids)}")
    if "--no-wait" in sys.argv:
        return
    for run_id in ids:
        while (run := call(f"/jobs/{run_id}"))["state"] not in ("Succeeded", "Failed", "Canceled"):
            time.sleep(0.2)
        if run["state"] != "Succeeded":
            raise SystemExit(f"{run_id}: {run['state']} {run['reason']}")
    print(f"succeeded: {len(ids)}")


if __name__ == "__main__":
    main(*(argument for argument in sys.argv[1:] if not argument.startswith("--")))
