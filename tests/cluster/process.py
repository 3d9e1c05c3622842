"""Programs that the harness runs: once to their end, or in the background with a pid file that survives pid reuse."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.errors import ClusterError, CommandError, DiskFullError

TAIL_LINES = 25
POLL_SECONDS = 0.05


def check_disk(folder: Path, need: int) -> None:
    """Raise DiskFullError when fewer than `need` bytes are free below `folder`."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DiskFullError(folder, free, need)


def temporary(file: Path) -> Path:
    """Return the name under which a file is written until it is whole; remove what killed processes left of it.

    To be called under the file's lock. The name carries the pid: a compiler that outlives a killed harness still writes
    to its own.
    """
    for old in file.parent.glob(f".{file.name}.*.partial"):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    return file.with_name(f".{file.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def disk_full_named(folder: Path) -> Iterator[None]:
    """Turn the operating system's ENOSPC into a DiskFullError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(folder, shutil.disk_usage(folder).free) from error
        raise


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text, indented."""
    return "\n".join("    " + line for line in text.rstrip().splitlines()[-lines:])


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    writes: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Run a program to its end and return its standard output.

    Parameters
    ----------
    env
        Added to this process' environment.
    stdin
        Text for its standard input; none by default.
    writes
        The folder it fills, named in the error when the disk is full.
    timeout
        Seconds after which it is killed.

    Raises
    ------
    CommandError
        It ended with an error, took too long or doesn't exist; the end of its output is in the message.
    DiskFullError
        It ended for want of space.
    """
    command = [os.fspath(part) for part in argv]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command[:4])} … was not done after {timeout:.0f} s") from error
    if done.returncode:
        output = done.stderr or done.stdout
        if writes is not None and "No space left on device" in output:
            raise DiskFullError(writes, shutil.disk_usage(writes).free)
        raise CommandError(f"{' '.join(command[:6])} ended with {done.returncode}:\n{tail(output)}")
    return done.stdout


@dataclass(frozen=True)
class Identity:
    """A process for good: its pid alone may belong to somebody else tomorrow."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the identity of a running process, None when there is none (zombies count as none)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = stat.rpartition(")")[2].split()
        # While other threads still end, the first one is a zombie already, but the ports are not free yet.
        if state in "ZX" and _threads(pid) <= 1:
            return None
        return cls(pid=pid, start_ticks=int(fields[18]), boot_id=_boot_id())

    @classmethod
    def load(cls, file: Path) -> Identity | None:
        """Return the identity that a pid file holds, None where there is no readable one."""
        try:
            return cls(**json.loads(file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def save(self, file: Path) -> None:
        """Write the pid file, whole or not at all."""
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(file)

    def alive(self) -> bool:
        """Say whether this very process still runs."""
        _reap(self.pid)
        return Identity.of(self.pid) == self

    def send(self, number: int) -> bool:
        """Send a signal to the process if it is still the same one; return whether it was."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def end(self, *, number: int = signal.SIGTERM, patience: float = 10.0) -> None:
        """Ask the process to end, and kill it when it doesn't within `patience` seconds."""
        for attempt, wait in ((number, patience), (signal.SIGKILL, 10.0)):
            if not self.send(attempt):
                return
            deadline = time.monotonic() + wait
            while time.monotonic() < deadline:
                if not self.alive():
                    return
                time.sleep(POLL_SECONDS)
        raise ClusterError(f"process {self.pid} doesn't die from SIGKILL")


def _threads(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _reap(pid: int) -> None:
    """Collect the process if it was a child of ours, so that it doesn't stay as a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


class Daemon:
    """One background program: a session of its own, a log file and a pid file.

    Another process of the harness that makes a Daemon with the same name and folder sees the same program.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | os.PathLike[str]],
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = [os.fspath(part) for part in argv]
        self.folder = folder
        self.env = dict(env or {})
        self.cwd = cwd
        self.log = folder / f"{name}.log"
        self.pid_file = folder / f"{name}.pid"

    def __repr__(self) -> str:
        return f"Daemon({self.name}, {'alive' if self.alive() else 'dead'})"

    @property
    def identity(self) -> Identity | None:
        """The process in the pid file, running or not."""
        return Identity.load(self.pid_file)

    def alive(self) -> bool:
        """Say whether the program runs."""
        identity = self.identity
        return identity is not None and identity.alive()

    def start(self) -> None:
        """Start the program unless it runs already."""
        if self.alive():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
                cwd=self.cwd,
                start_new_session=True,
            )
        # The pid file holds it from here on; another process may well be the one that stops it.
        child.returncode = 0
        identity = Identity.of(child.pid)
        if identity is None:
            raise ClusterError(f"{self.name} ended at once:\n{self.log_tail()}")
        identity.save(self.pid_file)

    def stop(self, *, number: int = signal.SIGTERM, patience: float = 10.0) -> None:
        """End the program (SIGKILL after `patience` seconds) and remove its pid file; nothing when it doesn't run."""
        identity = self.identity
        if identity is not None:
            identity.end(number=number, patience=patience)
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the program with SIGKILL, as a crash would."""
        self.stop(number=signal.SIGKILL)

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """Return the end of the log, for error messages."""
        try:
            return tail(self.log.read_text(errors="replace"), lines)
        except FileNotFoundError:
            return "    (no log)"


def wait_for(
    what: str,
    condition: Callable[[], object],
    *,
    timeout: float,
    needs: Sequence[Daemon] = (),
    every: float = POLL_SECONDS,
) -> None:
    """Wait until a condition holds.

    Parameters
    ----------
    what
        What is being waited for, as in `etcd answers`.
    condition
        Asked again and again; a true value ends the wait.
    timeout
        Seconds until the wait is given up.
    needs
        Programs without which it can never come true.

    Raises
    ------
    ClusterError
        Time is up, or one of the programs ended; the end of the logs is in the message.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        for daemon in needs:
            if not daemon.alive():
                raise ClusterError(f"{what}: {daemon.name} ended. The end of {daemon.log}:\n{daemon.log_tail()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"  {daemon.log}:\n{daemon.log_tail(8)}" for daemon in needs)
            raise ClusterError(f"{what}: not within {timeout:.0f} s\n{logs}")
        time.sleep(every)
