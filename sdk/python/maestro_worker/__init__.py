"""Worker SDK of Maestro: a decorated function is a worker.

>>> from maestro_worker import BusinessError, Run, worker
>>> @worker
... def double(run: Run, number: int) -> int:
...     run.progress(1, 1)
...     return 2 * number
>>> double.run(number=21)
42
"""

from maestro_worker.errors import (
    BusinessError,
    Canceled,
    Fenced,
    InvalidParameters,
    NothingToDo,
    TechnicalError,
    UsageError,
)
from maestro_worker.logs import RunLogHandler
from maestro_worker.main import main
from maestro_worker.run import Run, current_run
from maestro_worker.testing import FakeRun
from maestro_worker.worker import Worker, worker

__all__ = [
    "BusinessError",
    "Canceled",
    "FakeRun",
    "Fenced",
    "InvalidParameters",
    "NothingToDo",
    "Run",
    "RunLogHandler",
    "TechnicalError",
    "UsageError",
    "Worker",
    "current_run",
    "main",
    "worker",
]
