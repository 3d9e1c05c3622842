"""A real PostgreSQL 15 on this machine: Debian's, on data of its own, without fsync."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import instances, packages, ports
from tests.cluster.errors import CommandError, UnsupportedError
from tests.cluster.process import Daemon, run, wait_for

BIN = Path("/usr/lib/postgresql/15/bin")
USER = "maestro"
START_SECONDS = 60.0


class Postgres:
    """One PostgreSQL server with a superuser; each test makes a database of its own in it.

    Use it as a context manager, or call `start()` and at the end `close()`.

    Attributes
    ----------
    user, password
        The superuser.
    port
        Where it listens, on 127.0.0.1 only.
    """

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise UnsupportedError("the PostgreSQL of the tests is Debian's: it needs Linux")
        packages.require("postgresql-15")
        self.folder = instances.make("postgres")
        self.user = USER
        self.password = secrets.token_urlsafe(16)
        self.port = ports.reserve()
        self._data = self.folder / "data"
        self._daemon = Daemon(
            "postgres",
            [
                *self._as_unprivileged(),
                *(BIN / "postgres", "-D", self._data, "-p", str(self.port)),
                *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                *("-c", "fsync=off", "-c", "full_page_writes=off"),
                *("-c", "max_connections=200"),
            ],
            self.folder,
            cwd=self.folder,
        )

    def __repr__(self) -> str:
        return f"Postgres(port={self.port})"

    def __enter__(self) -> Postgres:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._daemon.log

    def url(self, database: str = "postgres", driver: str = "postgresql+psycopg") -> str:
        """Return SQLAlchemy's URL of a database; `driver="postgresql"` makes it libpq's."""
        return f"{driver}://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def alive(self) -> bool:
        """Say whether the server's process runs."""
        return self._daemon.alive()

    def start(self) -> None:
        """Start the server (its data is made at the first start) and wait until it answers."""
        if not self._data.exists():
            self._initialise()
        self._daemon.start()
        wait_for("PostgreSQL answers", self._answers, timeout=START_SECONDS, needs=[self._daemon])

    def stop(self) -> None:
        """End the server in good order, with open connections cut off."""
        self._daemon.stop(number=signal.SIGINT, patience=30.0)

    def kill(self) -> None:
        """End the server with SIGKILL, its children too: nothing was fsynced, but all of it was written."""
        identity = self._daemon.identity
        if identity is not None and identity.alive():
            os.killpg(identity.pid, signal.SIGKILL)
        self._daemon.kill()

    def restart(self) -> None:
        """Stop the server and start it again on its data."""
        self.stop()
        self.start()

    def create_database(self, prefix: str = "test") -> str:
        """Make an empty database and return its name."""
        name = f"{prefix}_{secrets.token_hex(6)}"
        self.sql(f'CREATE DATABASE "{name}"')
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database and cut off whoever uses it."""
        self.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextlib.contextmanager
    def database(self, prefix: str = "test") -> Iterator[str]:
        """Make an empty database for the block; gives SQLAlchemy's URL of it."""
        name = self.create_database(prefix)
        try:
            yield self.url(name)
        finally:
            self.drop_database(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement with psql and return the rows, fields parted by `|`."""
        return run(
            [BIN / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", self.url(database, "postgresql")],
            stdin=statement,
        )

    def close(self) -> None:
        """Kill the server and remove its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _unprivileged(self) -> pwd.struct_passwd | None:
        """The user that the server runs as; None for the one we are (PostgreSQL refuses to run as root)."""
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam("postgres")
        except KeyError:
            return pwd.getpwnam("nobody")

    def _as_unprivileged(self) -> list[str]:
        user = self._unprivileged()
        if user is None:
            return []
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def _initialise(self) -> None:
        user = self._unprivileged()
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            os.chown(password_file, user.pw_uid, user.pw_gid)
        try:
            run(
                [
                    *self._as_unprivileged(),
                    *(BIN / "initdb", "-D", self._data, "-U", self.user, f"--pwfile={password_file}"),
                    *("-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
                ],
                cwd=self.folder,
                writes=self.folder,
            )
        finally:
            password_file.unlink()

    def _answers(self) -> bool:
        try:
            return self.sql("SELECT 1").strip() == "1"
        except CommandError:
            return False
