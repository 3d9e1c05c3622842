"""A no-op through SDK workers against Celery and Dramatiq, side by side on one RabbitMQ.

    python -m tests.performance.bench_worker [--quick] [--messages N] [--repeats N] [--concurrency 16,100]

Each contender has two worker processes of threads; the backlog is queued first, then the workers are started, and the
rate is that of the drain from the first to the last end. Maestro's is the real thing: quorum queue, dispatcher, HTTP
API and a SQLite store that records every start and end (its last end is the later of function and record). Celery
acknowledges late, with its usual prefetch; Dramatiq as it comes. The contenders take turns, so that a busy machine is
busy for all of them; what counts is the ratio within a turn. The processor time of a message, of the contender's
processes and the broker together, hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.cluster.rabbitmq import RabbitMQ
from tests.performance import stamps
from tests.workers.processes import ROOT, Maestro, Process, Worker, automation, declare, messages_ready, until

PROCESSES = 2
PATIENCE = 180.0
GOAL_AT = 100
MAESTRO_QUEUE = "maestro.team.noop"


@dataclass
class Bench:
    """What the contenders share."""

    broker: RabbitMQ
    folder: Path
    messages: int
    turns: int = field(default=0)

    def new_folder(self) -> Path:
        """An empty folder for the stamps of one turn."""
        self.turns += 1
        folder = self.folder / f"turn-{self.turns}"
        folder.mkdir()
        return folder

    def queued(self, queue: str) -> None:
        """Wait until the whole backlog lies in the queue."""
        until(lambda: messages_ready(self.broker, queue) == self.messages, f"{self.messages} in {queue}", PATIENCE)

    def drained(self, folder: Path, workers: list[Process], others: Sequence[int] = ()) -> tuple[list[float], float]:
        """Wait until everything was done.

        Parameters
        ----------
        others
            Processes that take part beside the workers and the broker.

        Returns
        -------
        The stamps, and the seconds of processor time of each message, those before the first look left out.
        """
        pids = [*(worker.pid for worker in workers), *others, self.broker.pid]
        looks: list[tuple[int, float]] = []

        def done() -> bool:
            for worker in workers:
                assert worker.alive(), worker.text()[-3000:]
            time.sleep(0.1)  # looking costs what is being measured
            looks.append((len(stamps.read(folder)), sum(map(processor_time, pids))))
            return looks[-1][0] >= self.messages

        until(done, "the backlog is drained", PATIENCE)
        found = stamps.read(folder)
        assert len(found) == self.messages, f"{len(found)} calls for {self.messages} messages"
        number, busy = next(look for look in looks if look[0])
        return found, (looks[-1][1] - busy) / max(self.messages - number, 1)

    def environ(self, folder: Path | None = None) -> dict[str, str]:
        """The environment of Celery's and Dramatiq's processes; with a folder for stamps: of a worker."""
        given = {"BENCH_BROKER": self.broker.amqp_url, "PYTHONPATH": str(ROOT)}
        return {**os.environ, **given} | ({} if folder is None else {"STAMPS": str(folder)})


@contextlib.contextmanager
def running(workers: list[Process]) -> Iterator[None]:
    """Start processes, and end them."""
    try:
        for worker in workers:
            worker.start()
        yield
        for worker in workers:
            worker.signal()
        for worker in workers:
            worker.wait(30)
    finally:
        for worker in workers:
            worker.kill()


class Turn(NamedTuple):
    """What a contender has shown: ends a second, and processor time of a message in seconds."""

    rate: float
    busy: float


def turn(first: float, last: float, messages: int, busy: float) -> Turn:
    """The first end is the start of the clock."""
    return Turn((messages - 1) / (last - first), busy)


def processor_time(pid: int) -> float:
    """Seconds that a process and its descendants have spent so far."""
    spent = 0.0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for thread in Path(f"/proc/{pid}/task").iterdir():
            spent += sum(processor_time(int(child)) for child in (thread / "children").read_text().split())
    return spent


def maestro(bench: Bench, server: Maestro, concurrency: int) -> Turn:
    """SDK workers."""
    folder = bench.new_folder()
    before = time.time()
    server.submit("noop", [{} for _ in range(bench.messages)])
    bench.queued(MAESTRO_QUEUE)
    workers: list[Process] = [
        Worker(
            f"worker-{bench.turns}-{number}",
            "tests.performance.noop_maestro:noop",
            bench.folder,
            maestro=server,
            broker=bench.broker,
            queue=MAESTRO_QUEUE,
            concurrency=concurrency,
            STAMPS=str(folder),
        )
        for number in range(PROCESSES)
    ]
    with running(workers):
        found, busy = bench.drained(folder, workers, [server.pid])
        recorded: list[float] = []
        until(lambda: _recorded(server, before, recorded) == bench.messages, "every Run is recorded", PATIENCE)
    return turn(found[0], max(found[-1], recorded[-1]), bench.messages, busy)


def _recorded(server: Maestro, since: float, last: list[float]) -> int:
    """How many Runs that were accepted since then have succeeded; appends when the last of them ended."""
    with contextlib.closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as database:
        query = "SELECT count(*), max(ended_at) FROM run WHERE accepted_at >= ? AND state = ?"
        succeeded = 5  # RunState.SUCCEEDED.code
        number, ended = database.execute(query, (int(since * 1e6), succeeded)).fetchone()
    last.append((ended or 0) / 1e6)
    return int(number)


def celery(bench: Bench, concurrency: int) -> Turn:
    """Celery, threads pool."""
    folder = bench.new_folder()
    fill = [sys.executable, "-m", "tests.performance.noop_celery", str(bench.messages)]
    subprocess.run(fill, cwd=ROOT, env=bench.environ(), check=True)
    bench.queued("bench.celery")
    workers: list[Process] = []
    for number in range(PROCESSES):
        name = f"celery-{bench.turns}-{number}"
        argv = [sys.executable, "-m", "celery", "-A", "tests.performance.noop_celery", "worker", "--pool=threads"]
        argv += [f"--concurrency={concurrency}", f"--hostname={name}@%h", "--loglevel=warning"]
        argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        workers.append(Process(argv, bench.folder / f"{name}.log", bench.environ(folder)))
    with running(workers):
        found, busy = bench.drained(folder, workers)
    return turn(found[0], found[-1], bench.messages, busy)


def dramatiq(bench: Bench, concurrency: int) -> Turn:
    """Dramatiq."""
    folder = bench.new_folder()
    fill = [sys.executable, "-m", "tests.performance.noop_dramatiq", str(bench.messages)]
    subprocess.run(fill, cwd=ROOT, env=bench.environ(), check=True)
    bench.queued("bench.dramatiq")
    argv = [sys.executable, "-m", "dramatiq", "tests.performance.noop_dramatiq", f"--processes={PROCESSES}"]
    argv += [f"--threads={concurrency}", "--skip-logging"]
    workers: list[Process] = [Process(argv, bench.folder / f"dramatiq-{bench.turns}.log", bench.environ(folder))]
    with running(workers):
        found, busy = bench.drained(folder, workers)
    return turn(found[0], found[-1], bench.messages, busy)


def spread(values: list[float], form: str) -> str:
    """Median and extremes."""
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}–{high})"


def compare(bench: Bench, server: Maestro, concurrency: int, repeats: int) -> None:
    """Let the contenders take turns, and print what came of it."""
    contenders: dict[str, Callable[[], Turn]] = {
        "maestro": lambda: maestro(bench, server, concurrency),
        "celery": lambda: celery(bench, concurrency),
        "dramatiq": lambda: dramatiq(bench, concurrency),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            turns[name].append(run())
    print(f"concurrency {concurrency}, {PROCESSES} processes each, {bench.messages} messages, {repeats} turns")
    for name, shown in turns.items():
        rates, busy = [each.rate for each in shown], [each.busy * 1e6 for each in shown]
        print(f"  {name:9} {spread(rates, ',.0f'):>24} a second   {spread(busy, '.0f'):>15} µs of processor time each")
    for peer, goal in (("celery", 3.0), ("dramatiq", 1.0)):
        ratios = [ours.rate / theirs.rate for ours, theirs in zip(turns["maestro"], turns[peer], strict=True)]
        met = "met" if statistics.median(ratios) >= goal else "missed"
        judged = f"   goal ≥ {goal:g}: {met}" if concurrency == GOAL_AT else ""
        print(f"  maestro / {peer:9} {spread(ratios, '.2f'):>18}{judged}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; returns 0 (figures are shown, not judged)."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one turn of 1,000 messages: does it run at all")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", default="16,100")
    options = parser.parse_args(argv)
    if options.quick:
        options.messages, options.repeats = 1_000, 1
    folder = Path(tempfile.mkdtemp(prefix="maestro-bench-"))
    try:
        with RabbitMQ() as broker:
            declare(broker, MAESTRO_QUEUE)
            # the whole backlog on the broker before the clock starts, as the others have it
            policy = {"window": 1_000_000}
            server = Maestro(folder, broker, [automation("noop", policy=policy)])
            bench = Bench(broker, folder, options.messages)
            try:
                server.start()
                for concurrency in map(int, options.concurrency.split(",")):
                    compare(bench, server, concurrency, options.repeats)
            finally:
                server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
