"""How much a worker takes on. No I/O.

As many Runs as it works on at a time: whatever waits here for a function to end could be worked on elsewhere. But while
Runs are quick, the way to the broker, to the API and back costs more than they do. Then the next ones are started, and
the messages of those after them are here, before a function is free; should a function take long all the same,
what waits for it goes back.
"""

from __future__ import annotations

QUICK = 0.02
"""Seconds: a Run that takes less is quick."""
MANY = 50
"""So many quick Runs in a row (and at least two for each function at work), and more is taken on."""
FEWEST = 8
"""So many more Runs are started ahead at least."""
LONGEST_WAIT = 1.0
"""Seconds that a message, or a Run that was started ahead, waits behind busy functions before it goes back."""


class ReadAhead:
    """The bounds for a worker of this concurrency."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._many = max(MANY, 2 * concurrency)
        self._row = 0
        self.quick = False
        """Runs are quick at present."""

    @property
    def starts(self) -> int:
        """How many Runs may be started and not have ended; never more functions run at a time than the concurrency."""
        return self._concurrency + (max(self._concurrency, FEWEST) if self.quick else 0)

    @property
    def messages(self) -> int:
        """How many messages may be here: while Runs are quick, half of them are on their way in or out."""
        return 2 * self.starts if self.quick else self._concurrency

    def ended(self, seconds: float) -> None:
        """A function has ended, so long after its Run was started."""
        self._row = self._row + 1 if seconds < QUICK else 0
        if self._row >= self._many:
            self.quick = True

    def stuck(self) -> None:
        """Something has waited for LONGEST_WAIT while every function was busy."""
        self._row = 0
        self.quick = False
