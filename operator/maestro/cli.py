"""The command `maestro`. Each sub-command imports what it needs: the init container of a Job must start fast."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from maestro import __version__

_WITH_ARGUMENTS = ("crds", "backup", "restore", "migrate")
"""Commands that read their arguments themselves."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the process's exit code (2: the arguments or the settings are wrong)."""
    parser = argparse.ArgumentParser(prog="maestro", description="Automations on Kubernetes.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run the controller, the HTTP API or both, as MAESTRO_ROLE says")
    commands.add_parser("crds", help="render or check the CustomResourceDefinitions", add_help=False)
    commands.add_parser("fetch-parameters", help="write a Run's parameters to a file: the init container of Jobs")
    commands.add_parser("backup", help="write a copy of the run store (SQLite), while it is in use", add_help=False)
    commands.add_parser("restore", help="put a backup in the run store's place", add_help=False)
    commands.add_parser("migrate", help="show or change the revision of the run store's tables", add_help=False)
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in _WITH_ARGUMENTS:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command == "run":
        return _run()
    if args.command == "crds":
        from maestro.resources import crds

        return crds.main(rest)
    if args.command in _WITH_ARGUMENTS:
        from maestro import storecare

        return storecare.main(args.command, rest, os.environ)
    from maestro import parameters_file

    return parameters_file.main(os.environ)


def _run() -> int:
    from maestro import app
    from maestro.settings import InvalidSettings, Settings

    try:
        settings = Settings.from_env(os.environ)
    except InvalidSettings as error:
        print(f"maestro: {error}", file=sys.stderr)
        return 2
    return app.run(settings)
