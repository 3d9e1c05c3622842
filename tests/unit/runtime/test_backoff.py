"""Backoff and jitter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from maestro.runtime.backoff import Backoff, jittered


def test_grows_up_to_its_maximum() -> None:
    backoff = Backoff(initial=1.0, maximum=10.0, factor=2.0, jitter=0.0)
    assert [backoff.delay(n) for n in range(7)] == [0.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(st.integers(min_value=1, max_value=10**9))
def test_stays_within_its_bounds(failures: int) -> None:
    backoff = Backoff(initial=0.5, maximum=60.0, jitter=0.5)
    assert 0.25 <= backoff.delay(failures) <= 60.0


@given(st.floats(min_value=0.0, max_value=1e6), st.floats(min_value=0.0, max_value=1.0))
def test_jitter_stays_within_its_part(seconds: float, jitter: float) -> None:
    assert seconds * (1 - jitter) <= jittered(seconds, jitter) <= seconds * (1 + jitter)
