"""A worker's process: what runs when a pod of an Automation starts."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pydantic_core import from_json

from maestro_worker.api import ReportsApi
from maestro_worker.broker import Consumer
from maestro_worker.delivery import Delivery
from maestro_worker.engine import Engine, Stop
from maestro_worker.environment import Environment
from maestro_worker.errors import UsageError
from maestro_worker.logs import RunLogHandler
from maestro_worker.outcome import Outcome
from maestro_worker.run import Message
from maestro_worker.worker import Worker

logger = logging.getLogger(__name__)

SUCCESS, TECHNICAL, USAGE, BUSINESS, CANCELED = 0, 1, 2, 3, 4
"""Exit codes. A queue worker ends with SUCCESS once it has stopped in good order."""


SWITCH_SECONDS = 0.0005
"""So long a function that computes holds the interpreter's lock at a stretch: Python's own 5 ms would delay every
message, report and heartbeat by as much."""


def main(worker: Worker[Any, Any]) -> NoReturn:
    """Run `worker` as its environment says, and exit.

    A queue worker when MAESTRO_QUEUE is set, a Job when MAESTRO_RUN_ID is. Exit codes of a Job: 0 success, 1 technical
    failure, 3 business failure, 4 canceled; 2 when the environment is wrong.
    """
    try:
        code = serve(worker, os.environ)
    except UsageError as error:
        print(f"maestro_worker: {error}", file=sys.stderr)
        code = USAGE
    # Threads of functions that didn't end in time were handed back; nothing may wait for them.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(worker: Worker[Any, Any], environ: Mapping[str, str]) -> int:
    """Run `worker` until it is told to stop (queue) or has done its Run (Job); returns the exit code.

    Call it in the main thread: it takes over SIGTERM and SIGINT.

    Raises
    ------
    UsageError
        The environment is wrong; names the variable.
    """
    environment = Environment.read(environ)
    _set_up_logging()
    sys.setswitchinterval(SWITCH_SECONDS)
    api = ReportsApi(environment.api_url, environment.credentials)
    try:
        return _serve_run(worker, environment, api) if environment.run_id else _serve_queue(worker, environment, api)
    finally:
        api.close()


def _serve_queue(worker: Worker[Any, Any], environment: Environment, api: ReportsApi) -> int:
    assert environment.queue is not None
    concurrency = environment.concurrency or worker.concurrency
    consumer = Consumer(environment.broker, environment.queue, concurrency, lambda event: engine.receive(event))
    engine = Engine(
        worker,
        api=api,
        transport=consumer,
        identity=environment.new_identity(),
        concurrency=concurrency,
        drain_timeout=environment.drain_timeout,
    )
    _stop_on_signals(engine)
    logger.info("worker %s starts, concurrency %d", worker.name, concurrency)
    consumer.start()
    complete = engine.serve()
    consumer.close()
    logger.info("worker %s has stopped", worker.name)
    return SUCCESS if complete else TECHNICAL


class _NoTransport:
    """A Job has no message."""

    def settle(self, connection: int, *, done: Sequence[int] = (), reject: Sequence[int] = ()) -> None:
        pass

    def set_limit(self, limit: int, unstarted: Sequence[Delivery] = ()) -> None:
        pass

    def stop_taking(self, unstarted: Sequence[Delivery]) -> None:
        pass


def _serve_run(worker: Worker[Any, Any], environment: Environment, api: ReportsApi) -> int:
    assert environment.run_id is not None
    ends: list[Outcome | str] = []
    engine = Engine(
        worker,
        api=api,
        transport=_NoTransport(),
        # The one process of its pod. Maestro, which sees the container run, begins the attempt under this name too.
        identity=environment.pod_uid,
        concurrency=1,
        drain_timeout=environment.drain_timeout,
        once=True,
        ended=lambda job, how: ends.append(how),
    )
    _stop_on_signals(engine)
    content = {
        "automation_id": environment.automation,
        "parameters": _parameters(environment.parameters_file),
    }
    engine.receive(Delivery(0, 0, Message(environment.run_id, content), False, None, None, None))
    complete = engine.serve()
    return exit_code(ends[-1]) if complete and ends else TECHNICAL


def exit_code(end: Outcome | str) -> int:
    """The exit code of a Job whose Run ended so; a string is the reason why there was nothing to do, or no end."""
    if isinstance(end, str):
        return SUCCESS if end == "ended" else TECHNICAL
    if end.status == "canceled":
        return CANCELED
    if end.status == "failed":
        return BUSINESS if end.kind == "business" else TECHNICAL
    return SUCCESS


def _parameters(file: Path | None) -> Any:
    if file is None:
        return None
    try:
        return from_json(file.read_bytes())
    except (OSError, ValueError) as error:
        kind = "can't be read" if isinstance(error, OSError) else "isn't JSON"
        raise UsageError(f"MAESTRO_PARAMETERS_FILE: {file} {kind}") from None


def _stop_on_signals(engine: Engine) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        engine.receive(Stop())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _set_up_logging() -> None:
    """Log to stderr unless the program has set that up itself, and to the Runs' logs in any case."""
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if not any(isinstance(handler, RunLogHandler) for handler in root.handlers):
        root.addHandler(RunLogHandler())
    # What matters of it is said in this package's own words.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
