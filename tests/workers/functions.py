"""The functions that the tests' workers run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from maestro_worker import BusinessError, NothingToDo, Run, worker

logger = logging.getLogger(__name__)


def _note(folder: str, run: Run, what: str) -> None:
    """A line that even a killed process leaves behind."""
    with (Path(folder) / f"{run.id}.{what}").open("a") as file:
        file.write(f"{os.getpid()} {run.attempt}\n")


@worker
def note(run: Run, folder: str, number: int = 0, seconds: float = 0.0) -> dict[str, int]:
    """Leave a mark, take `seconds`, leave another."""
    _note(folder, run, "began")
    logger.info("number %d", number)
    until = time.monotonic() + seconds
    step = 0
    while time.monotonic() < until:
        time.sleep(0.01)
        step += 1
        run.progress(step, text="working")
    _note(folder, run, "ended")
    return {"number": number}


@worker
async def note_async(run: Run, folder: str, number: int = 0, seconds: float = 0.0) -> dict[str, int]:
    """The same as a coroutine."""
    _note(folder, run, "began")
    await asyncio.sleep(seconds)
    logger.info("number %d", number)
    run.progress(1, 1)
    _note(folder, run, "ended")
    return {"number": number}


@worker
def kills(run: Run, folder: str, number: int = 0, poison: int = 0, gate: str = "go") -> dict[str, int]:
    """Number `poison` takes its process along, the others end once the file `gate` is there."""
    _note(folder, run, "began")
    if number == poison:
        while len(list(Path(folder).glob("*.began"))) <= poison:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    while not (Path(folder) / gate).exists():
        time.sleep(0.01)
    _note(folder, run, "ended")
    return {"number": number}


@worker
def ends(run: Run, how: str, times: int = 1) -> Any:
    """End in every way there is; a technical failure only in the first `times` attempts."""
    if how == "business":
        raise BusinessError("EMPTY_VIDEO", "no frames")
    if how == "nothing":
        raise NothingToDo("no invoices")
    if how == "technical" and run.attempt <= times:
        raise ConnectionError("the portal is down")
    if how == "not json":
        return {"what": object()}
    return {"attempt": run.attempt, "how": how}


@worker
def wait(seconds: float = 0.0) -> None:
    """Take `seconds`, and nothing else."""
    time.sleep(seconds)
