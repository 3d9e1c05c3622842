"""How many Runs of a replay end in a second, over the last minutes. No I/O."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

WINDOW = timedelta(minutes=3)
_STEP = timedelta(seconds=1)


class Rate:
    """Of one replay; what it has seen may be lost."""

    def __init__(self) -> None:
        self._seen: deque[tuple[datetime, int]] = deque()

    def note(self, now: datetime, done: int) -> float | None:
        """So many are done now; how many that is in a second (None: nothing can be said yet)."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # what failed waits again
        if not self._seen or now - self._seen[-1][0] >= _STEP:
            self._seen.append((now, done))
        while len(self._seen) > 1 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        passed = (now - since).total_seconds()
        return (done - before) / passed if passed >= 1.0 else None
