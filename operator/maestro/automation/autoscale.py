"""How many pods autoscaling asks for: up at once, down only after fewer were enough for a while. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(slots=True)
class Recommendations:
    """The numbers of pods that would have done in the recent past."""

    _past: deque[tuple[datetime, int]] = field(default_factory=deque)

    def recommend(self, *, runs: int, per_pod: int, delay: float, present: int, now: datetime) -> int:
        """The number of pods for `runs` waiting and running Runs: the most that was needed within `delay` seconds.

        Parameters
        ----------
        present
            How many there are; counts as needed when nothing is known of the past, so that a restart takes none away.
        """
        if not self._past:
            self._past.append((now, present))
        needed = math.ceil(runs / per_pod)
        while self._past and (now - self._past[0][0]).total_seconds() >= delay:
            self._past.popleft()
        # What was needed less, and longer ago, can't be the most any more.
        while self._past and self._past[-1][1] <= needed:
            self._past.pop()
        self._past.append((now, needed))
        return self._past[0][1]
