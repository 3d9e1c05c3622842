"""Topology: what is wished for, and how what is there differs."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro.broker import topology
from maestro.broker.passwords import HASHING_ALGORITHM, hash_password, matches
from maestro.broker.topology import (
    DEAD_LETTER_QUEUE,
    BrokerState,
    Change,
    Permission,
    Policy,
    Queue,
    QueueClaim,
    QueueState,
    Topology,
    User,
    UserState,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NIGHTLY = QueueClaim("shop", "nightly", "maestro.shop.nightly", longest=14430.0)
OLDER = QueueClaim("shop", "older", "invoices.eu", type="classic", arguments={"x-dead-letter-exchange": "maestro.dlx"})


def declared(name: str = NIGHTLY.queue, **changes: Any) -> QueueState:
    there = QueueState(
        name=name,
        type="quorum",
        durable=True,
        auto_delete=False,
        exclusive=False,
        arguments={"x-queue-type": "quorum"},
        policy=topology.WORK_POLICY,
        state="running",
        messages=0,
        ready=0,
        unacknowledged=0,
        consumers=0,
    )
    return replace(there, **changes)


def state_of(*wanted: Topology, **changes: Any) -> BrokerState:
    """A broker in which everything is as wished."""
    queues = {q.name: declared(q.name, arguments=dict(q.arguments)) for w in wanted for q in w.queues}
    users = {
        u.name: UserState(u.name, hash_password(u.password), HASHING_ALGORITHM, u.tags) for w in wanted for u in w.users
    }
    there = BrokerState(
        at=NOW,
        version=(4, 0),
        uptime=1000.0,
        queues=queues,
        exchanges={e.name: e for w in wanted for e in w.exchanges},
        bindings=frozenset(b for w in wanted for b in w.bindings),
        policies={p.name: p for w in wanted for p in w.policies},
        users=users,
        permissions={p.user: p for w in wanted for p in w.permissions},
    )
    return replace(there, **changes)


def said(changes: list[Change]) -> list[str]:
    return [change.what for change in changes]


BASE = topology.base([NIGHTLY, OLDER], (4, 0))
MINE = topology.for_automation(NIGHTLY, "maestro.shop.nightly.a", "secret")


# --- names -----------------------------------------------------------------------------------------------------------


def test_two_user_names_for_rotation() -> None:
    first, second = topology.user_name("shop", "nightly"), topology.user_name("shop", "nightly", "b")
    assert (first, second) == ("maestro.shop.nightly.a", "maestro.shop.nightly.b")
    assert (topology.other_slot(first), topology.other_slot(second)) == ("b", "a")
    assert topology.user_owner(first) == topology.user_owner(second) == "shop.nightly"


@pytest.mark.parametrize("name", ["guest", "maestro", "maestro.shop.nightly", "maestro.shop.nightly.c", "x.shop.n.a"])
def test_foreign_users_have_no_owner(name: str) -> None:
    assert topology.user_owner(name) is None


# --- policies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "matched"),
    [
        ("maestro.shop.nightly", True),
        ("maestro.dead-letters.x", True),
        ("maestro.dead-letters", False),
        ("maestro", False),
        ("maestroXshop", False),
        ("invoices.eu", True),
        ("invoicesXeu", False),
        ("invoices.eu.other", False),
        ("my.invoices.eu", False),
    ],
)
def test_the_class_pattern(queue: str, matched: bool) -> None:
    (pattern,) = topology.work_patterns([NIGHTLY.queue, OLDER.queue])
    assert bool(re.search(pattern, queue)) is matched


@given(st.lists(st.text(min_size=1, max_size=40).filter(lambda name: not name.startswith("maestro.")), max_size=5))
def test_claimed_names_match_themselves_only(names: list[str]) -> None:
    patterns = topology.work_patterns(names)
    for name in names:
        assert any(re.search(pattern, name) for pattern in patterns)
        assert not any(re.search(pattern, "x" + name) for pattern in patterns if "x" + name not in names)


def test_many_claimed_names_take_several_policies_in_any_order() -> None:
    claims = [QueueClaim("shop", f"a{i}", f"team-{i}.{'x' * 100}", arguments={}) for i in range(500)]
    policies = topology.work_policies(claims)
    assert policies == topology.work_policies(claims[::-1])
    assert {policy.apply_to for policy in policies} == {"quorum_queues", "classic_queues"}
    assert max(len(policy.pattern) for policy in policies) < 16_000
    assert len({policy.name for policy in policies}) == len(policies)
    for claim in claims:
        hits = [policy for policy in policies if re.search(policy.pattern, claim.queue)]
        assert [policy.apply_to for policy in hits] == ["quorum_queues", "classic_queues"]


def test_quorum_only_keys_stay_out_of_the_classic_policy() -> None:
    quorum, classic = topology.work_policies([NIGHTLY])
    assert quorum.definition == {
        "dead-letter-exchange": "maestro.dlx",
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",
        "delivery-limit": 50,
        "consumer-timeout": 18_000_000,
    }
    assert set(quorum.definition) - set(classic.definition) == {"dead-letter-strategy", "delivery-limit"}


@pytest.mark.parametrize(
    ("longest", "timeout"), [(0.0, 3600.0), (1000.0, 3600.0), (3300.0, 3600.0), (3301.0, 7200.0), (86400.0, 90000.0)]
)
def test_the_consumer_timeout_lies_above_the_longest_run(longest: float, timeout: float) -> None:
    claims = [NIGHTLY, replace(NIGHTLY, name="b", longest=longest)]
    assert topology.consumer_timeout(claims[1:]) == timeout
    assert topology.consumer_timeout(claims) >= timeout


def test_before_4_0_the_dead_letter_queue_has_no_limit_to_lift() -> None:
    assert BASE.policies[0].definition == {"delivery-limit": -1}
    assert "delivery-limit" not in topology.base([], (3, 13)).policies[0].definition
    assert topology.lacking((4, 1)) == topology.lacking((3, 13)) == []
    assert topology.lacking((3, 12)) != []


# --- permissions -----------------------------------------------------------------------------------------------------


def test_permissions_are_the_queue_and_nothing_else() -> None:
    assert topology.permission(NIGHTLY, "u") == Permission("u", "^$", "^$", r"^maestro\.shop\.nightly$")
    assert topology.permission(OLDER, "u") == Permission("u", r"^invoices\.eu$", "^$", r"^invoices\.eu$")


@given(st.text(min_size=1))
def test_escaped_names_match_exactly(name: str) -> None:
    assert re.fullmatch(topology.escape(name), name)
    assert not re.fullmatch(topology.escape(name), name + "x")


# --- differences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (declared(), []),
        (declared(arguments={}), ["x-queue-type: declared absent, wanted 'quorum'"]),
        (
            declared(arguments={"x-queue-type": "classic", "x-max-length": 5}, type="classic"),
            ["x-max-length: declared 5, wanted absent", "x-queue-type: declared 'classic', wanted 'quorum'"],
        ),
        (declared(durable=False), ["durable: declared False, wanted True"]),
        (declared(auto_delete=True), ["auto_delete: declared True, wanted False"]),
        (declared(exclusive=True), ["exclusive: declared True, wanted False"]),
    ],
    ids=["same", "no type", "other type and argument", "transient", "auto-delete", "exclusive"],
)
def test_differences_name_each_argument(there: QueueState, found: list[str]) -> None:
    assert [str(each) for each in topology.differences(there, MINE.queues[0])] == found


def test_the_type_that_the_broker_adds_is_no_difference() -> None:
    wanted = Queue(OLDER.queue, topology.queue_arguments(OLDER))
    there = declared(OLDER.queue, type="classic", arguments={**wanted.arguments, "x-queue-type": "classic"})
    assert topology.differences(there, wanted) == []


def test_a_number_is_no_truth_value() -> None:
    wanted = Queue("q", {"x-single-active-consumer": True})
    there = declared("q", arguments={"x-single-active-consumer": 1})
    assert [each.field for each in topology.differences(there, wanted)] == ["x-single-active-consumer"]


# --- changes ---------------------------------------------------------------------------------------------------------


def test_an_empty_broker_needs_everything_policies_before_queues() -> None:
    found = topology.changes(BrokerState(NOW, (4, 0), 10.0), BASE) + topology.changes(
        BrokerState(NOW, (4, 0), 10.0), MINE
    )
    assert [type(change.target).__name__ for change in found] == [
        *("Exchange", "Policy", "Policy", "Policy", "Queue", "Binding", "Queue", "User", "Permission")
    ]


def test_nothing_to_change() -> None:
    there = state_of(BASE, MINE)
    assert topology.changes(there, BASE) == topology.changes(there, MINE) == []


def test_each_difference_is_one_change() -> None:
    there = state_of(BASE, MINE)
    user = MINE.users[0]
    other = replace(there.users[user.name], password_hash=hash_password("other"))
    md5 = replace(there.users[user.name], hashing_algorithm="rabbit_password_hashing_md5")
    admin = replace(there.users[user.name], tags=("administrator",))
    for changed in (other, md5, admin):
        seen = replace(there, users={user.name: changed})
        assert said(topology.changes(seen, MINE)) == [f"password or tags of user {user.name} differed"]
    wide = replace(there.permissions[user.name], read=".*")
    assert said(topology.changes(replace(there, permissions={user.name: wide}), MINE)) == [
        f"permissions of user {user.name} differed"
    ]
    policy = replace(BASE.policies[1], definition={**BASE.policies[1].definition, "delivery-limit": 3})
    seen = replace(there, policies={**there.policies, policy.name: policy})
    assert said(topology.changes(seen, BASE)) == ["policy maestro-work differed in delivery-limit"]


def test_a_queue_that_exists_is_never_written() -> None:
    there = state_of(BASE, MINE, queues={NIGHTLY.queue: declared(arguments={}), DEAD_LETTER_QUEUE: declared()})
    assert topology.changes(there, MINE) == []


def test_policies_that_are_no_longer_needed_go_and_foreign_ones_stay() -> None:
    extra = replace(BASE.policies[1], name="maestro-work-2")
    foreign = Policy("maestro-workers-of-somebody", "^x", {})
    there = state_of(BASE)
    there = replace(there, policies={**there.policies, extra.name: extra, foreign.name: foreign})
    assert [change.target for change in topology.stale_policies(there, BASE)] == [extra]


def test_a_foreign_policy_in_front_is_named() -> None:
    there = state_of(MINE, queues={NIGHTLY.queue: declared(policy="ha-all")})
    assert topology.overridden(there, MINE) == ["policy ha-all displaces Maestro's on queue maestro.shop.nightly"]
    assert topology.overridden(state_of(MINE), MINE) == []


# --- zombies ---------------------------------------------------------------------------------------------------------


def looks(*messages: int | None, every: float = 10.0, uptime: float = 1000.0) -> list[BrokerState]:
    last = (len(messages) - 1) * every
    return [
        replace(
            state_of(MINE, queues={NIGHTLY.queue: declared(messages=count)}),
            at=NOW + timedelta(seconds=index * every),
            uptime=uptime - last + index * every,
        )
        for index, count in enumerate(messages)
    ]


@pytest.mark.parametrize(
    ("history", "found"),
    [
        (looks(None, None, None, None), True),
        (looks(0, None, None, None, None), True),
        (looks(None, None, None), False),
        (looks(None, None, 3, None, None), False),
        (looks(None, None, None, None, 0), False),
        (looks(None, None, None, None, uptime=20.0), False),
        (looks(None, None, None, None, uptime=30.0), True),
        ([], False),
    ],
    ids=["always", "since a while", "too short", "a count between", "healed", "just booted", "since boot", "no look"],
)
def test_a_queue_that_never_shows_its_count_is_a_zombie(history: list[BrokerState], found: bool) -> None:
    assert topology.zombies(history) == ({NIGHTLY.queue} if found else set())


@pytest.mark.parametrize("changes", [{"type": "classic"}, {"state": "down"}])
def test_only_running_quorum_queues_are_suspect(changes: dict[str, Any]) -> None:
    there = state_of(MINE, queues={NIGHTLY.queue: declared(messages=None, **changes)})
    assert topology.suspects(there) == set()


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_passwords_show_in_no_repr() -> None:
    texts = repr([MINE, state_of(MINE), topology.changes(BrokerState(NOW, (4, 0), 1.0), MINE)])
    assert "secret" not in texts
    assert hash_password("secret")[8:] not in texts


def test_hashes_are_salted_and_match() -> None:
    first, second = hash_password("päss"), hash_password("päss")
    assert first != second
    assert matches("päss", first)
    assert matches("päss", second)
    assert not matches("pass", first)
    assert not matches("päss", "")
    assert not matches("päss", "no base64!")


def test_a_known_hash() -> None:
    # The worked example of RabbitMQ's documentation.
    assert hash_password("test12", bytes.fromhex("908DC60A")) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


def test_definitions_hold_hashes_only() -> None:
    made = topology.definitions([User("admin", "secret", ("administrator",))], "/")
    assert "secret" not in str(made)
    assert matches("secret", made["users"][0]["password_hash"])
