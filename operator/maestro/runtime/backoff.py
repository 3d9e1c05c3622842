"""Exponential backoff with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure in a row.

    Attributes
    ----------
    initial, maximum
        Seconds after the first failure, and the most there can be before the jitter.
    factor
        What each further failure multiplies the wait by.
    jitter
        The part of a wait that is random: 0.5 spreads it evenly over 50 % to 100 % of its length.
    """

    initial: float = 1.0
    maximum: float = 60.0
    factor: float = 2.0
    jitter: float = 0.5
    uniform: Callable[[float, float], float] = field(default=random.uniform, repr=False)

    def delay(self, failures: int) -> float:
        """Seconds to wait after `failures` failures in a row (1 is the first); 0 when nothing has failed."""
        if failures <= 0:
            return 0.0
        # The exponent is cut so that a key that fails for weeks can't overflow the float.
        full = min(self.maximum, self.initial * self.factor ** min(failures - 1, 64))
        return full * self.uniform(1.0 - self.jitter, 1.0)


def jittered(seconds: float, jitter: float = 0.1, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """`seconds`, lengthened or shortened by at most the part `jitter`: for what must not happen everywhere at once."""
    return seconds * uniform(1.0 - jitter, 1.0 + jitter)
