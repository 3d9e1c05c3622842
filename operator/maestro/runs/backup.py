"""Backup and restore of a run store on SQLite, and the way back through its migrations. Everything here blocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa

from maestro.runs import dispatch, migrate, restored
from maestro.runs.database import SQLITE, Database, in_use, unavailable
from maestro.runs.model import to_micros

_BESIDE = ("", "-wal", "-shm")
"""What SQLite keeps of one database."""
_MAGIC = b"SQLite format 3\0"


class CareRefused(Exception):  # noqa: N818 - an answer
    """What was asked for can't be done, or must not be; nothing was changed. The message says what to do instead."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a file of a run store holds."""

    revision: str
    store_id: str
    epoch: int
    next_pub: int
    runs: int
    size: int
    """Bytes."""

    def __str__(self) -> str:
        return (
            f"{self.size:,} bytes, tables {self.revision}, {self.runs:,} Runs, store {self.store_id}, "
            f"epoch {self.epoch}, next publication {self.next_pub:,}"
        )


def backup(url: str, target: Path) -> Content:
    """Write a copy of the store as it is at one moment, while it is in use; nothing waits for it.

    The copy is complete and checked when it has its name. Raises CareRefused, and StoreUnavailable where the store or
    the target can't be used.
    """
    source = _file_of(url)
    if not source.is_file():
        raise CareRefused(f"there is no run store at {source}")
    if target.exists():
        raise CareRefused(f"{target} exists already")
    part = target.with_name(f"{target.name}.part")
    with _outages(), _gone_at_the_end(part):
        part.unlink(missing_ok=True)
        with contextlib.closing(_connect(source)) as connection:
            # One reading transaction: in WAL mode it stops no writer. The backup API would begin again at each write.
            connection.execute("VACUUM INTO ?", (str(part),))
        content = inspect(part)
        _sync(part)
        part.rename(target)
        _sync(target.parent)
    return content


def restore(url: str, source: Path, *, now: datetime) -> tuple[Content, Path | None]:
    """Put a backup in the store's place; the file that was there is kept beside it. Returns what the store holds now,
    and where the old file is.

    The restored store gets a new id, and everything Queued in it counts as not yet published: see `restored`.
    Raises CareRefused where the file is no sound backup of a version that is known here, or the store is in use;
    StoreUnavailable for the disk's own reasons.
    """
    target = _file_of(url)
    if not source.is_file():
        raise CareRefused(f"there is no file {source}")
    fresh = target.with_name(f"{target.name}.restoring")
    with _outages(), _alone(target), _gone_at_the_end(fresh):
        _remove(fresh)
        for suffix in _BESIDE[:2]:
            beside = source.with_name(f"{source.name}{suffix}")
            if beside.exists():
                shutil.copyfile(beside, fresh.with_name(f"{fresh.name}{suffix}"))
        inspect(fresh, source)
        _begin_anew(fresh, to_micros(now))
        content = inspect(fresh)
        _sync(fresh)
        kept = _set_aside(target, now) if target.exists() else None
        # The old file is there until this very moment: a crash in between must not leave an empty place, at which a
        # Maestro that starts would make an empty store.
        fresh.replace(target)
        _sync(target.parent)
    return content, kept


def inspect(path: Path, known_as: Path | None = None) -> Content:
    """Look whether a file (for people: `known_as`) is a sound run store of a version that is known here.

    Raises
    ------
    CareRefused
        It isn't; the message says what is wrong with it.
    """
    name = known_as or path
    try:
        with contextlib.closing(_connect(path)) as connection:
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
            if problems != ["ok"]:
                raise CareRefused(f"{name} is damaged: {'; '.join(map(str, problems))}")
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"alembic_version", "leader", "run"} <= tables:
                raise CareRefused(f"{name} is a database, but no run store of Maestro")
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
            leader = connection.execute("SELECT store_id, epoch, next_pub FROM leader").fetchone()
            (runs,) = connection.execute("SELECT count(*) FROM run").fetchone()
    except sqlite3.Error as error:
        raise CareRefused(f"{name} can't be read as a run store: {error}") from None
    if revision not in migrate.revisions():
        raise CareRefused(f"{name} was made by a newer version of Maestro (tables {revision}): use that version")
    if leader is None:
        raise CareRefused(f"{name} was never used: nothing in it says which store it is")
    store_id, epoch, next_pub = leader
    return Content(revision, store_id, epoch, next_pub, runs, path.stat().st_size)


def downgrade(url: str, revision: str) -> tuple[str, str]:
    """Take the tables back to an older revision, Runs in flight included. Returns the one before and the one now.

    Raises CareRefused where Maestro runs on the store, or the revision isn't known or isn't older; StoreUnavailable.
    """
    known = migrate.revisions()
    if revision not in known:
        raise CareRefused(f"there is no revision {revision}; known are: {', '.join(known)}")
    database = Database(url, shared=False)
    try:
        before = migrate.present(database)
        if before is None or before not in known or known.index(before) < known.index(revision):
            raise CareRefused(f"the store's tables are at {before}: older than {revision}, or of a newer Maestro")
        with _alone(Path(str(database.url.database))) if database.dialect == SQLITE else _no_sessions(database):
            migrate.downgrade(database, revision)
    finally:
        database.close()
    return before, revision


def _file_of(url: str) -> Path:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == SQLITE:
        return Path(str(parsed.database))
    raise CareRefused(
        "the store is on PostgreSQL, which has tools of its own: pg_dump --format=custom for a backup; pg_restore, and "
        "then maestro restore --mark, to come back to one"
    )


def _begin_anew(path: Path, now: int) -> None:
    """Bring a copy's tables up to date and give it a new id; afterwards it is one file again."""
    database = Database(f"sqlite:///{path}", shared=False)
    try:
        migrate.upgrade(database)
        with database.write() as transaction:
            dispatch.prepare(transaction)
            restored.renew(transaction, now, how=restored.COMMAND)
    finally:
        database.close()
    with contextlib.closing(_connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def _set_aside(target: Path, now: datetime) -> Path:
    """Keep the present store under another name; its place stays taken."""
    kept = target.with_name(f"{target.name}.before-{now:%Y%m%dT%H%M%SZ}")
    if not _emptied_its_log(target):
        for suffix in _BESIDE[1:]:
            beside = target.with_name(f"{target.name}{suffix}")
            if beside.exists():
                beside.rename(kept.with_name(f"{kept.name}{suffix}"))
    try:
        os.link(target, kept)
    except OSError:
        shutil.copyfile(target, kept)
        _sync(kept)
    return kept


def _emptied_its_log(path: Path) -> bool:
    """Whether what its log holds is in the file now: a log that stayed would be taken for the new file's."""
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return False
    try:
        with contextlib.closing(_connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error:
        return False
    return True


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with in_use(path, alone=True) as taken:
        if not taken:
            raise CareRefused(
                f"the run store {path} is in use: stop Maestro first (kubectl scale statefulset maestro --replicas=0)"
            )
        yield


@contextlib.contextmanager
def _no_sessions(database: Database) -> Iterator[None]:
    with database.engine.connect() as connection:
        (others,) = connection.execute(
            sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'maestro' AND pid <> pg_backend_pid()"
            )
        ).one()
    if others:
        raise CareRefused(f"{others} sessions of Maestro are open on the store: stop controllers and API first")
    yield


@contextlib.contextmanager
def _outages() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise unavailable(error) from error


@contextlib.contextmanager
def _gone_at_the_end(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    for suffix in (*_BESIDE, ".lock"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that isn't there must not be made
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=10.0)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_stream(source: BinaryIO, target: BinaryIO) -> None:
    """Copy the rest of one stream to another."""
    shutil.copyfileobj(source, target, 1 << 20)


def folder_of(url: str) -> Path:
    """Where the store's file is: the one place of a pod with room for another. Raises CareRefused for PostgreSQL."""
    return _file_of(url).parent
