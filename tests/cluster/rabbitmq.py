"""A real RabbitMQ 4.x on this machine: Debian trixie's, in a chroot with its own mounts, processes and ports."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.cluster import instances, ports, rootfs
from tests.cluster.errors import ClusterError, UnsupportedError
from tests.cluster.process import Daemon, Identity, run, wait_for

START_SECONDS = 90.0
USER = "maestro"
BUILT_IN_EXCHANGES = {"", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic", "amq.rabbitmq.trace"}
# In the chroot: where the instance's own folder is mounted.
HOME = "/var/lib/rabbitmq"
AS_RABBITMQ = ("setpriv", "--reuid=rabbitmq", "--regid=rabbitmq", "--clear-groups")


class RabbitMQ:
    """One broker with the management plugin, an administrator and nothing else in it.

    Use it as a context manager, or call `start()` and at the end `close()`.

    Attributes
    ----------
    user, password
        The administrator.
    amqp_port, management_port
        Where it listens, on 127.0.0.1 only.
    """

    def __init__(self) -> None:
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            raise UnsupportedError("the RabbitMQ of the tests runs in a chroot: it needs Linux and root")
        self._root = rootfs.RABBITMQ.folder()
        self.folder = instances.make("rabbitmq")
        self.user = USER
        self.password = secrets.token_urlsafe(16)
        self.amqp_port, self.management_port, self._dist_port, self._epmd_port = (ports.reserve() for _ in range(4))
        self.node = f"rabbit-{self.amqp_port}@localhost"
        self._uid, self._gid = self._rabbitmq_ids()
        self._daemon = Daemon("rabbitmq", self._argv(), self.folder)
        self._prepare()

    def __repr__(self) -> str:
        return f"RabbitMQ(amqp_port={self.amqp_port}, management_port={self.management_port})"

    def __enter__(self) -> RabbitMQ:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def amqp_url(self) -> str:
        """`amqp://user:password@127.0.0.1:port/%2F`, for the default virtual host."""
        return f"amqp://{self.user}:{quote(self.password)}@127.0.0.1:{self.amqp_port}/%2F"

    @property
    def management_url(self) -> str:
        """`http://127.0.0.1:port`, without the user; see `user` and `password`."""
        return f"http://127.0.0.1:{self.management_port}"

    @property
    def log(self) -> Path:
        """The broker's log."""
        return self._daemon.log

    @property
    def pid(self) -> int:
        """The broker's process; raises ClusterError where it doesn't run."""
        return self._running_broker().pid

    def alive(self) -> bool:
        """Say whether the broker's process runs."""
        return self._daemon.alive()

    def start(self) -> None:
        """Start the broker and wait until AMQP and the management API answer; data of an earlier start is kept."""
        self._daemon.start()
        wait_for("RabbitMQ answers", self._answers, timeout=START_SECONDS, needs=[self._daemon], every=0.2)

    def stop(self) -> None:
        """End the broker in good order."""
        broker = self._broker()
        if broker is not None:
            broker.end(patience=30.0)
        self._daemon.stop(number=0, patience=10.0)

    def kill(self) -> None:
        """End the broker with SIGKILL.

        What was confirmed is there after the next start, with one exception of RabbitMQ's own: its directory of
        quorum queues is written to disk only about once a second, and one declared just before is dead for good.
        """
        broker = self._broker()
        if broker is not None:
            # The first process of the namespace: the kernel ends all the others with it, before it is gone itself.
            broker.end(number=signal.SIGKILL)
        self._daemon.stop(number=0, patience=10.0)

    def restart(self) -> None:
        """Stop the broker and start it again on its data."""
        self.stop()
        self.start()

    def replace(self) -> None:
        """Stop the broker and start a new one in its place, with the same administrator and nothing in it."""
        self.stop()
        for folder in ("mnesia", "log"):
            shutil.rmtree(self.folder / "home" / folder, ignore_errors=True)
        self.start()

    def pause(self) -> None:
        """Freeze the broker: connections stay, nothing answers. Undo with `resume()`."""
        self._running_broker().send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen broker go on."""
        self._running_broker().send(signal.SIGCONT)

    def reset(self) -> None:
        """Remove every connection, queue, exchange, policy, user and virtual host that a test has made."""
        for connection in self.api("GET", "/api/connections"):
            self.api("DELETE", f"/api/connections/{quote(connection['name'], safe='')}", missing_ok=True)
        for vhost in self.api("GET", "/api/vhosts"):
            if vhost["name"] != "/":
                self.api("DELETE", f"/api/vhosts/{quote(vhost['name'], safe='')}")
        for user in self.api("GET", "/api/users"):
            if user["name"] != self.user:
                self.api("DELETE", f"/api/users/{quote(user['name'], safe='')}")
        for kind in ("policies", "operator-policies", "parameters/shovel"):
            for item in self.api("GET", f"/api/{kind}", missing_ok=True) or []:
                self.api("DELETE", f"/api/{kind}/%2F/{quote(item['name'], safe='')}")
        for queue in self.api("GET", "/api/queues/%2F?disable_stats=true&enable_queue_totals=true"):
            self.api("DELETE", f"/api/queues/%2F/{quote(queue['name'], safe='')}", missing_ok=True)
        for exchange in self.api("GET", "/api/exchanges/%2F"):
            if exchange["name"] not in BUILT_IN_EXCHANGES:
                self.api("DELETE", f"/api/exchanges/%2F/{quote(exchange['name'], safe='')}", missing_ok=True)

    def processes(self) -> list[int]:
        """Return the pids of everything that runs in the broker's process namespace."""
        mine = Path(f"/proc/{self._running_broker().pid}/ns/pid").readlink()
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _namespace(folder) == mine]

    def api(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """Call the management API as the administrator.

        Parameters
        ----------
        path
            From `/api/` on, already quoted.
        body
            Sent as JSON; None for no body.
        missing_ok
            Return None instead of raising when the answer is 404.

        Returns
        -------
        Any
            The decoded JSON, None where the answer has no body.
        """
        status, answer = self._request(method, path, body)
        if status == 404 and missing_ok:
            return None
        if status >= 400:
            raise ClusterError(f"RabbitMQ: {method} {path} → {status} {answer[:300]!r}")
        return json.loads(answer) if answer else None

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl inside the broker's namespaces (1 to 2 seconds) and return what it prints."""
        command = f"cd / && exec rabbitmqctl --node {self.node} {shlex.join(arguments)}"
        inside = ["chroot", str(self._root), *AS_RABBITMQ, *self._environment(), "sh", "-c", command]
        return run(["nsenter", "--target", str(self._running_broker().pid), "--mount", "--pid", *inside])

    def close(self) -> None:
        """Kill the broker and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _rabbitmq_ids(self) -> tuple[int, int]:
        for line in (self._root / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == "rabbitmq":
                return int(uid), int(gid)
        raise ClusterError(f"{self._root} has no user rabbitmq")

    def _prepare(self) -> None:
        home = self.folder / "home"
        home.mkdir()
        (home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp_port}\n"
            f"management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.management_port}\n"
            # Counters every second, so that tests that wait for one don't wait long.
            "collect_statistics_interval = 1000\n"
            "management.rates_mode = basic\n"
            f"default_user = {self.user}\n"
            f"default_pass = {self.password}\n"
            "vm_memory_high_watermark.absolute = 2GiB\n"
            "disk_free_limit.absolute = 100MB\n"
            "log.console = true\n"
            "log.console.level = info\n"
            "log.file = false\n"
        )
        (home / "enabled_plugins").write_text("[rabbitmq_management].\n")
        for file in (home, *home.iterdir()):
            os.chown(file, self._uid, self._gid)
        (home / "rabbitmq.conf").chmod(0o600)

    def _environment(self) -> list[str]:
        variables = {
            "HOME": HOME,
            "PATH": "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": f"{HOME}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{HOME}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{HOME}/mnesia",
            "RABBITMQ_LOG_BASE": f"{HOME}/log",
            # Without a shell script in between that would answer SIGTERM with a slow rabbitmqctl.
            "RABBITMQ_ALLOW_INPUT": "1",
            # Schedulers that spin while idle would take a core from everybody else's tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        return ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]

    def _argv(self) -> list[str]:
        root = shlex.quote(str(self._root))
        # Changing the user clears the death signal that `unshare --kill-child` has set: it is set anew after it.
        start = shlex.join(["chroot", str(self._root), *AS_RABBITMQ, "--pdeathsig=KILL", *self._environment()])
        script = (
            f"set -e; mount --bind {shlex.quote(str(self.folder / 'home'))} {root}{HOME}; "
            f"mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc; "
            f"mount --bind /etc/hosts {root}/etc/hosts; "
            f"exec {start} sh -c 'cd {HOME} && exec $(ls -d /usr/lib/rabbitmq/lib/*/sbin)/rabbitmq-server'"
        )
        # A process namespace takes epmd and every helper with it when its first process ends; the mounts, private to
        # the mount namespace, go with them.
        return [
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
            *("sh", "-c", script),
        ]

    def _broker(self) -> Identity | None:
        """The Erlang machine: the only child of the program that made its namespaces; None when it doesn't run."""
        identity = self._daemon.identity
        if identity is None or not identity.alive():
            return None
        children = Path(f"/proc/{identity.pid}/task/{identity.pid}/children").read_text().split()
        return Identity.of(int(children[0])) if children else None

    def _running_broker(self) -> Identity:
        broker = self._broker()
        if broker is None:
            raise ClusterError("RabbitMQ isn't running")
        return broker

    def _answers(self) -> bool:
        try:
            status, _ = self._request("GET", "/api/health/checks/port-listener/" + str(self.amqp_port), None)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def _request(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=30)
        try:
            credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _namespace(process: Path) -> Path | None:
    try:
        return (process / "ns/pid").readlink()
    except OSError:
        return None
