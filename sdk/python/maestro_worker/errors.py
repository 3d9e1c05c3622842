"""What a worker's function may raise to end its Run, and what the SDK raises in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class BusinessError(Exception):
    """Ends the Run Failed for good: trying again would not help.

    Parameters
    ----------
    error_class
        A short name of the reason, say `EMPTY_VIDEO`. Known by name and worth reusing: CREDENTIAL_INVALID, IP_BLOCKED,
        CAPTCHA_FAILED, INVALID_PARAMETERS.
    message
        For people. Put no secret into it.
    """

    def __init__(self, error_class: str, message: str = "") -> None:
        super().__init__(f"{error_class}: {message}" if message else error_class)
        self.error_class = error_class
        self.message = message


class TechnicalError(Exception):
    """Fails the attempt; the Run is tried again as `run.retry` says. Any other exception does the same.

    Parameters
    ----------
    error_class
        A short name of the reason. Known by name: RATE_LIMITED, PORTAL_DOWN, JOB_TIMEOUT, PARTIAL_FAILURE.
    message
        For people. Put no secret into it.
    """

    def __init__(self, error_class: str, message: str = "") -> None:
        super().__init__(f"{error_class}: {message}" if message else error_class)
        self.error_class = error_class
        self.message = message


@dataclass(frozen=True)
class ParameterProblem:
    """One parameter that can't be used: a JSON pointer to it, the rule's name, and the rule in words."""

    path: str
    rule: str
    message: str


class InvalidParameters(BusinessError):  # noqa: N818 - the name of its error class
    """The Run's parameters don't fit the function. Its message names the paths and rules, never the values."""

    def __init__(self, problems: Sequence[ParameterProblem]) -> None:
        self.problems = tuple(problems)
        text = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
        super().__init__("INVALID_PARAMETERS", text)


class NothingToDo(Exception):  # noqa: N818 - it reports a success
    """Ends the Run as a success that found nothing to do. Raise it, or return it.

    Parameters
    ----------
    message
        Why there was nothing to do.
    result
        The Run's result, if there is one all the same.
    """

    def __init__(self, message: str = "", result: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.result = result


class Canceled(BaseException):
    """The Run is to be given up. Raised by `run.progress()`; clean up and let it pass.

    Derived from BaseException, so that `except Exception` around the items of a loop doesn't swallow it.
    """


class Fenced(Canceled):
    """The attempt was given to another worker (this one was silent for too long); its result won't count."""


class UsageError(Exception):
    """The worker can't begin: a variable, a file or a name is wrong. The message says which."""
