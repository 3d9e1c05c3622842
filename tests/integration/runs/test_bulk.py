"""Choosing and treating many Runs, and figures about ended ones, on both databases."""

from __future__ import annotations

from tests.integration.runs.test_history import ended
from tests.integration.runs.world import World

from maestro.runs import bulk, figures
from maestro.runs.model import RunFilter, RunState, to_micros


def test_pages_of_chosen_runs_go_either_way(store: World) -> None:
    automation = store.automation()
    runs = store.accept(automation, 5, labels={"shop": "nord"})
    store.accept(automation, 2)
    wanted = RunFilter(automations=frozenset({automation}), labels={"shop": "nord"})
    until = store.do(store.store.read(bulk.latest))
    down = store.do(store.store.read(lambda t: bulk.newest(t, wanted, 3, until + 1)))
    assert [run.id for run in down] == runs[:1:-1]
    rest = store.do(store.store.read(lambda t: bulk.newest(t, wanted, 9, down[-1].seq)))
    assert [run.id for run in rest] == runs[1::-1]
    up = store.do(store.store.read(lambda t: bulk.oldest(t, wanted, 3, 0, until)))
    assert [run.id for run in up] == runs[:3]
    last = store.do(store.store.read(lambda t: bulk.oldest(t, wanted, 9, up[-1].seq, up[-1].seq + 1)))
    assert [run.id for run in last] == runs[3:4]


def test_a_batch_is_canceled_in_one_transaction(store: World) -> None:
    automation = store.automation()
    (done,) = ended(store, automation, "completed")
    works = store.running(automation)
    waiting = store.accept(automation, 3)
    chosen = store.do(
        store.store.read(lambda t: bulk.newest(t, RunFilter(automations=frozenset({automation})), 9, 2**62))
    )
    seqs = {run.id: run.seq for run in chosen}
    answers = store.do(
        store.store.write(lambda t: bulk.cancel(store.store.changes(t), list(seqs.values()), force=False))
    )
    assert {run: answers[seq].status for run, seq in seqs.items()} == {
        done: 409,
        works: 202,
        **dict.fromkeys(waiting, 200),
    }
    assert [store.state(run) for run in waiting] == [RunState.CANCELED] * 3


def test_figures_of_the_last_ended_runs(store: World) -> None:
    automation, idle = store.automation(), store.automation()
    ended(store, automation, "completed", "completed", "completed_no_invoices")
    store.advance(60)
    slow = store.running(automation, schedule="nightly")
    store.advance(30)
    store.finish(slow, "failed", kind="business", error_class="PORTAL_DOWN")
    other = store.running(automation)
    store.finish(other, "failed", kind="business")
    found = store.do(store.store.read(lambda t: figures.sample(t, [automation, idle])))
    shown = found[automation]
    assert (shown.sampled, shown.manual, shown.scheduled) == (5, 4, 1)
    assert (shown.duration_p50, shown.duration_p95) == (0.0, 30.0)
    assert shown.recent[0] is RunState.FAILED
    assert shown.last_state is RunState.FAILED
    assert found[idle].last_at is None
    since = to_micros(store.now) - 3600 * 10**6
    classes = store.do(store.store.read(lambda t: figures.error_classes(t, [automation, idle], since)))
    assert classes == {"PORTAL_DOWN": 1, "UNKNOWN": 1}
    store.advance(7200)
    later = to_micros(store.now)
    assert not store.do(store.store.read(lambda t: figures.error_classes(t, [automation], later)))
