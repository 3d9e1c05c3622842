"""Leader election with a real Lease."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

from tests.cluster.apiserver import ApiServer
from tests.integration.kube.conftest import run

from maestro.kube.client import KubeClient
from maestro.kube.kinds import LEASE
from maestro.kube.lease import lease_connector
from maestro.runtime.leader import LeaderElector, LeaseTimes

TIMES = LeaseTimes(duration=3.0, renew_within=2.0, retry=0.2, request=1.0)


class Contender:
    def __init__(self, apiserver: ApiServer, namespace: str, name: str, times: LeaseTimes = TIMES) -> None:
        self.started = threading.Event()
        self.ended = threading.Event()
        connect = lease_connector(namespace, "maestro", kubeconfig=apiserver.kubeconfig)
        self.elector = LeaderElector(connect, name, self.started.set, times=times, exit=self._exit)

    def _exit(self, code: int) -> None:
        assert code == 1
        self.ended.set()


def edit_lease(apiserver: ApiServer, namespace: str, edit: Callable[[dict[str, object]], None]) -> None:
    async def scenario() -> None:
        client = await KubeClient.connect(apiserver.kubeconfig)
        try:
            lease = await client.get(LEASE, namespace, "maestro")
            edit(lease["spec"])
            await client.patch(LEASE, namespace, "maestro", {"spec": lease["spec"]})
        finally:
            await client.close()

    run(scenario())


def holder(apiserver: ApiServer, namespace: str) -> str:
    return str(apiserver.get("lease", "maestro", "-n", namespace)["spec"].get("holderIdentity", ""))


def test_one_of_two_leads_and_hands_over(apiserver: ApiServer, namespace: str) -> None:
    one, two = (Contender(apiserver, namespace, name) for name in ("one", "two"))
    try:
        one.elector.start()
        assert one.started.wait(30.0)
        two.elector.start()
        assert not two.started.wait(TIMES.duration * 2), "it led beside the other"
        assert one.elector.is_leader
        assert not two.elector.is_leader
        one.elector.stop()
        assert two.started.wait(30.0)
        assert not one.elector.is_leader
        assert holder(apiserver, namespace) == "two"
        assert not one.ended.is_set()
    finally:
        one.elector.stop()
        two.elector.stop()
    assert holder(apiserver, namespace) == ""


def test_a_stolen_lease_ends_the_holder(apiserver: ApiServer, namespace: str) -> None:
    one = Contender(apiserver, namespace, "one")
    try:
        one.elector.start()
        assert one.started.wait(30.0)
        edit_lease(apiserver, namespace, lambda spec: spec.update(holderIdentity="thief"))
        assert one.ended.wait(30.0)
        assert not one.elector.is_leader
    finally:
        one.elector.stop()
    assert holder(apiserver, namespace) == "thief"


def test_who_cannot_renew_ends_before_another_leads(apiserver: ApiServer, namespace: str) -> None:
    one, two = (Contender(apiserver, namespace, name) for name in ("one", "two"))
    try:
        one.elector.start()
        assert one.started.wait(30.0)
        two.elector.start()
        apiserver.pause()
        try:
            assert one.ended.wait(30.0)
            assert not one.elector.is_leader
            assert not two.started.is_set()
        finally:
            apiserver.resume()
        assert two.started.wait(60.0), "the Lease of the dead was never taken"
    finally:
        one.elector.stop()
        two.elector.stop()


def test_a_short_outage_costs_nothing(apiserver: ApiServer, namespace: str) -> None:
    times = LeaseTimes(duration=60.0, renew_within=45.0, retry=0.2, request=1.0)
    one = Contender(apiserver, namespace, "one", times)
    try:
        one.elector.start()
        assert one.started.wait(30.0)
        apiserver.restart()
        assert one.elector.is_leader
        assert not one.ended.is_set()
    finally:
        one.elector.stop()
    assert holder(apiserver, namespace) == ""


def test_the_process_really_ends(apiserver: ApiServer, namespace: str) -> None:
    program = f"""
        import threading, time
        from maestro.kube.lease import lease_connector
        from maestro.runtime.leader import LeaderElector, LeaseTimes
        connect = lease_connector({namespace!r}, "maestro", kubeconfig={str(apiserver.kubeconfig)!r})
        won = threading.Event()
        LeaderElector(connect, "child", won.set, times=LeaseTimes(3.0, 2.0, 0.2, 1.0)).start()
        won.wait()
        print("leading", flush=True)
        while True:
            # A main thread that never gives way in a friendly manner, as a stuck one would.
            sum(range(10_000))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "leading\n"
        edit_lease(apiserver, namespace, lambda spec: spec.update(holderIdentity="thief"))
        assert child.wait(60.0) == 1
    finally:
        child.kill()
        child.wait()
