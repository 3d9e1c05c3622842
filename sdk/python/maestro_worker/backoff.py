"""Pauses between tries."""

from __future__ import annotations

import random


class Backoff:
    """Pauses that double up to a bound, each shortened at random, so that many workers don't come back at once.

    Parameters
    ----------
    first, longest
        Seconds.
    """

    def __init__(self, first: float = 0.2, longest: float = 15.0) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def pause(self) -> float:
        """The seconds to wait before the next try."""
        pause = self._next
        self._next = min(self._longest, 2 * pause)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the load, no secret

    def reset(self) -> None:
        """It worked: the next pause is a short one again."""
        self._next = self._first
