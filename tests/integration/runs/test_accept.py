"""Accepting: lists, idempotency keys, the limit of what waits, retries of ended Runs."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.integration.runs.world import World

from maestro.runs.errors import (
    Backlog,
    IdempotencyConflict,
    InvalidRun,
    NeverFits,
    NotEnded,
    UnknownAutomation,
    UnknownRun,
)
from maestro.runs.model import NewRun


def test_ids_rise_with_acceptance(store: World) -> None:
    runs = store.accept(store.automation(), 50)
    assert sorted(runs) == runs
    assert {run.version for run in runs} == {7}


def test_a_known_key_gives_the_same_run(store: World) -> None:
    automation, other = store.automation(), store.automation()
    (first,) = store.accept_all([NewRun(automation, idempotency_key="k", body_hash=b"1")])
    (again,) = store.accept_all([NewRun(automation, idempotency_key="k", body_hash=b"1")])
    assert (again.id, first.replayed, again.replayed) == (first.id, False, True)
    (elsewhere,) = store.accept_all([NewRun(other, idempotency_key="k", body_hash=b"1")])
    assert elsewhere.id != first.id


def test_a_known_key_with_another_body_refuses_the_whole_list(store: World) -> None:
    automation = store.automation()
    store.accept_all([NewRun(automation, idempotency_key="k", body_hash=b"1")])
    with pytest.raises(IdempotencyConflict):
        store.accept_all([NewRun(automation), NewRun(automation, idempotency_key="k", body_hash=b"2")])
    assert store.do(store.store.counts())[automation].pending == 1


def test_a_key_twice_in_one_list(store: World) -> None:
    automation = store.automation()
    first, second = store.accept_all([NewRun(automation, idempotency_key="k", body_hash=b"1")] * 2)
    assert (first.id, first.replayed, second.replayed) == (second.id, False, True)


def test_a_key_is_forgotten_after_a_day(store: World) -> None:
    automation = store.automation()
    (first,) = store.accept_all([NewRun(automation, idempotency_key="k", body_hash=b"1")])
    store.advance(24 * 3600 + 1)
    (second,) = store.accept_all([NewRun(automation, idempotency_key="k", body_hash=b"2")])
    assert first.id != second.id


def test_concurrent_requests_with_one_key_make_one_run(store: World) -> None:
    automation = store.automation()
    second = store.open()
    requests = [
        place.accept([NewRun(automation, idempotency_key=f"k{n % 5}", body_hash=b"1")])
        for n in range(40)
        for place in (store.store, second)
    ]
    answers = [answer[0] for answer in store.together(*requests)]
    assert len({answer.id for answer in answers}) == 5
    assert sum(not answer.replayed for answer in answers) == 5
    assert store.do(store.store.counts())[automation].pending == 5
    store.do(second.close())


def test_a_refused_request_does_not_keep_its_key(store: World) -> None:
    automation = store.automation(max_pending=1)
    keyed = NewRun(automation, idempotency_key="k", body_hash=b"1")
    store.accept(automation)
    with pytest.raises(Backlog) as refused:
        store.accept_all([keyed])
    assert refused.value.retry_after > 0
    store.claim(automation)
    store.finish_all(automation)
    assert store.accept_all([keyed])[0].replayed is False


def test_too_many_waiting_refuses_the_whole_list(store: World) -> None:
    automation = store.automation(max_pending=10)
    store.accept(automation, 8)
    with pytest.raises(Backlog, match=r"3 Runs of .* sent while 8 wait; run.maxPending allows 10 to wait") as refused:
        store.accept(automation, 3)
    assert (refused.value.sent, refused.value.waiting, refused.value.limit) == (3, 8, 10)
    assert store.do(store.store.counts())[automation].waiting == 8
    store.accept(automation, 2)
    with pytest.raises(Backlog):
        store.accept(automation)


def test_a_list_longer_than_what_may_wait_never_fits(store: World) -> None:
    automation = store.automation(max_pending=2)
    with pytest.raises(NeverFits, match=r"3 Runs of .* sent at once, but run.maxPending allows 2"):
        store.accept(automation, 3)
    assert len(store.accept(automation, 2)) == 2


def test_one_refusal_does_not_touch_the_others_of_its_transaction(store: World) -> None:
    automation, full = store.automation(), store.automation(max_pending=1)
    store.accept(full)
    answers = store.together(
        store.store.accept([NewRun(automation)]),
        store.store.accept([NewRun(full)]),
        store.store.accept([NewRun(999_999)]),
        store.store.accept([NewRun(automation), NewRun(full)]),
        store.store.accept([NewRun(automation)]),
    )
    assert [type(answer) for answer in answers] == [list, Backlog, UnknownAutomation, Backlog, list]
    assert store.do(store.store.counts())[automation].pending == 2


def test_many_callers_share_transactions(store: World) -> None:
    automation = store.automation()
    answers = store.together(*(store.store.accept([NewRun(automation, {"n": n})]) for n in range(500)))
    assert len({answer[0].id for answer in answers}) == 500
    for n in (0, 250, 499):
        assert store.get(answers[n][0].id).parameters == {"n": n}


def test_words_that_are_no_text_are_kept_as_far_as_they_go(store: World) -> None:
    odd = "a\0b\ud800c\N{SNOWMAN}"
    automation = store.automation()
    run = store.running(automation, parameters={"p": odd}, user=odd, reference=odd, labels={"l": odd}, fairness_key=odd)
    store.log(run, odd)
    store.heartbeat(run, text=odd)
    store.finish(run, "failed", kind="business", message=odd, error_class=odd, result={"r": odd})
    view = store.get(run)
    assert (view.parameters, view.result) == ({"p": odd}, {"r": odd})
    texts = {view.user, view.reference, view.message, view.error_class, view.labels["l"]}
    assert texts == {"a\N{REPLACEMENT CHARACTER}b?c\N{SNOWMAN}"}
    assert store.do(store.store.logs(run))[0].message.startswith("a\N{REPLACEMENT CHARACTER}b")


def test_a_priority_out_of_range(store: World) -> None:
    with pytest.raises(InvalidRun, match="priority: must be from -1000 to 1000"):
        store.accept(store.automation(), priority=1001)


def test_an_empty_list(store: World) -> None:
    assert store.accept_all([]) == []


def test_a_retry_is_a_linked_copy(store: World) -> None:
    automation = store.automation()
    run = store.running(automation, parameters={"a": 1}, labels={"x": "y"}, reference="R", user="ana")
    with pytest.raises(NotEnded):
        store.do(store.store.retry(run, by="bob"))
    store.finish(run, "failed", kind="business")
    copy = store.get(store.do(store.store.retry(run, by="bob")).id)
    assert (copy.copy_of, copy.parameters, copy.labels, copy.reference, copy.user) == (
        run,
        {"a": 1},
        {"x": "y"},
        "R",
        "bob",
    )
    with pytest.raises(UnknownRun):
        store.do(store.store.retry(uuid4(), by="bob"))


def test_work_is_announced(store: World) -> None:
    heard: list[frozenset[int]] = []
    store.store.on_work(heard.append)
    automation = store.automation(ordering_key=("k",))
    heard.clear()
    store.accept(automation, parameters={"k": 1})
    assert heard == [frozenset({automation})]
    store.accept(automation, parameters={"k": 1})
    assert len(heard) == 1, "the second of its key isn't claimable"
    store.claim(automation)
    store.finish_all(automation)
    assert heard[-1] == frozenset({automation})
