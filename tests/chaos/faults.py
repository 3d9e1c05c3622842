"""The faults, each a thing that happens to a real process, pod or network, and is healed after a while."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.world import LEASE_SECONDS, World
from tests.cluster.errors import ClusterError, CommandError
from tests.e2e.installation import NAMESPACE

Say = Callable[[str], None]
AMQP, MANAGEMENT, API = 5672, 15672, 8080


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `strike` returns what was hit, None where there was nothing to hit just then."""

    name: str
    strike: Callable[[World, random.Random], str | None]
    stores: tuple[str, ...] = ("sqlite", "postgresql")


def _kill(world: World, namespace: str, pods: list[str], dice: random.Random) -> str | None:
    if not pods:
        return None
    pod = dice.choice(sorted(pods))
    for pid in world.cluster.pod_processes(namespace, pod):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pod


def _kill_worker(world: World, dice: random.Random) -> str | None:
    return _kill(world, world.namespace, world.workers(), dice)


def _kill_component(name: str) -> Callable[[World, random.Random], str | None]:
    return lambda world, dice: _kill(world, NAMESPACE, world.component(name), dice)


def _restart_api_server(world: World, dice: random.Random) -> str | None:
    world.cluster.restart_component("kube-apiserver", kill=dice.random() < 0.5)
    return "kube-apiserver"


def _freeze_worker(world: World, dice: random.Random) -> str | None:
    """Past its lease: others take its Runs, then it goes on as if nothing had been."""
    pods = world.workers()
    if not pods:
        return None
    pod = dice.choice(sorted(pods))
    pids = world.cluster.pod_processes(world.namespace, pod)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(LEASE_SECONDS + dice.uniform(3, 12))
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    return pod


def _partition(
    pods: Callable[[World], tuple[str, list[str]]], ports: tuple[int, ...]
) -> Callable[[World, random.Random], str | None]:
    """Drop what a pod sends to these ports, and what comes back, for a while."""

    def strike(world: World, dice: random.Random) -> str | None:
        namespace, names = pods(world)
        if not names:
            return None
        pod = dice.choice(sorted(names))
        wanted = "{ " + ", ".join(map(str, ports)) + " }"
        inside = ("nft", "-f", "/dev/stdin")
        rules = (
            "table inet chaos {\n"
            f" chain out {{ type filter hook output priority 0; tcp dport {wanted} drop; }}\n"
            f" chain in {{ type filter hook input priority 0; tcp sport {wanted} drop; }}\n"
            "}\n"
        )
        network = world.cluster.pod_network(namespace, pod)
        network(*inside, stdin=rules)
        try:
            time.sleep(dice.uniform(8, 25))
        finally:
            # A pod that was killed meanwhile took its network, and the rules, with it.
            with contextlib.suppress(CommandError, ClusterError):
                network("nft", "delete", "table", "inet", "chaos")
        return pod

    return strike


def _some_worker(world: World) -> tuple[str, list[str]]:
    return world.namespace, world.workers()


def _controller(world: World) -> tuple[str, list[str]]:
    return NAMESPACE, world.component("controller")


FAULTS = (
    Fault("SIGKILL of a worker", _kill_worker),
    Fault("SIGKILL of the controller", _kill_component("controller")),
    Fault("SIGKILL of an API pod", _kill_component("api"), ("postgresql",)),
    Fault("SIGKILL of RabbitMQ", _kill_component("rabbitmq")),
    Fault("restart of the API server", _restart_api_server),
    Fault("partition worker-broker", _partition(_some_worker, (AMQP,))),
    Fault("partition worker-API", _partition(_some_worker, (API,))),
    Fault("partition controller-broker", _partition(_controller, (AMQP, MANAGEMENT))),
    Fault("SIGSTOP of a worker past its lease", _freeze_worker),
)


def strike_all(world: World, dice: random.Random, times: int, say: Say) -> dict[str, int]:
    """Every fault so many times, in a random order, with random pauses; the next may come before one is healed.

    Returns how often each has hit. Raises what a fault raised.
    """
    order = [fault for fault in FAULTS if world.store in fault.stores for _ in range(times)]
    dice.shuffle(order)
    hits = {fault.name: 0 for fault in order}
    errors: list[BaseException] = []
    busy: dict[str, threading.Thread] = {}

    def run(fault: Fault, own: random.Random) -> None:
        try:
            deadline = time.monotonic() + 90
            while (hit := fault.strike(world, own)) is None:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{fault.name}: nothing to hit for 90 s")
                time.sleep(0.5)
            hits[fault.name] += 1
            say(f"{fault.name}: {hit}")
        except BaseException as error:
            errors.append(error)

    for fault in order:
        if fault.name in busy:
            busy[fault.name].join()  # one of a kind at a time
        thread = threading.Thread(target=run, args=(fault, random.Random(dice.random())), name=fault.name)
        busy[fault.name] = thread
        thread.start()
        time.sleep(dice.uniform(3, 9))
        if errors:
            break
    for thread in busy.values():
        thread.join()
    if errors:
        raise errors[0]
    return hits
