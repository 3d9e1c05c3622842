"""The example that gates an ordinary service: its own nginx configuration, run by a real nginx before the real API."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
import yaml
from tests.cluster import packages, paths, ports
from tests.cluster.process import wait_for
from tests.integration.http.api import Api

from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import REPROCESSING
from maestro.workload.gateways import FRESH_SECONDS, Gateways

EXAMPLE = paths.REPOSITORY / "manifests" / "examples" / "gate" / "nginx.yaml"


class Orders(http.server.BaseHTTPRequestHandler):
    """The service behind the gate: tells what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@dataclass
class Gate:
    """nginx, and the API that it asks; the last of `seconds` is what its clock shows."""

    url: str
    api: Api
    cache: ObjectCache
    seconds: list[float]
    pool: urllib3.PoolManager

    def order(self) -> urllib3.BaseHTTPResponse:
        return self.pool.request(
            "POST", f"{self.url}/orders", body=b"one coat", headers={"Authorization": "Basic eA=="}
        )

    def reprocessing(self, version: int, **spec: object) -> None:
        """Have the API see a Reprocessing that runs."""
        found = {
            "metadata": {
                "name": "prices",
                "namespace": "shop",
                "uid": "1",
                "resourceVersion": str(version),
                "creationTimestamp": "2026-03-01T00:00:00Z",
            },
            "spec": {"solution": "shop", "decision": "Approved", "planHash": "h", **spec},
            "status": {"phase": "Running", "plan": {"hash": "h"}, "progress": {"done": 1}},
        }
        self.api.loop.loop.call_soon_threadsafe(self.cache.upsert, found)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    packages.require("nginx-light")
    seconds = [0.0]
    cache = ObjectCache(REPROCESSING, clock=lambda: seconds[-1])
    cache.replace([])
    api = Api(tmp_path, gateway=Gateways(cache))
    orders = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Orders)
    threading.Thread(target=orders.serve_forever, daemon=True).start()
    (config,) = (
        document["data"]["default.conf"]
        for document in yaml.safe_load_all(EXAMPLE.read_text())
        if document["kind"] == "ConfigMap"
    )
    port, token = ports.reserve(), tmp_path / "token.conf"
    token.write_text('proxy_set_header Authorization "Bearer eve";\n')
    for theirs, ours in (
        ("maestro.maestro.svc:6971", f"127.0.0.1:{api.server.port}"),
        ("orders.shop.svc:80", f"127.0.0.1:{orders.server_address[1]}"),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/maestro/token.conf", str(token)),
    ):
        assert theirs in config
        config = config.replace(theirs, ours)
    folders = " ".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; worker_processes 1; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {folders}\n{config}}}\n"
    )
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert program is not None
    with (tmp_path / "nginx.log").open("wb") as log:
        process = subprocess.Popen([program, "-p", tmp_path, "-c", tmp_path / "nginx.conf"], stderr=log, stdout=log)
    pool = urllib3.PoolManager(retries=False, timeout=20)
    found = Gate(f"http://127.0.0.1:{port}", api, cache, seconds, pool)
    try:
        wait_for("nginx listens", lambda: _answers(found), timeout=30)
        yield found
    finally:
        process.terminate()
        process.wait(10)
        orders.shutdown()
        orders.server_close()
        api.close()


def _answers(gate: Gate) -> bool:
    try:
        gate.order()
    except urllib3.exceptions.HTTPError:
        return False
    return True


def test_a_gated_service(gate: Gate) -> None:
    passed = gate.order()
    assert (passed.status, passed.data) == (201, b"one coat")

    gate.reprocessing(1)
    wait_for("the gate to be shut", lambda: gate.order().status == 503, timeout=10)
    held = gate.order()
    assert (held.data, held.headers["Retry-After"], held.headers["X-Held-By"]) == (
        b"held back; try again\n",
        "5",
        "prices",
    )

    gate.reprocessing(2, cancel=True)
    wait_for("the gate to be open", lambda: gate.order().status == 201, timeout=10)


def test_what_is_not_known_is_not_let_through(gate: Gate) -> None:
    gate.seconds.append(FRESH_SECONDS + 1)
    unknown = gate.order()
    assert (unknown.status, unknown.headers["Retry-After"]) == (503, "5")
    gate.seconds.append(0.0)
    assert gate.order().status == 201
    gate.api.server.close()
    nobody = gate.order()
    assert (nobody.status, nobody.headers["Retry-After"]) == (503, "5")
