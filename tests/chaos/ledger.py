"""The account that Maestro doesn't keep: each execution writes when it begins and ends, into files outside of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

WORKER = '''
"""Takes its time; writes a line when it begins and one when it ends, each in one write() that a SIGKILL can't tear."""

import os
import time
import uuid

from maestro_worker import Run, worker

FILE = os.open(f"/ledger/{os.environ['HOSTNAME']}.{uuid.uuid4().hex}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


@worker
def work(run: Run, seconds: float = 0.5) -> dict[str, object]:
    token = uuid.uuid4().hex
    write("began", run, token)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        run.progress()
        time.sleep(min(0.1, seconds))
    write("ended", run, token)
    return {"token": token, "attempt": run.attempt}


def write(what: str, run: Run, token: str) -> None:
    os.write(FILE, f"{what} {run.id} {run.attempt} {token}\\n".encode())
'''


@dataclass
class Executions:
    """What the ledger says of one Run: the token of each execution, by its attempt."""

    began: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)


def read(folder: Path) -> dict[UUID, Executions]:
    """Everything that was written, by Run."""
    runs: dict[UUID, Executions] = defaultdict(Executions)
    for file in folder.iterdir():
        for line in file.read_text().splitlines():
            what, run, attempt, token = line.split()
            executions = runs[UUID(run)]
            (executions.began if what == "began" else executions.ended)[token] = int(attempt)
    return runs
