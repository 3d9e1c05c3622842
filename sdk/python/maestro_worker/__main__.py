"""`python -m maestro_worker module:function` and `python -m maestro_worker schema module:function`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from maestro_worker.errors import UsageError
from maestro_worker.main import USAGE, main
from maestro_worker.worker import Worker


def load(name: str) -> Worker[Any, Any]:
    """The worker called `module:function`; modules of the current folder are found.

    Raises
    ------
    UsageError
        There is no such module or function, or it isn't decorated with `@worker`.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"name the worker as module:function, not {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise  # a module that the worker itself imports
        raise UsageError(f"there is no module {module_name!r}") from None
    found: Any = module
    for part in function_name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Worker):
        raise UsageError(f"{module_name} has no function {function_name!r} decorated with @worker")
    return found


def run(argv: list[str]) -> int:
    """The command; returns only after `schema` or a usage error."""
    parser = argparse.ArgumentParser(
        prog="python -m maestro_worker",
        description="Run a worker, as its environment says: MAESTRO_QUEUE or MAESTRO_RUN_ID. "
        "With `schema` print the JSON Schema of its parameters instead.",
    )
    parser.add_argument("words", nargs="+", metavar="[schema] module:function")
    words = parser.parse_args(argv).words
    try:
        if words[0] == "schema" and len(words) == 2:
            print(json.dumps(load(words[1]).schema(), indent=2))
            return 0
        if len(words) != 1:
            raise UsageError("give one worker: module:function")
        main(load(words[0]))
    except UsageError as error:
        print(f"maestro_worker: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
