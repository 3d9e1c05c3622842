"""A token bucket: so many at once, so many a second after that."""

from __future__ import annotations

import asyncio
import time

from maestro.runtime.clock import Monotonic


class TokenBucket:
    """Spreads requests over time. For one event loop; not thread-safe.

    Parameters
    ----------
    rate
        Tokens that come back each second.
    burst
        Tokens there can be at most, and are at the start.
    """

    def __init__(self, rate: float, burst: int, *, clock: Monotonic = time.monotonic) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("rate must be above 0 and burst at least 1")
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def try_take(self) -> bool:
        """Take a token if there is one now."""
        self._refill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def reserve(self) -> float:
        """Take a token, if need be one of the future; the seconds until it is there.

        Callers are served in the order of their reservations.
        """
        self._refill()
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)

    async def take(self) -> None:
        """Take a token, waiting for it in turn."""
        wait = self.reserve()
        if wait > 0:
            try:
                await asyncio.sleep(wait)
            except asyncio.CancelledError:
                self._tokens += 1.0
                raise
