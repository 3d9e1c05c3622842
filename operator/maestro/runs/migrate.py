"""Creates the store's tables or brings them up to date, under a lock, when the store is opened."""

from __future__ import annotations

import fcntl
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from maestro.runs.database import SQLITE, Database, unavailable

_ADVISORY_LOCK = 0x6D61_6573_7472_6F31
"""Which advisory lock of the database is ours ("maestro1")."""
_SCRIPTS = Path(__file__).parent / "migrations"
_log = logging.getLogger(__name__)


def upgrade(database: Database) -> None:
    """Runs the migrations that are missing. Of several processes one does it and the others wait.

    Raises StoreUnavailable when the database can't be reached or written to, or was written by a newer Maestro.
    """
    try:
        with _locked(database) as connection:
            _upgrade(connection)
    except (sqlite3.Error, psycopg.Error, SQLAlchemyError, OSError) as error:
        raise unavailable(error) from error


def revisions() -> list[str]:
    """Every revision that this version knows, the oldest first."""
    return [script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()][::-1]


def present(database: Database) -> str | None:
    """The revision that the store's tables are at; None: there are none. Raises StoreUnavailable."""
    try:
        with database.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    except (sqlite3.Error, psycopg.Error, SQLAlchemyError) as error:
        raise unavailable(error) from error


def downgrade(database: Database, revision: str) -> None:
    """Takes the tables back to an older revision; all of it or nothing. Raises StoreUnavailable."""
    try:
        with _locked(database) as connection:
            command.downgrade(config(connection), revision)
    except (sqlite3.Error, psycopg.Error, SQLAlchemyError, OSError) as error:
        raise unavailable(error) from error


def config(connection: Connection) -> Config:
    """Alembic's configuration, with nothing read from a file: an installed package has none."""
    # an interpolation sign in a path would be taken for a reference
    settings = Config()
    settings.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    settings.attributes["connection"] = connection
    return settings


def _upgrade(connection: Connection) -> None:
    settings = config(connection)
    _refuse_newer(connection)
    command.upgrade(settings, "head")


def _refuse_newer(connection: Connection) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in revisions():
        raise unavailable(RuntimeError(f"its tables were made by a newer version of Maestro (revision {found})"))


@contextmanager
def _locked(database: Database) -> Iterator[Connection]:
    if database.dialect == SQLITE:
        with _file_lock(Path(f"{database.url.database}.lock")), database.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()
        return
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()
        try:
            with connection.begin():
                yield connection
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
            connection.commit()


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Waits for the lock; it ends with its process, so that nothing stale is left behind."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
