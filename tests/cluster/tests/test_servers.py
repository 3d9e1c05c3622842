"""The single servers: what tests of the rest of the project rely on."""

from __future__ import annotations

import pika
import pytest
from tests.cluster.apiserver import ApiServer
from tests.cluster.errors import CommandError
from tests.cluster.postgres import Postgres
from tests.cluster.process import Identity
from tests.cluster.rabbitmq import RabbitMQ


def channel(broker: RabbitMQ) -> pika.adapters.blocking_connection.BlockingChannel:
    """A channel on a connection of its own, with confirms."""
    opened = pika.BlockingConnection(pika.URLParameters(broker.amqp_url)).channel()
    opened.confirm_delivery()
    return opened


@pytest.fixture
def broker() -> RabbitMQ:
    """A broker that the test may kill."""
    with RabbitMQ() as own:
        yield own


def test_rabbitmq_is_4_keeps_what_was_confirmed_and_can_be_emptied(broker: RabbitMQ) -> None:
    assert broker.api("GET", "/api/overview")["rabbitmq_version"].startswith("4.")
    channel(broker).queue_declare("kept", durable=True)
    # What was declared a moment before a kill may be gone with it: the definitions reach the disk at leisure.
    broker.restart()
    channel(broker).basic_publish("", "kept", b"x", pika.BasicProperties(delivery_mode=2))

    broker.kill()
    assert not broker.alive()
    broker.start()

    assert channel(broker).basic_get("kept", auto_ack=True)[2] == b"x"
    broker.api("PUT", "/api/users/someone", {"password_hash": "", "tags": ""})
    broker.api("PUT", "/api/vhosts/elsewhere")
    broker.api("PUT", "/api/policies/%2F/limit", {"pattern": ".*", "definition": {"max-length": 5}})
    channel(broker).exchange_declare("events", "topic")
    broker.reset()

    assert broker.api("GET", "/api/queues") == []
    assert broker.api("GET", "/api/policies") == []
    assert [user["name"] for user in broker.api("GET", "/api/users")] == [broker.user]
    assert [vhost["name"] for vhost in broker.api("GET", "/api/vhosts")] == ["/"]
    assert "events" not in {exchange["name"] for exchange in broker.api("GET", "/api/exchanges")}
    assert broker.user in broker.rabbitmqctl("list_users")


def test_rabbitmq_leaves_no_process_and_no_folder() -> None:
    with RabbitMQ() as broker:
        folder = broker.folder
        inside = broker.processes()
        assert len(inside) > 1, "the Erlang machine and its port mapper"

    assert not folder.exists()
    assert not [pid for pid in inside if Identity.of(pid)]


def test_postgres_gives_each_test_a_database_and_survives_a_kill(postgres: Postgres) -> None:
    with postgres.database() as first, postgres.database() as second:
        assert first != second
        name = first.rpartition("/")[2]
        postgres.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (7)", name)
        postgres.kill()
        assert not postgres.alive()
        postgres.start()
        assert postgres.sql("SELECT n FROM t", name).strip() == "7"

    assert name not in postgres.sql("SELECT datname FROM pg_database")


def test_the_api_server_has_the_crds_and_says_who_wrote_what(apiserver: ApiServer) -> None:
    log = apiserver.audit()
    with apiserver.namespace() as namespace:
        apiserver.kubectl("create", "configmap", "seen", "-n", namespace, "--as=alice", "--as-group=system:masters")
        apiserver.kubectl("get", "configmap", "seen", "-n", namespace)

        writes = [r for r in log.requests(user="alice", writes=True) if r.namespace == namespace]
        assert [(r.verb, r.resource, r.name, r.status) for r in writes] == [("create", "configmaps", "seen", 201)]
        assert any(r.verb == "get" and r.name == "seen" for r in log.requests(user="admin", writes=False))
        log.mark()
        assert not log.requests(user="alice")
    assert "automations.maestro-operator.io" in apiserver.kubectl("get", "crds")


def test_another_user_has_no_rights_but_those_that_are_bound(apiserver: ApiServer) -> None:
    kubeconfig = apiserver.kubeconfig_for("bob", "team")

    with pytest.raises(CommandError, match='User "bob" cannot list resource "secrets"'):
        apiserver.kubectl("get", "secrets", "--kubeconfig", str(kubeconfig))
