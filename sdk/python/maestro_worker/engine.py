"""The engine: takes messages, starts Runs, reports about them in batches, and settles their messages.

One thread owns all of its state. Everybody else (the broker's thread, the functions, signals) only puts events into its
inbox. It has one request to the API in flight; the next one takes what has gathered meanwhile.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from maestro_worker import wire
from maestro_worker.api import ApiAway
from maestro_worker.backoff import Backoff
from maestro_worker.broker import ConnectionLost, ConsumerFailed
from maestro_worker.delivery import Delivery
from maestro_worker.execution import executor
from maestro_worker.outcome import Outcome
from maestro_worker.readahead import LONGEST_WAIT, ReadAhead
from maestro_worker.run import Run
from maestro_worker.wire import Answer
from maestro_worker.worker import Worker

logger = logging.getLogger(__name__)

LINGER = 0.2
"""Seconds that log lines and progress wait for company; starts and ends don't wait."""
GATHER = 0.001
"""Seconds that an end waits for others while Runs are quick."""
LONGEST_HEARTBEAT = 10.0
DEFAULT_HEARTBEAT_TIMEOUT = 300.0
ASK_AGAIN = 2.0
"""Seconds until a start is said again that was told to wait; sooner when nothing else is in hand any more."""
INTERRUPT_GRACE = 1.0
"""Seconds between telling the functions to give up and handing their Runs back."""


class Transport(Protocol):
    """Where messages come from and are settled; see `broker.Consumer`."""

    def settle(self, connection: int, *, done: Sequence[int] = (), reject: Sequence[int] = ()) -> None: ...

    def set_limit(self, limit: int, unstarted: Sequence[Delivery] = ()) -> None: ...

    def stop_taking(self, unstarted: Sequence[Delivery]) -> None: ...


class Api(Protocol):
    """Takes reports; see `api.ReportsApi`."""

    def send(self, items: Sequence[bytes]) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class Stop:
    """Take nothing new, finish what runs; a second one doesn't wait for it."""


@dataclass(slots=True)
class _Ended:
    run: Run
    outcome: Outcome
    at: float


@dataclass(slots=True)
class _Touched:
    run: Run


@dataclass(slots=True, eq=False)
class _Hand:
    """A Run in hand: its start is on its way, or it runs, or its end is on its way."""

    job: str
    delivery: Delivery
    run: Run | None = None
    attempt: wire.Attempt | None = None
    running: bool = False
    began: float = 0.0
    stale: bool = False
    heartbeat_every: float = LONGEST_HEARTBEAT
    sent: float = 0.0
    beating: bool = False
    cancel_asked: bool = False
    handed_back: bool = False
    outcome: Outcome | None = None
    refused: bool = False
    doubtful: bool = False
    """Its start may have been heard although no answer to it came."""


@dataclass(slots=True, eq=False)
class _Item:
    """A report in the outbox, and what to do with its answer."""

    body: bytes
    hand: _Hand
    answered: Callable[[_Item, Answer], None]


class Engine:
    """See the module.

    Parameters
    ----------
    identity
        Who holds the Runs: `<pod uid>/<process uuid>`.
    concurrency
        How many functions run at a time.
    drain_timeout
        Seconds from a Stop until everything has to be reported.
    once
        Work on what was `receive`d before `serve()`, then return (a Job).
    ended
        Told of each Run's end, or of the reason why it wasn't started.
    """

    def __init__(
        self,
        worker: Worker[Any, Any],
        *,
        api: Api,
        transport: Transport,
        identity: str,
        concurrency: int,
        drain_timeout: float,
        once: bool = False,
        ended: Callable[[str, Outcome | str], object] = lambda job, how: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._transport = transport
        self._reporter = wire.Reporter(identity)
        self._drain_timeout = drain_timeout
        self._once = once
        self._tell = ended
        self._clock = clock
        self._executor = executor(worker, concurrency, self._function_ended)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._handlers: dict[type, Callable[[Any], None]] = {
            Delivery: self._on_delivery,
            ConnectionLost: self._on_connection_lost,
            ConsumerFailed: self._on_consumer_failed,
            _Ended: self._on_ended,
            _Touched: self._on_touched,
            Stop: self._on_stop,
        }
        self._concurrency = concurrency
        self._running = 0  # Runs that were given to the executor
        self._starting = 0
        self._ahead = ReadAhead(concurrency)
        self._limit = concurrency
        self._stale = 0  # Runs in hand whose message can't be acknowledged any more
        self._now = clock()
        self._waiting: deque[Delivery] = deque()
        self._parked: dict[str, list[Delivery]] = {}
        self._in_hand: dict[str, _Hand] = {}
        self._touched: dict[str, _Hand] = {}
        self._touched_since = 0.0
        self._outbox: deque[_Item] = deque()
        self._behind = False  # the last request had no room for all of it
        self._request: list[_Item] = []  # in flight; kept as it is until it was answered
        self._held: list[_Item] = []  # starts that were told to wait
        self._ask_at = float("inf")
        self._alone: _Hand | None = None  # runs here alone, or waits until nothing else does
        self._to_return: list[Delivery] = []
        self._to_run: list[Run] = []
        self._to_settle: dict[int, tuple[list[int], list[int]]] = {}
        self._backoff = Backoff()
        self._send_at = 0.0
        self._away_since: float | None = None
        self._back_since = 0.0
        self._next_beat = float("inf")
        self._draining = False
        self._interrupt_at = self._hand_back_at = self._give_up_at = float("inf")

    # -- for other threads -------------------------------------------------------------------------------------------

    def receive(self, event: Delivery | ConnectionLost | ConsumerFailed | Stop) -> None:
        """Put an event into the inbox; from any thread, also from a signal handler."""
        self._inbox.put(event)

    def _function_ended(self, run: Run, outcome: Outcome) -> None:
        self._inbox.put(_Ended(run, outcome, self._clock()))

    def _function_touched(self, run: Run) -> None:
        self._inbox.put(_Touched(run))

    # -- the loop ----------------------------------------------------------------------------------------------------

    def serve(self) -> bool:
        """Work until a Stop was carried out (or, `once`, until all is done).

        Returns
        -------
        bool
            Everything was reported.
        """
        self._take_events(0.0)
        while not self._done():
            now = self._clock()
            if now >= self._give_up_at:
                logger.error("%d Runs could not be reported before the end of the drain time", len(self._in_hand))
                return False
            self._drain(now)
            self._mind_the_limit(now)
            due = self._request_due()
            if due <= now:
                self._send(now)
            else:
                alarm = min(self._interrupt_at, self._hand_back_at, self._give_up_at, self._stuck_at())
                self._take_events(min(due, alarm) - now)
        return True

    def _done(self) -> bool:
        if self._in_hand or self._request or self._outbox:
            return False  # a start that waits is in hand too
        return self._draining or (self._once and not self._waiting and not self._parked)

    def _take_events(self, patience: float) -> None:
        """Wait for an event, then handle all there are."""
        try:
            timeout = None if patience == float("inf") else max(patience, 0.0)
            event = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return
        self._now = self._clock()
        self._handlers[type(event)](event)
        if self._running and self._ahead.quick:
            time.sleep(GATHER)  # the others are about to end too, and waking up for each would slow them down
        self._take_gathered_events()

    def _take_gathered_events(self) -> None:
        self._now = self._clock()
        for _ in range(self._inbox.qsize()):
            event = self._inbox.get()
            self._handlers[type(event)](event)

    def _request_due(self) -> float:
        """When the next request should go; infinity when there is nothing to say."""
        if self._request or self._outbox or (self._waiting and self._may_start() and not self._draining):
            return self._send_at
        due = min(self._next_beat, self._ask_at)
        if self._touched:
            due = min(due, self._touched_since + LINGER)
        return max(due, self._send_at)

    def _send(self, now: float) -> None:
        if not self._request:
            self._take_gathered_events()
            self._fill_request(now)
        try:
            answers = self._api.send([item.body for item in self._request]) if self._request else []
        except ApiAway as error:
            self._api_away(error)
            return
        self._api_back()
        request, self._request = self._request, []
        self._take_gathered_events()  # a Stop that came meanwhile counts before a start's answer does
        for item, answer in zip(request, answers, strict=True):
            item.answered(item, answer)
        self._hand_out()

    def _fill_request(self, now: float) -> None:
        """Put everything that there is to say into the next request."""
        self._ask_again(now)
        self._begin_starts()
        self._beat(now)
        if not self._behind:
            # Otherwise lines wait where their number is bounded: a Run may log faster than they can be sent.
            for hand in self._touched.values():
                self._say(hand, now)
            self._touched.clear()
        size = 0
        while self._outbox and len(self._request) < wire.MAX_ITEMS:
            size += len(self._outbox[0].body) + 1
            if size > wire.MAX_BYTES and self._request:
                break
            self._request.append(self._outbox.popleft())
        self._behind = bool(self._outbox)

    def _api_away(self, error: ApiAway) -> None:
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
            logger.warning("Maestro's API is away, what is to be reported waits: %s", error)
        self._send_at = now + max(self._backoff.pause(), error.retry_after or 0.0)
        for item in self._request:
            item.hand.doubtful |= not error.unheard
        if self._draining:
            self._give_back()

    def _api_back(self) -> None:
        if self._away_since is not None:
            logger.info("Maestro's API answers again after %.1f s", self._clock() - self._away_since)
            self._away_since = None
            self._back_since = self._clock()
        self._backoff.reset()

    def _hand_out(self) -> None:
        """Pass on what came of the answers: functions to run, messages to settle."""
        if self._to_run:
            self._executor.submit(self._to_run)
            self._to_run = []
        for connection, (done, reject) in self._to_settle.items():
            self._transport.settle(connection, done=done, reject=reject)
        self._to_settle.clear()

    # -- messages ----------------------------------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        hand = self._in_hand.get(delivery.message.job)
        if hand is None:
            delivery.arrived = self._now
            self._waiting.append(delivery)
        elif not hand.delivery.same_publication(delivery):
            # A later publication of a Run that is still in hand: only its start can tell what it is worth.
            self._parked.setdefault(delivery.message.job, []).append(delivery)
        elif hand.delivery.connection == delivery.connection:
            self._settle(delivery)
        else:
            hand.delivery = delivery  # the connection was lost meanwhile: this copy is now the one to acknowledge
            self._refreshed(hand)
        if self._draining and hand is None:
            self._give_back()

    def _on_connection_lost(self, event: ConnectionLost) -> None:
        self._waiting = deque(item for item in self._waiting if item.connection != event.connection)
        for job, parked in list(self._parked.items()):
            parked[:] = [item for item in parked if item.connection != event.connection]
            if not parked:
                del self._parked[job]
        for hand in self._in_hand.values():
            if hand.delivery.connection == event.connection and not hand.stale:
                hand.stale = True
                self._stale += 1

    def _refreshed(self, hand: _Hand) -> None:
        self._stale -= hand.stale
        hand.stale = False

    def _mind_the_limit(self, now: float) -> None:
        """Hold as many messages as make sense now: none beside a Run that is, or has to be, alone."""
        if self._draining:
            return
        unstarted, self._to_return = self._to_return, []
        stuck = now >= self._stuck_at()
        if stuck or self._alone is not None:
            unstarted += self._waiting
            self._waiting.clear()
        if stuck or (self._alone is not None and not self._alone.running):
            self._take_back_started()
            self._ahead.stuck()
        limit = max(self._ahead.messages - self._stale, 0) if self._alone is None else 0
        if unstarted or limit != self._limit:
            self._limit = limit
            self._transport.set_limit(limit, unstarted)

    def _stuck_at(self) -> float:
        """When what has waited longest for a function to end goes back."""
        if self._running < self._concurrency:
            return float("inf")
        since = float("inf")
        if self._waiting:
            since = max(self._waiting[0].arrived, self._back_since)
        run = self._executor.first_waiting()
        hand = None if run is None else self._hand_of(run)
        if hand is not None:
            since = min(since, hand.began)
        return since + LONGEST_WAIT

    def _take_back_started(self) -> None:
        """Runs that were started ahead and haven't begun go to another worker."""
        for run in self._executor.take_back():
            hand = self._hand_of(run)
            if hand is not None:
                self._hand_back(hand)

    def _on_consumer_failed(self, event: ConsumerFailed) -> None:
        raise event.error

    def _settle(self, delivery: Delivery, *, reject: bool = False) -> None:
        self._to_settle.setdefault(delivery.connection, ([], []))[reject].append(delivery.tag)

    def _give_back(self) -> None:
        """Everything that wasn't started goes back to the queue."""
        unstarted = [*self._waiting, *(item for parked in self._parked.values() for item in parked)]
        self._waiting.clear()
        self._parked.clear()
        for items in (self._outbox, self._request, self._held):
            for item in [*items]:
                if item.answered == self._start_answered and not item.hand.doubtful:
                    items.remove(item)
                    self._forget_start(item.hand)
        unstarted += self._to_return
        self._to_return = []
        self._transport.stop_taking(unstarted)

    def _forget_start(self, hand: _Hand) -> None:
        """It wasn't started, and its message goes back to the queue."""
        self._starting -= 1
        del self._in_hand[hand.job]
        self._refreshed(hand)
        if self._alone is hand:
            self._alone = None
        self._to_return += [hand.delivery, *self._parked.pop(hand.job, ())]

    # -- starts ------------------------------------------------------------------------------------------------------

    def _begin_starts(self) -> None:
        if self._draining:
            return
        while self._waiting and self._may_start():
            delivery = self._waiting.popleft()
            if delivery.message.job in self._in_hand:
                self._on_delivery(delivery)
                continue
            job = delivery.message.job
            hand = self._in_hand[job] = _Hand(job, delivery)
            self._starting += 1
            start = self._reporter.start(
                job,
                pub=delivery.pub,
                epoch=delivery.epoch,
                store=delivery.store,
                redelivered=delivery.redelivered,
            )
            self._outbox.append(_Item(start, hand, self._start_answered))

    def _may_start(self) -> bool:
        return self._alone is None and self._starting + self._running < self._ahead.starts

    def _start_answered(self, item: _Item, answer: Answer) -> None:
        hand = item.hand
        if answer["status"] == 429:
            self._wait_with(item, answer.get("reason"))
            return
        if _again(answer):
            hand.doubtful = True
            self._repeat(item)
            return
        self._starting -= 1
        if answer["status"] == 200:
            self._started(hand, answer)
        else:
            refused = answer["status"] != 409
            if refused:
                logger.warning("Run %s can't be started: %s", hand.job, _said(answer))
            self._tell(hand.job, answer.get("reason") or str(answer["status"]))
            self._let_go(hand, reject=refused)

    def _wait_with(self, item: _Item, reason: str | None) -> None:
        """A Run that has to be alone in its pod, or another beside it, can't be started yet."""
        others = self._alone is not None and self._alone is not item.hand
        if self._draining or others:
            # Here it would only wait. The queue has it for another worker.
            self._forget_start(item.hand)
            if self._draining:
                self._give_back()
            return
        if reason == "alone":
            if self._alone is None:
                logger.info("Run %s has to run alone: it waits until nothing else is in hand", item.hand.job)
            self._alone = item.hand
        self._held.append(item)
        self._ask_at = min(self._ask_at, self._now + ASK_AGAIN)

    def _ask_again(self, now: float) -> None:
        if now >= self._ask_at:
            self._ask_at = float("inf")
            self._outbox.extend(self._held)
            self._held.clear()

    def _started(self, hand: _Hand, answer: Answer) -> None:
        message = hand.delivery.message
        parameters, attempt = answer.get("parameters"), answer.get("attempt") or 1
        if parameters is None:
            parameters = message.parameters or {}
        hand.attempt = self._reporter.attempt(hand.job, attempt)
        hand.run = Run(
            message,
            attempt=attempt,
            parameters=parameters,
            timeout=answer.get("timeout"),
            touch=self._function_touched,
        )
        if self._draining:
            self._hand_back(hand)
            return
        if answer.get("alone"):
            self._alone = hand
        if answer.get("cancellation_requested"):
            self._cancel(hand)
        patience = answer.get("heartbeat_timeout") or DEFAULT_HEARTBEAT_TIMEOUT
        hand.heartbeat_every = min(LONGEST_HEARTBEAT, patience / 3)
        hand.sent = self._now
        hand.running = True
        hand.began = hand.sent
        self._running += 1
        self._next_beat = min(self._next_beat, hand.sent + hand.heartbeat_every)
        self._to_run.append(hand.run)

    # -- while it runs -----------------------------------------------------------------------------------------------

    def _on_touched(self, event: _Touched) -> None:
        hand = self._hand_of(event.run)
        if hand is None or not hand.running:
            return
        if not self._touched:
            self._touched_since = self._clock()
        self._touched[hand.job] = hand

    def _say(self, hand: _Hand, now: float) -> None:
        """Report the log lines and the progress that have gathered."""
        run, attempt = hand.run, hand.attempt
        if run is None or attempt is None or not run.has_news:
            return
        run.taken()
        for lines in wire.portions(run.take_lines()):
            self._outbox.append(_Item(attempt.log(lines), hand, self._lines_answered))
        progress = run.take_progress()
        if progress is not None:
            self._outbox.append(_Item(attempt.progress(progress), hand, self._progress_answered))
        hand.sent = now

    def _beat(self, now: float) -> None:
        """A sign of life for each Run that was silent for too long."""
        if now < self._next_beat:
            return
        self._next_beat = float("inf")
        for hand in self._in_hand.values():
            if not hand.running or hand.attempt is None:
                continue
            if now >= hand.sent + hand.heartbeat_every:
                hand.sent = now
                if not hand.beating:
                    hand.beating = True
                    self._outbox.append(_Item(hand.attempt.progress(), hand, self._progress_answered))
            self._next_beat = min(self._next_beat, hand.sent + hand.heartbeat_every)

    def _lines_answered(self, item: _Item, answer: Answer) -> None:
        if _again(answer):
            self._repeat(item)
        else:
            self._heard(item.hand, answer)

    def _progress_answered(self, item: _Item, answer: Answer) -> None:
        item.hand.beating = False
        self._heard(item.hand, answer)

    def _heard(self, hand: _Hand, answer: Answer) -> None:
        if not hand.running or hand.run is None or _again(answer):
            return
        if answer["status"] == 200:
            if answer.get("cancellation_requested"):
                self._cancel(hand)
        elif answer["status"] in (403, 404, 409):
            if not hand.run.fenced:
                logger.warning("Run %s attempt %d is no longer ours: %s", hand.job, hand.run.attempt, _said(answer))
            hand.run.fence()
        else:
            logger.warning("Run %s: the API refused a report: %s", hand.job, _said(answer))

    def _cancel(self, hand: _Hand) -> None:
        hand.cancel_asked = True
        if hand.run is not None:
            hand.run.cancel()

    # -- ends --------------------------------------------------------------------------------------------------------

    def _on_ended(self, event: _Ended) -> None:
        hand = self._hand_of(event.run)
        if hand is None or hand.handed_back:
            return
        self._stops(hand)
        self._ahead.ended(event.at - hand.began)
        run, outcome = event.run, event.outcome
        if run.fenced:
            logger.warning("Run %s attempt %d: its result is dropped, another worker has the Run", run.id, run.attempt)
            self._tell(run.id, "fenced")
            self._let_go(hand)
            self._hand_out()
        elif outcome.status == "canceled" and self._draining and not hand.cancel_asked:
            self._hand_back(hand)
        else:
            self._finish(hand, run, outcome)

    def _finish(self, hand: _Hand, run: Run, outcome: Outcome) -> None:
        if outcome.status == "failed":
            logger.warning("Run %s attempt %d failed: %s (%s)", run.id, run.attempt, outcome.error_class, outcome.kind)
            if outcome.trace:
                run.log(outcome.trace, "ERROR")
        self._say(hand, self._clock())
        self._send_finish(hand, outcome)

    def _send_finish(self, hand: _Hand, outcome: Outcome) -> None:
        assert hand.attempt is not None
        hand.outcome = outcome
        self._outbox.append(_Item(hand.attempt.finish(outcome), hand, self._finish_answered))

    def _finish_answered(self, item: _Item, answer: Answer) -> None:
        hand = item.hand
        if _again(answer):
            self._repeat(item)
            return
        status = answer["status"]
        if status in (400, 413, 422) and not hand.refused:
            hand.refused = True
            message = answer.get("message") or "Maestro refused the result"
            refused = Outcome("failed", error_class="InvalidResult", kind="technical", message=message)
            logger.warning("Run %s: Maestro refused the result; the attempt is reported as failed", hand.job)
            self._send_finish(hand, refused)
            return
        if status == 200 and hand.outcome is not None:
            self._tell(hand.job, hand.outcome)
        else:
            logger.warning("Run %s: its result is dropped: %s", hand.job, _said(answer))
            self._tell(hand.job, answer.get("reason") or str(status))
        self._let_go(hand)

    def _hand_back(self, hand: _Hand) -> None:
        """The Run goes to another worker, without costing an attempt."""
        self._stops(hand)
        hand.handed_back = True
        if hand.attempt is not None:
            self._say(hand, self._clock())
            self._outbox.append(_Item(hand.attempt.release(), hand, self._release_answered))

    def _release_answered(self, item: _Item, answer: Answer) -> None:
        if _again(answer):
            self._repeat(item)
            return
        self._tell(item.hand.job, "released")
        self._let_go(item.hand)

    def _stops(self, hand: _Hand) -> None:
        """Its function has ended, or is of no interest any more."""
        self._running -= hand.running
        hand.running = False
        self._touched.pop(hand.job, None)

    def _let_go(self, hand: _Hand, *, reject: bool = False) -> None:
        del self._in_hand[hand.job]
        self._refreshed(hand)
        if self._alone is hand:
            self._alone = None
        elif self._held and len(self._in_hand) == 1:
            self._ask_at = self._now
        self._settle(hand.delivery, reject=reject)
        self._waiting.extend(self._parked.pop(hand.job, ()))

    def _repeat(self, item: _Item) -> None:
        """The API is there, its store is not: say it again later."""
        self._outbox.append(item)
        self._send_at = max(self._send_at, self._clock() + self._backoff.pause())

    def _hand_of(self, run: Run) -> _Hand | None:
        hand = self._in_hand.get(run.id)
        return hand if hand is not None and hand.run is run else None

    # -- the end of the worker ---------------------------------------------------------------------------------------

    def _on_stop(self, _event: Stop) -> None:
        now = self._clock()
        if self._draining:
            self._interrupt_at = min(self._interrupt_at, now)
            return
        self._draining = True
        # A little earlier than the pod's end, so that what is left can still be handed back.
        self._interrupt_at = now + self._drain_timeout - min(5.0, self._drain_timeout / 10)
        self._give_up_at = now + max(self._drain_timeout, 5.0)
        logger.info("stopping: %d Runs in hand are finished first", len(self._in_hand))
        self._give_back()
        self._take_back_started()

    def _drain(self, now: float) -> None:
        if now >= self._interrupt_at:
            self._interrupt_at = float("inf")
            self._hand_back_at = now + INTERRUPT_GRACE
            for hand in self._in_hand.values():
                if hand.running and hand.run is not None:
                    hand.run.cancel()
        if now >= self._hand_back_at:
            self._hand_back_at = float("inf")
            for hand in self._in_hand.values():
                if hand.running:
                    logger.warning("Run %s didn't end in time and is handed back", hand.job)
                    self._hand_back(hand)


def _again(answer: Answer) -> bool:
    status: int = answer["status"]
    return status >= 500 or status == 429


def _said(answer: Answer) -> str:
    return " ".join(str(answer[name]) for name in ("status", "reason", "message") if answer.get(name))
