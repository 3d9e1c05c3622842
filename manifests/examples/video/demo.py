"""The demo: a dozen films become thumbnails on a real cluster, and one worker pod is killed on the way.

Run by `make demo` once Maestro is installed; needs kubectl on the PATH and KUBECONFIG. Nothing is simulated: a
Kubernetes Job encodes the films, worker pods decode them, and the pictures are copied out of the pods' volume.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import kubectl, step  # noqa: E402 - the folder above is no package

ENDED = {"Succeeded", "Failed", "Canceled"}
WIDTHS = (160, 240, 320, 480, 640)


class Api:
    """A few lines of HTTP: what any program of yours would do."""

    def __init__(self, base: str, token: str) -> None:
        self._base, self._token = base, token

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the port-forward on loopback
            f"{self._base}/api/v1{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def runs(self, ids: list[str]) -> list[dict[str, Any]]:
        wanted, found, cursor = set(ids), [], ""
        automation = f"&automation={self.automation}"
        while True:
            page = self.call("GET", f"/jobs?limit=200{automation}{cursor}")
            found += [run for run in page["items"] if run["id"] in wanted]
            if len(found) == len(wanted) or not page.get("next"):
                return found
            cursor = f"&cursor={page['next']}"

    automation = ""


@contextmanager
def port_forward(namespace: str, service: str) -> Iterator[str]:
    process = subprocess.Popen(
        ["kubectl", "-n", namespace, "port-forward", f"svc/{service}", ":8080"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "->" not in line:
            raise SystemExit(f"kubectl port-forward ended: {line}")
        yield "http://" + line.split("from ")[1].split(" ->")[0]
    finally:
        process.terminate()
        process.wait()


def watch(api: Api, ids: list[str], seconds: float, on_done: Any = None) -> list[dict[str, Any]]:
    """Show a line of progress until every Run ended; `on_done(n)` hears how many have."""
    started, last = time.monotonic(), ""
    while True:
        runs = api.runs(ids)
        states = Counter(run["state"] for run in runs)
        done = sum(states[s] for s in ENDED)
        bar = "█" * (30 * done // len(ids)) + "░" * (30 - 30 * done // len(ids))
        counts = "  ".join(f"{state} {n}" for state, n in sorted(states.items()))
        line = f"  {bar} {done:>3}/{len(ids)}  {counts}"
        if line != last:
            print(f"{line}  ({time.monotonic() - started:.0f} s)", flush=True)
            last = line
        if on_done:
            on_done(done)
        if done == len(ids):
            return runs
        if time.monotonic() - started > seconds:
            raise SystemExit(f"not finished after {seconds:.0f} s: {counts}")
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="demo")
    parser.add_argument("--maestro-namespace", default="maestro")
    parser.add_argument("--service", default="maestro")
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("build/demo"))
    args = parser.parse_args()
    ns = args.namespace

    step(f"kubectl apply -f manifests/examples/video/  (namespace {ns}, which enforces the restricted profile)")
    kubectl("apply", "-f", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": ns, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }))  # fmt: skip
    began = time.monotonic()
    print(kubectl("-n", ns, "apply", "-f", str(HERE / "automation.yaml")), end="")
    kubectl("-n", ns, "wait", "--for=condition=Ready", "automation", "--all", "--timeout=180s")
    print(f"  Ready after {time.monotonic() - began:.1f} s")

    kubectl("-n", ns, "create", "serviceaccount", "demo-user", check=False)
    kubectl("-n", ns, "create", "rolebinding", "demo-user", f"--clusterrole={args.service}-editor",
            f"--serviceaccount={ns}:demo-user", check=False)  # fmt: skip
    token = kubectl("-n", ns, "create", "token", "demo-user", "--duration=1h").strip()

    with port_forward(args.maestro_namespace, args.service) as base:
        api = Api(base, token)
        step(f"Encode {args.films} films: POST /api/v1/automations/{ns}.video-encode/execute (a Kubernetes Job)")
        api.automation = f"{ns}.video-encode"
        run = api.call(
            "POST", f"/automations/{ns}.video-encode/execute", {"films": args.films, "seconds": args.seconds}
        )
        (encoded,) = watch(api, [run["job_id"]], 300)
        if encoded["state"] != "Succeeded":
            raise SystemExit(f"the films were not encoded: {encoded['state']} {encoded.get('reason')}")

        api.automation = f"{ns}.video-thumbnails"
        lines = [
            {"parameters": {"source": f"film-{film:02}.mp4", "width": width}, "reference": f"film-{film:02}"}
            for width in WIDTHS
            for film in range(args.films)
        ]
        step(f"Submit {len(lines)} Runs: POST /api/v1/automations/{ns}.video-thumbnails/execute-many")
        accepted = api.call("POST", f"/automations/{ns}.video-thumbnails/execute-many", lines)
        ids = [item["job_id"] for item in accepted["items"]]
        killed: list[str] = []

        def kill_one(done: int) -> None:
            if killed or done < len(ids) // 6:
                return
            pods = kubectl("-n", ns, "get", "pods", "-l", "maestro-operator.io/automation=video-thumbnails",
                           "--field-selector=status.phase=Running", "-o", "name").split()  # fmt: skip
            killed.append(pods[0])
            kubectl("-n", ns, "delete", pods[0], "--grace-period=0", "--force", "--wait=false")
            print(f"  ✂ killed {pods[0]} (SIGKILL, with what it was working on)", flush=True)

        runs = watch(api, ids, 600, kill_one)
        step("What became of them")
        states = Counter(run["state"] for run in runs)
        pods = Counter((run.get("result") or {}).get("pod", "?") for run in runs)
        again = sum(1 for run in runs if run.get("retryCount"))
        print("  " + ", ".join(f"{n} {state}" for state, n in states.items()) + f"; {again} ran again after the kill")
        for pod, n in sorted(pods.items()):
            print(f"  {n:>4} by {pod}")

        step("kubectl get automations")
        # Counters are written to the status every 30 s at most.
        kubectl("-n", ns, "wait", "--for=jsonpath={.status.runs.running}=0", "automation", "--all", "--timeout=120s")
        print(kubectl("-n", ns, "get", "automations"), end="")
        pictures = collect(ns, args.output)
        step(f"{pictures} pictures lie in {args.output}/pictures; a contact sheet for each film and size: sheet.jpg")
        step("Try next")
        print(f"  kubectl -n {ns} describe automation video-thumbnails")
        print(f"  kubectl -n {ns} scale automation video-thumbnails --replicas=1")
        print(f'  kubectl -n {ns} patch automation video-thumbnails --type merge -p \'{{"spec":{{"suspend":true}}}}\'')
        if states != Counter({"Succeeded": len(ids)}):
            raise SystemExit("not every Run succeeded")


def collect(namespace: str, output: Path) -> int:
    """Copy the pictures out of a worker pod's volume; returns how many there are."""
    output.mkdir(parents=True, exist_ok=True)
    (pod, *_) = kubectl("-n", namespace, "get", "pods", "-l", "maestro-operator.io/automation=video-thumbnails",
                        "--field-selector=status.phase=Running", "-o", "name").split()  # fmt: skip
    tar = "import sys, tarfile; tarfile.open(fileobj=sys.stdout.buffer, mode='w|').add('/media/pictures', 'pictures')"
    archive = subprocess.run(
        ["kubectl", "-n", namespace, "exec", pod, "--", "python", "-c", tar], check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(output)], input=archive, check=True)
    return len(list((output / "pictures").rglob("*.jpg")))


if __name__ == "__main__":
    main()
