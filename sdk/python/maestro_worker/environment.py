"""The environment of a worker's pod."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maestro_worker.errors import UsageError


@dataclass(frozen=True)
class Environment:
    """What a worker is told by its pod; each field is the variable `MAESTRO_<FIELD>`.

    `run_id` makes it a Job, else `queue` makes it a queue worker. Times are seconds.
    """

    api_url: str
    queue: str | None = None
    run_id: str | None = None
    parameters_file: Path | None = None
    broker_url_file: Path | None = None
    broker_url: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    worker_api_key_file: Path | None = None
    worker_api_key: str | None = field(default=None, repr=False)
    automation: str | None = None
    concurrency: int | None = None
    pod_uid: str = ""
    drain_timeout: float = 900.0

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Environment:
        """Read the variables; an empty one counts as absent.

        Raises
        ------
        UsageError
            A variable is absent or breaks its rule; names it, never its value.
        """
        given = {key: value for key, value in environ.items() if key.startswith("MAESTRO_") and value}
        queue, run_id = given.get("MAESTRO_QUEUE"), given.get("MAESTRO_RUN_ID")
        if not queue and not run_id:
            raise UsageError("set MAESTRO_QUEUE to work on a queue, or MAESTRO_RUN_ID to work on one Run as a Job")
        environment = cls(
            api_url=_required(given, "MAESTRO_API_URL").rstrip("/"),
            queue=queue,
            run_id=run_id,
            parameters_file=_path(given, "MAESTRO_PARAMETERS_FILE"),
            broker_url_file=_path(given, "MAESTRO_BROKER_URL_FILE"),
            broker_url=given.get("MAESTRO_BROKER_URL"),
            token_file=_path(given, "MAESTRO_TOKEN_FILE"),
            worker_api_key_file=_path(given, "MAESTRO_WORKER_API_KEY_FILE"),
            worker_api_key=given.get("MAESTRO_WORKER_API_KEY"),
            automation=given.get("MAESTRO_AUTOMATION"),
            concurrency=_integer(given, "MAESTRO_CONCURRENCY"),
            pod_uid=given.get("MAESTRO_POD_UID") or os.uname().nodename,
            drain_timeout=_seconds(given, "MAESTRO_DRAIN_TIMEOUT", 900.0),
        )
        environment.credentials()
        if not run_id:
            environment.broker()
        return environment

    def new_identity(self) -> str:
        """`<pod uid>/<process uuid>`: who holds a Run. Another one at each call."""
        return f"{self.pod_uid}/{uuid.uuid4()}"

    def broker(self) -> str:
        """The broker's URL as it stands now: it is rotated, so read it for each connection.

        Raises
        ------
        UsageError
            Neither the file nor the variable has one.
        """
        if self.broker_url_file is not None and self.broker_url_file.exists():
            return self.broker_url_file.read_text(encoding="utf-8").strip()
        if self.broker_url is None:
            raise UsageError("set MAESTRO_BROKER_URL_FILE to a file that holds the broker's URL, or MAESTRO_BROKER_URL")
        return self.broker_url

    def credentials(self) -> dict[str, str]:
        """The header that says who is calling, as the files stand now: the token is renewed every hour.

        Raises
        ------
        UsageError
            There is no token and no key, or the file can't be read.
        """
        try:
            if self.token_file is not None:
                return {"Authorization": f"Bearer {self.token_file.read_text(encoding='utf-8').strip()}"}
            if self.worker_api_key_file is not None:
                return {"X-Worker-API-Key": self.worker_api_key_file.read_text(encoding="utf-8").strip()}
        except OSError as error:
            raise UsageError(f"the file with the API's credentials can't be read: {error}") from None
        if self.worker_api_key is not None:
            return {"X-Worker-API-Key": self.worker_api_key}
        raise UsageError(
            "set MAESTRO_TOKEN_FILE (or MAESTRO_WORKER_API_KEY_FILE): the API wants to know who is calling"
        )


def _required(given: Mapping[str, str], name: str) -> str:
    try:
        return given[name]
    except KeyError:
        raise UsageError(f"{name} is not set") from None


def _path(given: Mapping[str, str], name: str) -> Path | None:
    return Path(given[name]) if name in given else None


def _integer(given: Mapping[str, str], name: str) -> int | None:
    if name not in given:
        return None
    if not given[name].isdecimal() or int(given[name]) < 1:
        raise UsageError(f"{name} is a whole number of at least 1")
    return int(given[name])


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(given.get(name, default))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"{name} is a number of seconds")
    return seconds
