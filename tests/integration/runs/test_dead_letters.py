"""Dead letters in the store, on both databases: recorded once, linked, told to their Runs, redriven, discarded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.integration.runs.test_metrics import Samples
from tests.integration.runs.world import OTHER, World

from maestro.runs.deadletters import DeadLetter, DeadLetters, LetterFilter
from maestro.runs.errors import Backlog, NoSuchLetter, NotRedrivable, StaleEpoch
from maestro.runs.letters import Letter
from maestro.runs.model import Claimed, RunState
from maestro.runs.redrive import Redrive

_numbers = itertools.count(1)


class Box:
    """The dead letters of a world, in short words."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.letters = DeadLetters(world.store)
        self.store_id = world.do(world.store.win_leadership()).store_id
        world.epoch = world.do(world.store.win_leadership()).epoch

    def queue_of(self, automation: int) -> str:
        registration = self.world.store.registration(automation)
        assert registration is not None
        assert registration.queue is not None
        return registration.queue

    def letter(self, queue: str, **fields: Any) -> Letter:
        given: dict[str, Any] = {
            "queue": queue, "reason": "rejected", "count": 1, "died_at": 5, "headers": {}, "message_id": None,
            "content_type": None, "body": b"{}", "run_id": None, "store": None, "pub": None, "redelivered": False,
            "identity": f"letter-{next(_numbers)}", "distinct": True,
        }  # fmt: skip
        return Letter(**{**given, **fields})

    def of(self, run: Claimed, *, queue: str | None = None, **fields: Any) -> Letter:
        """A letter of a publication."""
        given = {"run_id": run.id, "pub": run.pub, "store": self.store_id, **fields}
        return self.letter(queue or self.queue_of(run.automation), **given)

    def record(self, *letters: Letter) -> int:
        world = self.world
        return world.do(self.letters.record(letters, epoch=world.epoch, store_id=self.store_id))

    def kept(self, automation: int | None = None, **wanted: Any) -> list[DeadLetter]:
        keys = None if automation is None else frozenset({automation})
        return list(self.world.do(self.letters.page(LetterFilter(automations=keys, **wanted))).items)

    def open(self, automation: int) -> int:
        return self.world.do(self.world.store.counts())[automation].dead_lettered

    def redrive(self, seq: int, parameters: dict[str, Any] | None = None, changed: bool = False) -> Any:
        return self.world.do(self.letters.redrive(Redrive(seq, parameters or {}, changed, by="ana")))


@pytest.fixture
def box(store: World) -> Box:
    return Box(store)


def claimed(box: Box, **policy: Any) -> tuple[int, Claimed]:
    automation = box.world.automation(**policy)
    box.world.accept(automation, parameters={"n": 1})
    (run,) = box.world.claim(automation)
    return automation, run


def test_a_rejected_message_fails_its_run_and_is_linked_to_it(box: Box) -> None:
    automation, run = claimed(box)
    assert box.record(box.of(run, body=b"\x00\xff" * 10, headers={"a": 1}, content_type="image/png")) == 1
    view = box.world.get(run.id)
    assert (view.state, view.reason) == (RunState.FAILED, "DeadLettered")
    (letter,) = box.kept(automation)
    assert view.message is not None
    assert str(letter.seq) in view.message
    assert (letter.run_id, letter.automation, letter.automation_id) == (run.id, automation, view.automation_id)
    assert (letter.size, letter.headers, letter.content_type) == (20, {"a": 1}, "image/png")
    whole = box.world.do(box.letters.get(letter.seq))
    assert whole is not None
    assert whole.body == b"\x00\xff" * 10
    assert (letter.body, box.open(automation)) == (b"", 1)


@pytest.mark.parametrize(
    ("reason", "policy", "state"),
    [
        ("delivery_limit", {"max_attempts": 3}, RunState.RETRYING),
        ("delivery_limit", {"max_attempts": 1}, RunState.FAILED),
        ("expired", {}, RunState.PENDING),
        ("maxlen", {}, RunState.PENDING),
    ],
)
def test_what_another_death_does_to_the_run(box: Box, reason: str, policy: dict[str, Any], state: RunState) -> None:
    _, run = claimed(box, **policy)
    box.record(box.of(run, reason=reason))
    assert box.world.state(run.id) is state


def test_an_old_copy_does_nothing_to_a_run_that_runs(box: Box) -> None:
    automation, run = claimed(box)
    assert box.world.start(run.id, pub=run.pub).status == 200
    box.record(box.of(run))
    assert box.world.state(run.id) is RunState.RUNNING
    assert [letter.run_id for letter in box.kept(automation)] == [run.id]


@pytest.mark.parametrize("changed", [{"pub": 1}, {"store": "another-store"}, {"store": None, "pub": None}])
def test_what_is_not_the_present_publication_does_nothing(box: Box, changed: dict[str, Any]) -> None:
    automation, run = claimed(box)
    box.record(box.of(run, **changed))
    assert box.world.state(run.id) is RunState.QUEUED
    assert [letter.run_id for letter in box.kept(automation)] == [run.id]


def test_a_letter_of_another_queue_does_not_speak_for_the_run(box: Box) -> None:
    automation, run = claimed(box)
    other = box.world.automation()
    box.record(box.of(run, queue=box.queue_of(other)))
    assert box.world.state(run.id) is RunState.QUEUED
    assert box.kept(automation) == []
    assert [letter.run_id for letter in box.kept(other)] == [None]


def test_the_same_letter_twice_is_one(box: Box) -> None:
    automation, run = claimed(box, max_attempts=5)
    letter = box.of(run, reason="delivery_limit")
    assert box.record(letter, letter) == 1
    assert box.record(letter) == 0
    assert len(box.kept(automation)) == box.open(automation) == 1
    assert box.world.get(run.id).attempt == 1, "one lost attempt, however often the letter comes"


def test_foreign_twins_are_two_unless_they_come_again(box: Box) -> None:
    automation = box.world.automation()
    twin = {"queue": box.queue_of(automation), "identity": f"twin-{next(_numbers)}", "distinct": False}
    assert box.record(box.letter(**twin), box.letter(**twin)) == 2
    assert box.record(box.letter(**twin, redelivered=True)) == 0
    assert box.open(automation) == 2


def test_foreign_letters_are_linked_to_the_automation_by_its_queue(box: Box) -> None:
    samples = Samples()
    automation = box.world.automation()
    nowhere = f"somebody.elses.{next(_numbers)}"
    box.record(box.letter(box.queue_of(automation), run_id=uuid4()), box.letter(nowhere, reason="strange"))
    assert [(letter.run_id, letter.reason) for letter in box.kept(automation)] == [(None, "rejected")]
    (unowned,) = box.kept(queue=nowhere)
    assert (unowned.automation, unowned.automation_id) == (None, None)
    name = box.world.store.registrations()[automation].id
    assert samples("dead_letters_recorded_total", automation=name, reason="rejected") == 1
    assert samples("dead_letters_recorded_total", automation="", reason="other") == 1


def test_only_the_leader_records(box: Box) -> None:
    automation = box.world.automation()
    letter = box.letter(box.queue_of(automation))
    with pytest.raises(StaleEpoch):
        box.world.do(box.letters.record([letter], epoch=box.world.epoch - 1, store_id=box.store_id))
    assert box.kept(automation) == []


def test_letters_are_found_page_by_page(box: Box) -> None:
    automation, run = claimed(box)
    queue = box.queue_of(automation)
    box.record(box.of(run), *(box.letter(queue, reason=reason) for reason in ("expired", "maxlen", "expired")))
    keys = frozenset({automation})
    first = box.world.do(box.letters.page(LetterFilter(automations=keys), limit=3))
    second = box.world.do(box.letters.page(LetterFilter(automations=keys), limit=3, cursor=first.cursor))
    assert [letter.reason for letter in (*first.items, *second.items)] == ["expired", "maxlen", "expired", "rejected"]
    assert second.cursor is None
    assert len(box.kept(automation, reason="expired")) == 2
    assert [letter.run_id for letter in box.kept(run_id=run.id)] == [run.id]
    assert box.kept(automation, since=box.world.now)[0].at == box.world.now
    assert box.kept(automation, until=box.world.now) == []
    with pytest.raises(ValueError, match="cursor"):
        box.world.do(box.letters.page(LetterFilter(), cursor="x"))


def test_a_failed_run_is_redriven_as_a_linked_copy_once(box: Box) -> None:
    automation, run = claimed(box)
    box.record(box.of(run))
    (letter,) = box.kept(automation)
    redriven = box.redrive(letter.seq, {"n": 2}, changed=True)
    copy = box.world.get(redriven.run_id)
    assert (copy.copy_of, copy.parameters, copy.user, copy.state) == (run.id, {"n": 2}, "ana", RunState.PENDING)
    (letter,) = box.kept(automation, redriven=True)
    assert (letter.redriven_as, letter.redriven_by) == (copy.id, "ana")
    assert (box.open(automation), box.kept(automation, redriven=False)) == (0, [])
    with pytest.raises(NotRedrivable, match=f"already, as Run {copy.id}"):
        box.redrive(letter.seq)


def test_a_queued_run_is_published_again(box: Box) -> None:
    automation, run = claimed(box)
    box.record(box.of(run, pub=0))
    (letter,) = box.kept(automation)
    with pytest.raises(NotRedrivable, match="with its own parameters"):
        box.redrive(letter.seq, {"n": 2}, changed=True)
    redriven = box.redrive(letter.seq)
    assert (redriven.run_id, redriven.again) == (run.id, True)
    (again,) = box.world.claim(automation)
    assert again.id == run.id
    assert again.pub > run.pub
    assert box.open(automation) == 0


def running(box: Box, run: Claimed) -> None:
    box.world.start(run.id, pub=run.pub)


def retrying(box: Box, run: Claimed) -> None:
    box.world.start(run.id, pub=run.pub)
    box.world.finish(run.id, "failed")


@pytest.mark.parametrize(("prepare", "state"), [(running, "Running"), (retrying, "Retrying")])
def test_a_run_that_goes_on_by_itself_is_not_redriven(
    box: Box, prepare: Callable[[Box, Claimed], None], state: str
) -> None:
    automation, run = claimed(box)
    prepare(box, run)
    box.record(box.of(run))
    (letter,) = box.kept(automation)
    with pytest.raises(NotRedrivable, match=state):
        box.redrive(letter.seq)
    assert box.open(automation) == 1


def test_a_foreign_letter_becomes_a_run(box: Box) -> None:
    automation = box.world.automation()
    box.record(box.letter(box.queue_of(automation), body=json.dumps({"n": 3}).encode()))
    (letter,) = box.kept(automation)
    redriven = box.redrive(letter.seq, {"n": 3})
    run = box.world.get(redriven.run_id)
    assert (run.automation, run.parameters, run.copy_of) == (automation, {"n": 3}, None)


def test_what_cannot_be_redriven_says_why(box: Box) -> None:
    nowhere = f"nobodys.{next(_numbers)}"
    full = box.world.automation(max_pending=1)
    box.world.accept(full)
    box.record(box.letter(nowhere), box.letter(box.queue_of(full)))
    with pytest.raises(NotRedrivable, match="belongs to no Automation"):
        box.redrive(box.kept(queue=nowhere)[0].seq)
    with pytest.raises(NoSuchLetter):
        box.redrive(10**12)
    with pytest.raises(Backlog):
        box.redrive(box.kept(full)[0].seq)
    assert box.open(full) == 1, "nothing of it was written"


def test_discarded_letters_are_gone(box: Box) -> None:
    automation = box.world.automation()
    queue = box.queue_of(automation)
    box.record(*(box.letter(queue) for _ in range(3)))
    seqs = [letter.seq for letter in box.kept(automation)]
    box.redrive(seqs[0])
    assert box.world.do(box.letters.discard([*seqs[:2], seqs[0], 10**12])) == 2
    assert [letter.seq for letter in box.kept(automation)] == seqs[2:]
    assert box.open(automation) == 1


def test_letters_go_when_they_are_older_than_failed_runs_are_kept(box: Box) -> None:
    world = box.world
    short, long = world.automation(failed_ttl=3600.0), world.automation()
    nowhere = f"old.{next(_numbers)}"
    box.record(box.letter(box.queue_of(short)), box.letter(box.queue_of(long)), box.letter(nowhere))
    world.advance(1800)
    box.record(box.letter(box.queue_of(short)))
    world.advance(1801)
    while world.do(box.letters.prune(world.now, epoch=world.epoch)):
        pass
    assert (len(box.kept(short)), box.open(short)) == (1, 1)
    assert len(box.kept(long)) == len(box.kept(queue=nowhere)) == 1
    world.advance(2160 * 3600)
    while world.do(box.letters.prune(world.now, epoch=world.epoch)):
        pass
    assert box.kept(long) == box.kept(short) == box.kept(queue=nowhere) == []


def test_an_automation_is_remembered_while_letters_of_it_are_kept(box: Box) -> None:
    world = box.world
    registration = world.registration()
    automation = world.do(world.store.register(registration))
    box.record(box.letter(str(registration.queue)))
    world.do(world.store.deregister(registration.uid))
    world.do(world.store.reaped(registration.uid))
    world.do(world.store.prune(world.now))
    (letter,) = box.kept(automation)
    assert letter.automation_id == registration.id
    world.do(box.letters.discard([letter.seq]))
    world.do(world.store.prune(world.now))
    assert world.rows("SELECT count(*) FROM automation WHERE pk = :pk", {"pk": automation}) == [(0,)]


def test_a_run_that_is_no_longer_kept_leaves_its_letter(box: Box) -> None:
    world = box.world
    automation, run = claimed(box, failed_limit=1, failed_ttl=10 * 24 * 3600.0)
    box.record(box.of(run))
    world.accept(automation)
    (another,) = world.claim(automation)
    world.start(another.id, OTHER, pub=another.pub)
    world.finish(another.id, "failed", worker=OTHER, kind="business")
    while world.do(world.store.prune(world.now)):
        pass
    (letter,) = box.kept(automation)
    assert letter.run_id == run.id
    redriven = box.redrive(letter.seq, {"n": 9})
    assert world.get(redriven.run_id).parameters == {"n": 9}


def test_letters_of_unknown_runs_name_them(box: Box) -> None:
    automation = box.world.automation()
    unknown = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    box.record(box.letter(box.queue_of(automation), run_id=unknown, pub=10**9, store=box.store_id))
    assert [letter.run_id for letter in box.kept(automation)] == [None], "there is no such Run"
