"""The decorator: a function with typed parameters becomes a worker."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

from maestro_worker.parameters import ParameterSet
from maestro_worker.run import Run, enter
from maestro_worker.testing import FakeRun

P = ParamSpec("P")
R = TypeVar("R")


class Worker(Generic[P, R]):
    """A function that can be run as a queue worker, as a Job, or in a plain test.

    Attributes
    ----------
    name
        The function's name.
    concurrency
        How many Runs one process works on at a time; `MAESTRO_CONCURRENCY` wins.
    is_async
        The function is a coroutine function: its Runs are tasks of one event loop instead of threads.
    """

    def __init__(self, function: Callable[P, R], concurrency: int = 1) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is at least 1, not {concurrency}")
        functools.update_wrapper(self, function)
        self.name = getattr(function, "__name__", type(function).__name__)
        self.concurrency = concurrency
        self.is_async = inspect.iscoroutinefunction(function)
        self._function: Callable[..., Any] = function
        self._parameters = ParameterSet(function, (Run,))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        result: R = self._function(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<worker {self.name}>"

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the parameters, for `spec.parameterSchema`."""
        return self._parameters.schema()

    def run(self, run: FakeRun | None = None, /, **parameters: Any) -> Any:
        """Run the function in a plain test: no broker, no cluster.

        The parameters go through the same checks as a Run's. Give a FakeRun to look at progress and logs, or to cancel.

        Raises
        ------
        InvalidParameters
            A parameter is absent, unknown or of a wrong type. Besides that, whatever the function raises.
        """
        fake = _fake(run, parameters)
        context = contextvars.copy_context()
        if self.is_async:
            return context.run(asyncio.run, self.call_async(fake, parameters))
        return context.run(self.call, fake, parameters)

    async def run_async(self, run: FakeRun | None = None, /, **parameters: Any) -> Any:
        """`run()` of an async function, for tests that are async themselves."""
        return await asyncio.create_task(self.call_async(_fake(run, parameters), parameters))

    def call(self, run: Run, parameters: Mapping[str, Any]) -> Any:
        """Call the (sync) function for `run` with `parameters` as its arguments, in this thread."""
        enter(run)
        return self._function(**self._arguments(run, parameters))

    async def call_async(self, run: Run, parameters: Mapping[str, Any]) -> Any:
        """Await the (async) function for `run` with `parameters` as its arguments, in this task."""
        enter(run)
        return await self._function(**self._arguments(run, parameters))

    def _arguments(self, run: Run, parameters: Mapping[str, Any]) -> Any:
        arguments = self._parameters.arguments(parameters)
        if self._parameters.run_parameter is not None:
            arguments[self._parameters.run_parameter] = run
        return arguments


def _fake(run: FakeRun | None, parameters: Mapping[str, Any]) -> FakeRun:
    if run is None:
        return FakeRun(parameters=parameters)
    run.parameters = parameters
    return run


@overload
def worker(function: Callable[P, R], /) -> Worker[P, R]: ...
@overload
def worker(*, concurrency: int = 1) -> Callable[[Callable[P, R]], Worker[P, R]]: ...
def worker(
    function: Callable[P, R] | None = None, /, *, concurrency: int = 1
) -> Worker[P, R] | Callable[[Callable[P, R]], Worker[P, R]]:
    """Make a function a worker: `@worker` or `@worker(concurrency=2)`.

    The function's parameters, by name and type, are the parameters of a Run; one called `run` (or annotated `Run`)
    receives the Run itself. What it returns is the Run's result, and must fit into JSON.

    Raises
    ------
    TypeError
        A parameter can't be given by name, or its type has no JSON Schema.
    """
    if function is not None:
        return Worker(function)
    return lambda function: Worker(function, concurrency)
