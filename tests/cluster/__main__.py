"""The command line: `python -m tests.cluster <command>`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable

from tests.cluster.apiserver import ApiServer
from tests.cluster.errors import ClusterError
from tests.cluster.postgres import Postgres
from tests.cluster.rabbitmq import RabbitMQ


def serve_rabbitmq(_: argparse.Namespace) -> None:
    """Run a RabbitMQ until Ctrl-C."""
    with RabbitMQ() as broker:
        print(f"amqp        {broker.amqp_url}")
        print(f"management  {broker.management_url}  ({broker.user} / {broker.password})")
        until_interrupted(broker.log)


def serve_postgres(_: argparse.Namespace) -> None:
    """Run a PostgreSQL until Ctrl-C."""
    with Postgres() as server:
        database = server.create_database("hand")
        print(f"sqlalchemy  {server.url(database)}")
        print(f"psql        {server.url(database, 'postgresql')}")
        until_interrupted(server.log)


def serve_apiserver(_: argparse.Namespace) -> None:
    """Run an API server with the project's CRDs until Ctrl-C."""
    with ApiServer() as server:
        print(f"kubeconfig  {server.kubeconfig}")
        print(f"audit log   {server.audit_log}")
        until_interrupted(server.folder)


def until_interrupted(log: object) -> None:
    """Sleep until SIGINT or SIGTERM."""
    print(f"log         {log}\nCtrl-C ends it and removes its data", flush=True)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "apiserver": serve_apiserver,
    "rabbitmq": serve_rabbitmq,
    "postgres": serve_postgres,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        commands.add_parser(name, help=function.__doc__)
    arguments = parser.parse_args(argv)
    try:
        COMMANDS[arguments.command](arguments)
    except ClusterError as error:
        print(f"maestro-cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
