"""The reports API over one kept connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import urllib3

from maestro_worker import wire
from maestro_worker.errors import UsageError

PATH = "/api/v1/worker/reports"
_RETRIED_WITH_A_SMALLER_BODY = (400, 413, 422)
_NOT_SENT = (UsageError, urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)


class ApiAway(Exception):  # noqa: N818 - a state
    """The API gave no usable answer; the same request may be sent again.

    `retry_after` are the seconds that it asked for, if it did; `unheard`: nothing of the request was taken in. (Where
    only the answer was lost, a Run may have been started.)
    """

    def __init__(self, reason: str, retry_after: float | None = None, *, unheard: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.unheard = unheard


class ReportsApi:
    """Sends batches of reports; one request at a time.

    Parameters
    ----------
    url
        The API's address without a path.
    credentials
        Gives the header that says who is calling; asked for each request.
    timeout
        Seconds for an answer.
    """

    def __init__(self, url: str, credentials: Callable[[], Mapping[str, str]], timeout: float = 20.0) -> None:
        self._url = url + PATH
        self._credentials = credentials
        limits = urllib3.Timeout(connect=5.0, read=timeout)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False, timeout=limits)

    def send(self, items: Sequence[bytes]) -> list[wire.Answer]:
        """Send reports and return an answer for each.

        Raises
        ------
        ApiAway
            The API can't be reached, is overloaded, doesn't know the token (any more), or isn't the API.
        """
        try:
            headers = {"Content-Type": "application/json", **self._credentials()}
            response = self._pool.request("POST", self._url, body=wire.body(items), headers=headers, redirect=False)
        except (urllib3.exceptions.HTTPError, UsageError) as error:
            raise ApiAway(_reason(error), unheard=isinstance(error, _NOT_SENT)) from None
        if response.status == 200:
            try:
                return wire.answers(response.data, len(items))
            except ValueError as error:
                raise ApiAway(f"{PATH} answered something else: {error}") from None
        if response.status in _RETRIED_WITH_A_SMALLER_BODY:
            return self._halves(items, response.status)
        retry_after = _retry_after(response.headers.get("Retry-After"))
        raise ApiAway(f"the API answered {response.status}", retry_after, unheard=response.status < 500)

    def close(self) -> None:
        """Close the connection."""
        self._pool.clear()

    def _halves(self, items: Sequence[bytes], status: int) -> list[wire.Answer]:
        """One item that the API can't take must not hold up the others: find it."""
        if len(items) == 1:
            return [{"status": status, "reason": "InvalidReport", "message": "the API refused the report"}]
        middle = len(items) // 2
        first = self.send(items[:middle])
        try:
            return first + self.send(items[middle:])
        except ApiAway as error:
            raise ApiAway(str(error), error.retry_after) from None  # the first half was heard


def _reason(error: Exception) -> str:
    """In words, without urllib3's object addresses."""
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return "connection refused or host unknown"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}" if isinstance(error, UsageError) else type(error).__name__


def _retry_after(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() else None
