"""Progress on standard error: what is being done, for how long, and how long it usually takes."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

TICK_SECONDS = 15.0


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"maestro-cluster: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return seconds as people read them: `0.4 s`, `52 s`, `7 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


@contextlib.contextmanager
def step(what: str, usual: float | None = None) -> Iterator[None]:
    """Announce a step, remind of it every 15 s while it lasts, and say how long it took.

    Parameters
    ----------
    what
        The step, as a noun phrase: `kube-apiserver (2 of 9)`.
    usual
        What it usually takes on two cores, in seconds; short steps go without.
    """
    started = time.monotonic()
    done = threading.Event()
    hint = f", usually {duration(usual)}" if usual else ""

    def remind() -> None:
        while not done.wait(TICK_SECONDS):
            say(f"{what}: {duration(time.monotonic() - started)} so far{hint}")

    if usual:
        say(f"{what} …{hint.lstrip(',')}")
    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        say(f"{what}: failed after {duration(time.monotonic() - started)} ({type(error).__name__})")
        raise
    else:
        say(f"{what}: done in {duration(time.monotonic() - started)}")
    finally:
        done.set()
        thread.join()
