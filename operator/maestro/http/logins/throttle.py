"""Failed logins slow down: after a few, each further one waits longer."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from maestro.runtime.clock import Monotonic


@dataclass(slots=True)
class _Record:
    failures: int
    until: float
    last: float


class Throttle:
    """Counts tries by name, in this process.

    Parameters
    ----------
    free
        Tries that cost nothing.
    longest
        Seconds that a further try waits at most; the wait doubles from one second.
    forgotten
        Seconds after which failures are forgotten.
    """

    def __init__(
        self,
        *,
        free: int = 3,
        longest: float = 60.0,
        forgotten: float = 900.0,
        size: int = 10_000,
        clock: Monotonic = time.monotonic,
    ) -> None:
        self._free = free
        self._longest = longest
        self._forgotten = forgotten
        self._size = size
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def begin(self, name: str) -> float:
        """Count a try as failed until `succeeded` says otherwise, so that many at once don't slip through.

        Returns the seconds to wait; more than 0: the try isn't allowed, and doesn't count.
        """
        now = self._clock()
        record = self._records.get(name)
        if record is None or now - record.last > self._forgotten:
            record = self._records[name] = _Record(0, now, now)
        if record.until > now:
            return record.until - now
        record.failures += 1
        record.last = now
        over = record.failures - self._free
        record.until = now + min(2.0 ** min(over, 30), self._longest) if over >= 0 else now
        self._records.move_to_end(name)
        while len(self._records) > self._size:
            self._records.popitem(last=False)
        return 0.0

    def succeeded(self, name: str) -> None:
        """Forget the failures of a name."""
        self._records.pop(name, None)
