"""What can go wrong with the broker's management API."""

from __future__ import annotations


class BrokerError(Exception):
    """The broker couldn't do what it was asked; the message never holds a credential."""


class BrokerUnavailable(BrokerError):  # noqa: N818 - a state, as the conditions name it
    """No answer: connection refused or lost, timed out, or the broker is failing (5xx). Trying again may help."""


class BrokerRefused(BrokerError):  # noqa: N818 - an answer, as the conditions name it
    """The broker answered with a refusal (4xx).

    Attributes
    ----------
    status
        The HTTP status; 400 with an `inequivalent arg` in the reason is a declaration that differs from what is there.
    reason
        The broker's own words.
    """

    def __init__(self, what: str, status: int, reason: str) -> None:
        super().__init__(f"{what}: {status} {reason}")
        self.status = status
        self.reason = reason


class NotThere(BrokerRefused):
    """The queue, user, policy, … doesn't exist (404)."""
