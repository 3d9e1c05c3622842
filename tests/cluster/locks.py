"""File locks between processes: whoever comes second waits and says for whom."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster.progress import duration, say

POLL_SECONDS = 0.2
REPORT_SECONDS = 15.0


class Lock:
    """An exclusive lock held through an open file; it dies with its holder, so it can't be left behind."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if nobody else has it; return whether it was taken."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        self.note("")
        return True

    def note(self, doing: str) -> None:
        """Write down what the holder is doing, for those who wait."""
        assert self._descriptor is not None, "only the holder writes into a lock"
        text = json.dumps({"pid": os.getpid(), "doing": doing, "since": time.time()}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def holder(self) -> str:
        """Return a sentence about the holder."""
        try:
            record = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return "another process"
        doing = f": {record['doing']} for {duration(time.time() - record['since'])}" if record["doing"] else ""
        return f"process {record['pid']}{doing}"

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def held(file: Path, what: str, enough: Callable[[], bool] | None = None) -> Iterator[Lock | None]:
    """Hold the lock `file` while the block runs.

    Parameters
    ----------
    file
        The lock file, made when missing and never removed (removing it would let two holders in).
    what
        What the lock is for; shown to whoever waits.
    enough
        Asked again and again while waiting: when it says yes, the block runs without the lock and gets None.
    """
    lock = Lock(file)
    started = time.monotonic()
    reported = 0.0
    while not lock.try_acquire():
        if enough is not None and enough():
            yield None
            return
        if time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            say(f"{what}: waiting for {lock.holder()} (waited {duration(time.monotonic() - started)})")
        time.sleep(POLL_SECONDS)
    try:
        yield lock
    finally:
        lock.release()
