"""What can happen to the system, as moves: each takes two numbers that say to what, and how. A move that has nothing to
do it to does nothing. The weights make the ordinary way frequent; by single steps alone few Runs would get far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.unit.model.system import System

from maestro.runs.lifecycle import End

Move = Callable[[System, int, int], None]
T = TypeVar("T")

PROCESSES = ("a/1", "a/2", "b/1", "old")
MOST_RUNS = 5


def _of(options: Sequence[T], number: int) -> T:
    return options[number % len(options)]


def _hands(system: System) -> list[tuple[str, int]]:
    return [(process.name, run) for process in system.processes.values() for run in process.hands]


def accept(system: System, a: int, b: int) -> None:
    if len(system.runs) < MOST_RUNS:
        system.accept()


def claim(system: System, a: int, b: int) -> None:
    for _ in range(1 + a % 3):
        system.claim()


def claim_and_crash(system: System, a: int, b: int) -> None:
    system.claim(crash=True)


def crash_dispatcher(system: System, a: int, b: int) -> None:
    system.crash_dispatcher()


def confirm(system: System, a: int, b: int) -> None:
    if system.confirms:
        system.confirm(a % len(system.confirms))


def come_back(system: System, a: int, b: int) -> None:
    if system.confirms:
        system.come_back(a % len(system.confirms))


def look_after(system: System, a: int, b: int) -> None:
    system.look_after()


def lose_all(system: System, a: int, b: int) -> None:
    system.purge()


def lose(system: System, a: int, b: int) -> None:
    if system.queue:
        system.lose(a % len(system.queue))


def double(system: System, a: int, b: int) -> None:
    if system.queue:
        system.double(a % len(system.queue))


def dead_letter(system: System, a: int, b: int) -> None:
    if system.queue:
        system.dead_letter(a % len(system.queue), _of(("rejected", "delivery_limit", "expired"), b))


def blip(system: System, a: int, b: int) -> None:
    system.blip(_of(PROCESSES, a))


def deliver(system: System, a: int, b: int) -> None:
    system.deliver(_of(PROCESSES, a), answered=b % 4 > 0)


def begin_work(system: System, a: int, b: int) -> None:
    system.claim()
    system.deliver(_of(PROCESSES, a))


def start_again(system: System, a: int, b: int) -> None:
    if system.unacked:
        system.start_again(a % len(system.unacked))


def say(system: System, a: int, b: int) -> None:
    if hands := _hands(system):
        process, run = _of(hands, a)
        op = _of(("progress", "poll", "release"), b)
        if op != "release" or not system.processes[process].older:
            system.say(process, run, op)


def finish(system: System, a: int, b: int) -> None:
    if hands := _hands(system):
        system.say(*_of(hands, a), "finish", _of((End.OK, End.TECHNICAL, End.BUSINESS), b))


def hear(system: System, a: int, b: int) -> None:
    if system.sayings:
        system.hear(a % len(system.sayings), keep=b % 3 == 0)


def freeze(system: System, a: int, b: int) -> None:
    """All are silent past their leases; then another takes the Run, and who held it goes on as if nothing had been."""
    for _ in range(3):
        system.pass_time(61)
    begin_work(system, a, b)


def die(system: System, a: int, b: int) -> None:
    system.die(_of(PROCESSES, a), seen=b % 4 > 0, told=b % 4 == 3)


def cancel(system: System, a: int, b: int) -> None:
    system.cancel(a % len(system.runs), force=b % 2 > 0)


def pass_time(system: System, a: int, b: int) -> None:
    system.pass_time(_of((1, 5, 31, 61, 631), a))


def move_gateway(system: System, a: int, b: int) -> None:
    if system.shut:
        system.open_gateway()
    else:
        system.shut_gateway()


WEIGHTS: dict[Move, int] = {
    accept: 2, claim: 2, claim_and_crash: 1, crash_dispatcher: 1, confirm: 3, come_back: 1, look_after: 2, lose_all: 1,
    lose: 1, double: 2, dead_letter: 1, blip: 2, deliver: 3, begin_work: 5, start_again: 2, say: 5, finish: 4, hear: 7,
    freeze: 3, die: 1, cancel: 1, pass_time: 3, move_gateway: 1,
}  # fmt: skip
MOVES: tuple[Move, ...] = tuple(move for move, weight in WEIGHTS.items() for _ in range(weight))
