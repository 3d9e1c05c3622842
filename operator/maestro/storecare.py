"""The commands `maestro backup`, `restore` and `migrate`: the run store in the hands of whoever runs Maestro."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from maestro.runs import backup, dispatch, migrate, restored
from maestro.runs.backup import CareRefused
from maestro.runs.database import Database
from maestro.runs.errors import StoreUnavailable
from maestro.runs.model import to_micros
from maestro.runtime.clock import utcnow
from maestro.settings import InvalidSettings, Settings

Command = Callable[[argparse.Namespace, str], None]
_STREAM = Path("-")


def main(command: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one of the commands on the store that the environment names; returns the process's exit code: 0 done,
    1 refused or the store can't be used, 2 the arguments or the settings are wrong."""
    run, parser = _COMMANDS[command]
    arguments = parser().parse_args(argv)
    try:
        run(arguments, Settings.from_env(environ).store())
    except InvalidSettings as error:
        return _complain(error, 2)
    except (CareRefused, StoreUnavailable, OSError, ValueError) as error:
        return _complain(error, 1)
    return 0


def _complain(error: Exception, code: int) -> int:
    print(f"maestro: {error}", file=sys.stderr)
    return code


def _say(text: str) -> None:
    # standard output may be the backup itself
    print(text, file=sys.stderr)


def _backup_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro backup",
        description="Write a copy of the run store (SQLite) as it is at one moment, while Maestro works.",
    )
    parser.add_argument("target", type=Path, metavar="FILE", help="a new file; - for standard output")
    return parser


def _backup(arguments: argparse.Namespace, url: str) -> None:
    target: Path = arguments.target
    if target != _STREAM:
        _say(f"{target}: {backup.backup(url, target)}")
        return
    if sys.stdout.isatty():
        raise CareRefused("standard output is a terminal: redirect it into a file")
    with tempfile.TemporaryDirectory(prefix="backup-", dir=backup.folder_of(url)) as folder:
        copy = Path(folder) / "maestro.db"
        content = backup.backup(url, copy)
        with copy.open("rb") as file:
            backup.copy_stream(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        _say(f"written: {content}")


def _restore_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro restore",
        description="Put a backup in the run store's place (SQLite, Maestro stopped); the present file is kept.",
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("source", nargs="?", type=Path, metavar="FILE", help="a backup; - for standard input")
    group.add_argument(
        "--mark",
        action="store_true",
        help="the store was restored by other means (pg_restore, a volume's snapshot): only say so",
    )
    return parser


def _restore(arguments: argparse.Namespace, url: str) -> None:
    if arguments.mark:
        _mark(url)
        return
    with ExitStack() as stack:
        source: Path = arguments.source
        if source == _STREAM:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="restore-", dir=backup.folder_of(url)))
            source = Path(folder) / "maestro.db"
            with source.open("wb") as file:
                backup.copy_stream(sys.stdin.buffer, file)
        content, kept = backup.restore(url, source, now=utcnow())
    _say(f"restored: {content}")
    if kept is not None:
        _say(f"the store that was there is kept as {kept}")
    _say("start Maestro: what is Queued is published again, and Runs that the backup doesn't know are recorded")


def _mark(url: str) -> None:
    database = Database(url)
    try:
        migrate.upgrade(database)
        with database.write() as transaction:
            dispatch.prepare(transaction)
            restored.mark(transaction, to_micros(utcnow()))
    finally:
        database.close()
    _say("marked: the leader gives the store a new id and publishes everything Queued again")


def _migrate_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro migrate",
        description="Show the revision of the run store's tables, bring them up to date, or take them back.",
    )
    parser.add_argument(
        "--to",
        metavar="REVISION",
        help="head, or an older revision: before a return to an older Maestro, with Maestro stopped",
    )
    return parser


def _migrate(arguments: argparse.Namespace, url: str) -> None:
    known = migrate.revisions()
    database = Database(url, shared=False)
    try:
        before = migrate.present(database)
        if arguments.to is None:
            _say(f"the store's tables are at {before}; this version knows {', '.join(known)}")
            return
        if arguments.to in ("head", known[-1]):
            migrate.upgrade(database)
            _say(f"{before} -> {known[-1]}")
            return
    finally:
        database.close()
    _say(" -> ".join(backup.downgrade(url, arguments.to)))


_COMMANDS: Mapping[str, tuple[Command, Callable[[], argparse.ArgumentParser]]] = {
    "backup": (_backup, _backup_arguments),
    "restore": (_restore, _restore_arguments),
    "migrate": (_migrate, _migrate_arguments),
}
