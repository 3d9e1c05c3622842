"""Connections and transactions on SQLite or PostgreSQL: the one place that knows how the two differ."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from maestro.runs.errors import StoreUnavailable

Row = tuple[Any, ...]
Params = Mapping[str, Any]
_T = TypeVar("_T")

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
BUSY_TIMEOUT = 10.0
"""Seconds that SQLite waits for another process' write."""
CONNECT_TIMEOUT = 5
"""Seconds in which PostgreSQL must answer a new connection."""

_INSERT_SIZES = (100, 10, 1)
"""Rows of one INSERT: few lengths, so that the driver finds each statement prepared."""

_STATES = {name: str(code) for code, name in enumerate("HPQRTSFC")}
_TOKEN = re.compile(r"\{(\w)\}")
_IN = re.compile(r"\{in :(\w+)\}")
_NAMED = re.compile(r"(?<!:):([a-z_]\w*)")


class Sql:
    """A statement with `:name` parameters, in both dialects.

    `{P}` is the code of a state (its letter in lifecycle), `{in :ids}` a test against a list parameter, `{lock}` the
    row lock where the dialect has one, `{same}` the comparison that takes NULL for a value.
    """

    __slots__ = ("postgresql", "sqlite")

    def __init__(self, statement: str) -> None:
        text = _TOKEN.sub(lambda match: _STATES[match[1]], " ".join(statement.split()))
        self.sqlite = _IN.sub(r"IN (SELECT value FROM json_each(:\1))", text)
        self.sqlite = self.sqlite.replace("{lock}", "").replace("{same}", "IS")
        other = _IN.sub(r"= ANY(:\1)", text).replace("{lock}", "FOR UPDATE").replace("{same}", "IS NOT DISTINCT FROM")
        self.postgresql = _NAMED.sub(r"%(\1)s", other.replace("%", "%%"))


class Transaction:
    """Statements of one transaction, on a raw cursor: SQLAlchemy's own path costs more than SQLite itself does."""

    def __init__(self, database: Database, connection: sa.Connection) -> None:
        self.database = database
        self.connection = connection
        self.sqlite = database.dialect == SQLITE
        self._cursor: Any = connection.connection.cursor()
        self.after_commit: list[Callable[[], None]] = []
        """What must happen once the transaction is durable, and not before."""

    def end(self) -> None:
        """Gives the cursor back, here and now. Left to the garbage collector, it would be reset in whichever thread
        that runs in, and with it a statement that the next transaction has from the same cache: SQLite calls it misuse.
        """
        with suppress(sqlite3.Error, psycopg.Error):
            self._cursor.close()

    def all(self, sql: Sql, params: Params | None = None) -> list[Row]:
        """Every row."""
        self._execute(sql, params or {})
        rows: list[Row] = self._cursor.fetchall()
        return rows

    def one(self, sql: Sql, params: Params | None = None) -> Row | None:
        """The first row, or None."""
        self._execute(sql, params or {})
        row: Row | None = self._cursor.fetchone()
        return row

    def run(self, sql: Sql, params: Params | None = None) -> int:
        """Executes; the number of rows it touched."""
        self._execute(sql, params or {})
        return int(self._cursor.rowcount)

    def many(self, sql: Sql, rows: Sequence[Params]) -> int:
        """Executes once for each row of parameters, in one round trip; the number of rows touched in all."""
        if not rows:
            return 0
        self._cursor.executemany(sql.sqlite if self.sqlite else sql.postgresql, rows)
        return int(self._cursor.rowcount)

    def insert(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Inserts rows of values. On SQLite many go in one statement: one for each row costs twice as much, and gives
        the interpreter's lock away each time."""
        if not self.sqlite:
            if rows:
                self._cursor.executemany(_insert(table, columns, 1, "%s"), rows)
            return
        done = 0
        for size in _INSERT_SIZES:
            while len(rows) - done >= size:
                values = [value for row in rows[done : done + size] for value in row]
                self._cursor.execute(_insert(table, columns, size, "?"), values)
                done += size

    def update(self, table: str, columns: tuple[str, ...], guards: tuple[str, ...], rows: Sequence[Row]) -> int:
        """Sets columns, one UPDATE for each row of values: those of `columns`, then what `guards` must still have. The
        number of rows touched in all. Values go by their place: by name SQLite's driver takes three times as long."""
        self._cursor.executemany(_update(table, columns, guards, "?" if self.sqlite else "%s"), rows)
        return int(self._cursor.rowcount)

    def each(self, sql: Sql, rows: Sequence[Params]) -> list[list[Row]]:
        """Executes a statement with RETURNING for each row of parameters; what each returned."""
        if not rows:
            return []
        if self.sqlite:
            execute, statement = self._cursor.execute, sql.sqlite
            return [execute(statement, row).fetchall() for row in rows]
        self._cursor.executemany(sql.postgresql, rows, returning=True)
        return [result.fetchall() for result in self._cursor.results()]

    def uuid(self, value: UUID | None) -> Any:
        """A uuid as a parameter."""
        return value.hex if self.sqlite and value is not None else value

    def _execute(self, sql: Sql, params: Params) -> None:
        if not self.sqlite:
            self._cursor.execute(sql.postgresql, params)
            return
        if any(type(value) is list for value in params.values()):
            params = {name: json.dumps(v) if type(v) is list else v for name, v in params.items()}
        self._cursor.execute(sql.sqlite, params)


class Doors(Protocol):
    """How an area with tables of its own gets its transactions; see `RunStore`."""

    async def write(self, action: Callable[[Transaction], _T], weight: int = 1) -> _T: ...
    async def read(self, action: Callable[[Transaction], _T]) -> _T: ...


def as_uuid(value: Any) -> UUID:
    """A uuid from a column, whichever dialect it comes from."""
    # three times as fast as UUID(hex=…), and on the path of every report
    return value if isinstance(value, UUID) else UUID(int=int(value, 16))


def as_uuid_or_none(value: Any) -> UUID | None:
    return None if value is None else as_uuid(value)


def clean(value: str | None) -> str | None:
    """A text that both databases take: workers' words may hold NULs and halves of surrogate pairs."""
    if value is None or (value.isascii() and "\0" not in value):
        return value
    return value.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


as_json = json.JSONEncoder(separators=(",", ":")).encode
"""Compact JSON, in ASCII: half a surrogate pair is no UTF-8. (`json.dumps` with options makes an encoder each time.)"""


@lru_cache(maxsize=64)
def _insert(table: str, columns: tuple[str, ...], rows: int, mark: str) -> str:
    row = f"({', '.join([mark] * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"  # noqa: S608 - our own names


@lru_cache(maxsize=256)
def _update(table: str, columns: tuple[str, ...], guards: tuple[str, ...], mark: str) -> str:
    assignments = ", ".join(f"{column} = {mark}" for column in columns)
    conditions = " AND ".join(f"{column} = {mark}" for column in guards)
    return f"UPDATE {table} SET {assignments} WHERE {conditions}"  # noqa: S608 - our own names


class Retry(Exception):  # noqa: N818 - a signal, not a fault
    """The transaction lost a race and must run again."""


class Database:
    """The engine. One thread writes (`write`), any number read (`read`)."""

    def __init__(self, url: str, *, shared: bool = True) -> None:
        """`shared`: an SQLite file can't be replaced while it is open here. Raises ValueError, StoreUnavailable."""
        self.url = _checked(url)
        self.dialect = self.url.get_backend_name()
        self._use = contextlib.ExitStack()
        if shared and self.dialect == SQLITE:
            self._use.enter_context(_used(Path(str(self.url.database))))
        self.engine = _sqlite_engine(self.url) if self.dialect == SQLITE else _postgresql_engine(self.url)
        self.readers = self.engine if self.dialect == POSTGRESQL else _sqlite_engine(self.url, read_only=True)
        self._writing: sa.Connection | None = None

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that writes; commits at the end of the block. Only for the writer's thread.

        Raises StoreUnavailable, and Retry where running the block again is the answer.
        """
        reused, committing = self._writing is not None, False
        try:
            if self._writing is None:
                self._writing = self.engine.connect()
            transaction = Transaction(self, self._writing)
            try:
                self._begin(transaction)
                try:
                    yield transaction
                except BaseException:
                    self._abandon(transaction)
                    raise
                committing = True
                self._commit(transaction)
            finally:
                transaction.end()
        except (sqlite3.Error, psycopg.Error, SQLAlchemyError) as error:
            raise self._translated(error, stale=reused and not committing) from error
        for action in transaction.after_commit:
            action()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent look. Raises StoreUnavailable."""
        try:
            with self.readers.connect() as connection:
                if self.dialect == SQLITE:
                    connection.exec_driver_sql("BEGIN")
                else:
                    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                transaction = Transaction(self, connection)
                try:
                    yield transaction
                finally:
                    transaction.end()
        except (sqlite3.Error, psycopg.Error, SQLAlchemyError) as error:
            if not _out_of_reach(error):
                raise
            raise unavailable(error) from error

    def close(self) -> None:
        """Closes every connection."""
        self._drop()
        self.engine.dispose()
        self.readers.dispose()
        self._use.close()

    def _begin(self, transaction: Transaction) -> None:
        # psycopg begins by itself with the first statement
        if self.dialect == SQLITE:
            transaction._cursor.execute("BEGIN IMMEDIATE")

    def _commit(self, transaction: Transaction) -> None:
        connection: Any = transaction.connection.connection.driver_connection
        connection.commit()

    def _abandon(self, transaction: Transaction) -> None:
        """Rolls back; a connection that can't even do that is dropped."""
        connection: Any = transaction.connection.connection.driver_connection
        try:
            connection.rollback()
        except (sqlite3.Error, psycopg.Error):
            self._drop()

    def _translated(self, error: Exception, *, stale: bool) -> Exception:
        """`stale`: the connection is an older one and nothing was committed, so that a new one may simply do it."""
        if _lost_a_race(error):
            return Retry(str(error))
        self._drop()
        if not _out_of_reach(error):
            return error
        return Retry(str(error)) if stale and self.dialect == POSTGRESQL else unavailable(error)

    def _drop(self) -> None:
        connection, self._writing = self._writing, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def unavailable(error: Exception) -> StoreUnavailable:
    """The driver's words, without its help texts and parameters."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    first = (str(original).strip() or type(original).__name__).splitlines()[0]
    # What a PostgreSQL server says for itself has a code; what the driver says of a connection has none.
    gone = isinstance(original, psycopg.Error) and original.sqlstate is None
    return StoreUnavailable(f"the run store can't be used: {first}", gone=gone)


def _lost_a_race(error: Exception) -> bool:
    again = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation)
    if isinstance(error, again):
        return True
    return isinstance(error, sqlite3.IntegrityError) and "UNIQUE" in str(error)


def _out_of_reach(error: Exception) -> bool:
    """The database's state is the cause, and not the statement."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return not isinstance(original, (sqlite3.ProgrammingError, sqlite3.IntegrityError)) and not str(
            original
        ).startswith(("no such", "near ", "incomplete input"))
    reachable = (psycopg.errors.ProgrammingError, psycopg.errors.IntegrityError, psycopg.errors.DataError)
    if isinstance(original, reachable):
        return isinstance(original, psycopg.errors.InsufficientPrivilege)
    return True


def _checked(url: str) -> sa.URL:
    parsed = sa.make_url(url)
    backend = parsed.get_backend_name()
    if backend == POSTGRESQL:
        return parsed.set(drivername="postgresql+psycopg")
    if backend != SQLITE:
        raise ValueError(f"the store's URL must begin with sqlite: or postgresql:, not {parsed.drivername}:")
    if not parsed.database or parsed.database == ":memory:":
        raise ValueError("the store's URL must name a file: an SQLite database in memory would lose every Run")
    return parsed.set(drivername="sqlite+pysqlite")


def _sqlite_engine(url: sa.URL, *, read_only: bool = False) -> sa.Engine:
    arguments = {"timeout": BUSY_TIMEOUT, "check_same_thread": False, "isolation_level": None, "cached_statements": 512}
    engine = sa.create_engine(url, connect_args=arguments, pool_size=4, max_overflow=8)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute("PRAGMA cache_size=-65536")
        connection.execute("PRAGMA temp_store=MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only=ON")

    return engine


@contextmanager
def in_use(path: Path, *, alone: bool = False) -> Iterator[bool]:
    """Marks an SQLite file as used while the block runs: by many, or `alone` by one. False: it can't be had so now.

    The mark is a lock on a file beside it, and ends with its process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.use").open("a") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _used(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            free = stack.enter_context(in_use(path))
        except OSError as error:
            raise unavailable(error) from error
        if not free:
            raise unavailable(RuntimeError("a backup is being restored"))
        yield


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    return sa.create_engine(
        url,
        connect_args={"connect_timeout": CONNECT_TIMEOUT, "application_name": "maestro"},
        pool_size=4,
        max_overflow=8,
        pool_timeout=CONNECT_TIMEOUT,
        pool_pre_ping=True,
    )
