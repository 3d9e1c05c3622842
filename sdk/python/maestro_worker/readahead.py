"""How many messages a worker holds. No I/O.

As many as it works on: a message that waits here for a function to end could be worked on elsewhere. But while Runs are
quick, the way to the API and back costs more than they do, and the next messages had better be here already; should a
function then take long, what was read ahead goes back.
"""

from __future__ import annotations

QUICK = 0.1
"""Seconds: a Run that takes less is quick."""
MANY = 50
"""So many quick Runs in a row (and at least two for each function at work), and messages are read ahead."""
LONGEST_WAIT = 1.0
"""Seconds that a message waits behind busy functions before it goes back."""


class ReadAhead:
    """The limit for a worker of this concurrency."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._many = max(MANY, 2 * concurrency)
        self._quick = 0
        self._ahead = False

    @property
    def limit(self) -> int:
        """How many messages may be here.

        Those being worked on; while Runs are quick as many again whose ends are on their way, and as many to come.
        """
        return 3 * self._concurrency if self._ahead else self._concurrency

    @property
    def quick(self) -> bool:
        """Runs are quick at present."""
        return self._ahead

    def ended(self, seconds: float) -> None:
        """A function has ended, so long after it began."""
        self._quick = self._quick + 1 if seconds < QUICK else 0
        if self._quick >= self._many:
            self._ahead = True

    def stuck(self) -> None:
        """A message has waited for LONGEST_WAIT while every function was busy."""
        self._quick = 0
        self._ahead = False
