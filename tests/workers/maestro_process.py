"""Maestro without Kubernetes, as a process of its own: run store, dispatcher and HTTP API, all real.

    python -m tests.workers.maestro_process <configuration file>

The configuration is JSON: `store` (URL), `broker` (AMQP URL), `port`, `api_key_file`, `automations` (a list of fields
of `Registration`, `policy` with those of `RunPolicy`), `grace` (seconds after which it looks for what a queue lost;
absent: the product's own). What Kubernetes would answer is answered here; see `Cluster`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pika
import uvicorn
import uvloop
from tests.integration.http.objects import MemoryObjects

from maestro.app import SWITCH_SECONDS
from maestro.broker.consumer import Consumer
from maestro.broker.publisher import Publisher
from maestro.broker.topology import DEAD_LETTER_QUEUE
from maestro.http.app import Services, create_app
from maestro.http.auth import POD_NAME, POD_UID, ApiKey, Authenticator, Owner
from maestro.http.directory import Version
from maestro.http.objects import Objects
from maestro.http.server import server_config
from maestro.resources import Automation
from maestro.runs.collector import DeadLetterCollector
from maestro.runs.deadletters import DeadLetters
from maestro.runs.dispatcher import Dispatcher
from maestro.runs.model import Registration, RunPolicy
from maestro.runs.repair import GRACE_SECONDS
from maestro.runs.store import RunStore
from maestro.runtime.tasks import run_until
from maestro.settings import Settings


class Cluster:
    """What Kubernetes would say.

    The token `pod.<automation>.<number>` is that of a pod of this Automation in the namespace `team`; any other is a
    person's, who may do everything.
    """

    def __init__(self, registrations: Iterable[Registration]) -> None:
        self._uids = {each.id: each.uid for each in registrations}

    async def token_review(self, token: str, audiences: tuple[str, ...] = ()) -> dict[str, Any]:
        of_pod = token.startswith("pod.")
        user: dict[str, Any] = {"username": token, "uid": token}
        if of_pod:
            user["username"] = "system:serviceaccount:team:worker"
            user["extra"] = {POD_NAME: [token], POD_UID: [f"uid-of-{token}"]}
        return {"status": {"authenticated": of_pod == bool(audiences), "user": user, "audiences": list(audiences)}}

    async def subject_access_review(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {"status": {"allowed": True}}

    async def automation_of(self, namespace: str, pod: str, pod_uid: str) -> Owner | None:
        automation_id = f"{namespace}.{pod.split('.')[1]}"
        uid = self._uids.get(automation_id)
        return None if uid is None else Owner(uid, automation_id)


class Catalog:
    """The Automations of the configuration."""

    synced = True

    def __init__(self, registrations: Iterable[Registration]) -> None:
        self._versions = {each.id: Version(each.uid, each.generation) for each in registrations}

    def version(self, automation_id: str) -> Version | None:
        return self._versions.get(automation_id)

    def get(self, automation_id: str) -> Automation | None:
        return None

    def all(self) -> Iterable[Automation]:
        return []


def registration(fields: dict[str, Any]) -> Registration:
    """A registration from its JSON."""
    policy = dict(fields.pop("policy", {}))
    if "ordering_key" in policy:
        policy["ordering_key"] = tuple(policy["ordering_key"])
    return Registration(**fields, policy=RunPolicy(**policy))


async def serve(configuration: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    registrations = [registration(fields) for fields in configuration["automations"]]
    store = RunStore.open(configuration["store"])
    for each in registrations:
        await store.register(each)
    cluster = Cluster(registrations)
    key = ApiKey(Path(configuration["api_key_file"]))
    authenticator = Authenticator(cluster, cluster, audience="maestro", api_key=key)
    broker = pika.URLParameters(configuration["broker"])
    publisher, consumer = Publisher(broker), Consumer(broker, DEAD_LETTER_QUEUE)
    grace = configuration.get("grace", GRACE_SECONDS)
    dispatcher = Dispatcher(store, publisher, poll_seconds=0.2, grace_seconds=grace, repair_seconds=min(grace, 15.0))
    collector = DeadLetterCollector(DeadLetters(store), consumer, lambda: dispatcher.leadership)
    publisher.start()
    consumer.start()
    stop = asyncio.Event()
    services = Services(
        store,
        Catalog(registrations),
        authenticator,
        Objects(MemoryObjects()),
        Settings(namespace="team"),
        stopping=stop,
    )
    server = uvicorn.Server(server_config(create_app(services), "127.0.0.1", configuration["port"]))
    loop = asyncio.get_running_loop()
    dispatching = asyncio.create_task(run_until(stop, dispatcher.run(stop), collector.run(stop), grace=5.0))
    serving = asyncio.create_task(server.serve())
    # uvicorn takes the signals while it serves; its end is the end of all
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.wait([dispatching, serving], return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    server.should_exit = True
    await asyncio.gather(dispatching, serving)
    await asyncio.gather(asyncio.to_thread(consumer.stop), asyncio.to_thread(publisher.stop))
    await store.close()


if __name__ == "__main__":
    uvloop.run(serve(json.loads(Path(sys.argv[1]).read_text())))
