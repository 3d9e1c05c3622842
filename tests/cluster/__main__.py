"""The command line: `python -m tests.cluster <command>`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import backends, binaries, paths
from tests.cluster.apiserver import ApiServer
from tests.cluster.errors import ClusterError
from tests.cluster.postgres import Postgres
from tests.cluster.prepare import prepare
from tests.cluster.progress import duration, say
from tests.cluster.rabbitmq import RabbitMQ

LINKED = ("kubectl", "helm")
Arguments = argparse.Namespace


def up(arguments: Arguments) -> int:
    """Bring the cluster up; says so fast when it is up already."""
    cluster = backends.choose(arguments.backend)
    if cluster.health().well:
        say("up already")
    cluster.up()
    cluster.keep()
    print(f"export KUBECONFIG={cluster.kubeconfig}\nexport PATH={paths.BUILD / 'bin'}:$PATH")
    return 0


def down(arguments: Arguments) -> int:
    """Take the cluster down; nothing of it stays but the cache."""
    backends.choose(arguments.backend).down()
    return 0


def status(arguments: Arguments) -> int:
    """Say how the cluster is; the exit code is 0 when it is well, 3 when it isn't there, 1 otherwise."""
    cluster = backends.choose(arguments.backend)
    health = cluster.health()
    if not health.exists:
        print(f"{cluster.backend}: not there")
        return 3
    print(f"{cluster.backend}: {'well' if health.well else '; '.join(health.problems)}")
    for line in health.details:
        print(f"  {line}")
    return 0 if health.well else 1


def build(arguments: Arguments) -> int:
    """Build programs and images into the cache; without names everything that the cluster itself needs."""
    started = time.monotonic()
    names = arguments.names
    programs = [name for name in names if name in binaries.every_name()]
    others = [name for name in names if name not in programs]
    if not names:
        programs, others = binaries.native_names(), ["pause", "coredns", "rabbitmq", "maestro"]
    files, built = prepare(programs, others)
    for name, file in files.items():
        print(name, file)
    for image in built:
        print(image.reference, image.archive)
    binaries.link([name for name in LINKED if name in programs], paths.BUILD / "bin")
    say(f"built in {duration(time.monotonic() - started)}")
    return 0


def load(arguments: Arguments) -> int:
    """Build images where needed and load them where the node lacks them."""
    cluster = backends.choose(arguments.backend)
    for name in arguments.names:
        print(cluster.load_image(name))
    return 0


def restart(arguments: Arguments) -> int:
    """End one of Kubernetes' programs and start it again."""
    backends.choose(arguments.backend).restart_component(arguments.component, kill=arguments.kill)
    return 0


def netns(arguments: Arguments) -> int:
    """Run a program in a pod's network namespace."""
    cluster = backends.choose(arguments.backend)
    print(cluster.in_pod_network(arguments.namespace, arguments.pod, *arguments.argv), end="")
    return 0


def serve_apiserver(_: Arguments) -> int:
    """Run an API server with the project's CRDs until Ctrl-C."""
    with ApiServer() as server:
        print(f"kubeconfig  {server.kubeconfig}")
        print(f"audit log   {server.audit_log}")
        return _until_interrupted(server.folder)


def serve_rabbitmq(_: Arguments) -> int:
    """Run a RabbitMQ until Ctrl-C."""
    with RabbitMQ() as broker:
        print(f"amqp        {broker.amqp_url}")
        print(f"management  {broker.management_url}  ({broker.user} / {broker.password})")
        return _until_interrupted(broker.log)


def serve_postgres(_: Arguments) -> int:
    """Run a PostgreSQL until Ctrl-C."""
    with Postgres() as server:
        database = server.create_database("hand")
        print(f"sqlalchemy  {server.url(database)}")
        print(f"psql        {server.url(database, 'postgresql')}")
        return _until_interrupted(server.log)


def _until_interrupted(log: Path) -> int:
    print(f"log         {log}\nCtrl-C ends it and removes its data", flush=True)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="The Kubernetes of tests and demo.")
    parser.add_argument("--backend", choices=["native", "kind", "existing"], help=f"instead of {backends.VARIABLE}")
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(name: str, function: Callable[[Arguments], int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        added.set_defaults(function=function)
        return added

    command("up", up)
    command("down", down)
    command("status", status)
    command("build", build).add_argument("names", nargs="*", help="programs and images")
    command("load", load).add_argument("names", nargs="+", help="images, folders with a Dockerfile, .tar files")
    restarting = command("restart", restart)
    restarting.add_argument("component", help="kube-apiserver, etcd, kubelet, …")
    restarting.add_argument("--kill", action="store_true", help="with SIGKILL, as a crash would")
    inside = command("netns", netns)
    inside.add_argument("namespace")
    inside.add_argument("pod")
    inside.add_argument("argv", nargs=argparse.REMAINDER, help="the program")
    command("apiserver", serve_apiserver)
    command("rabbitmq", serve_rabbitmq)
    command("postgres", serve_postgres)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.function(arguments))
    except ClusterError as error:
        print(f"maestro-cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
