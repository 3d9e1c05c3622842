"""The message that tells a worker of a Run: its body and headers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from maestro.runs.model import Claimed, Leadership, Registration

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Message:
    """What is handed to the transport. `headers` is one mapping for all messages of a leadership."""

    queue: str
    pub: int
    message_id: str
    headers: Mapping[str, int | str]
    body: bytes


def headers_of(leadership: Leadership) -> Mapping[str, int | str]:
    """The headers that say which store and which leader sent a message (the transport adds `maestro-pub`)."""
    return {"maestro-epoch": leadership.epoch, "maestro-store": leadership.store_id}


class MessageMaker:
    """Makes the messages of one Automation as it is registered now."""

    def __init__(self, registration: Registration, headers: Mapping[str, int | str]) -> None:
        if registration.queue is None:
            raise ValueError(f"{registration.id} has no queue: it launches Jobs")
        self.registration = registration
        self._queue = registration.queue
        self._headers = headers
        self._fixed = _encode(
            {
                "automation_id": registration.id,
                "script_path": registration.script_path,
                "solution": registration.solution_id,
            }
        )[1:-1]

    def __call__(self, run: Claimed) -> Message:
        """Return the message of a claimed Run; parameters are in it where the claim brought them."""
        run_id = str(run.id)
        scheduled = None if run.scheduled_time is None else run.scheduled_time.isoformat()
        # Most Runs have none of the optional parts, and encoding is on the way of every dispatch.
        if run.parameters is None and scheduled is None and run.reprocessing is None and run.traceparent is None:
            rest = '"scheduled_time":null,"reprocessing":null,"traceparent":null}'
        else:
            optional = {
                "scheduled_time": scheduled,
                "reprocessing": run.reprocessing,
                "traceparent": run.traceparent,
            }
            given = {} if run.parameters is None else {"parameters": run.parameters}
            rest = _encode(optional | given)[1:]
        body = f'{{"job_id":"{run_id}",{self._fixed},"attempt":{run.attempt},{rest}'.encode()
        return Message(self._queue, run.pub, run_id, self._headers, body)
