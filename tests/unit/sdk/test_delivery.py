"""Messages of the queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from maestro_worker.delivery import NotARun, read
from maestro_worker.run import Run

BODY = b"""{"job_id":"j","automation_id":"ns.name","script_path":"a/b.py","solution":"ns.ns","attempt":1,
"scheduled_time":"2026-01-02T03:04:05+00:00","reprocessing":"fix","traceparent":"00-1-2-01","parameters":{"a":1}}"""
HEADERS = {"maestro-pub": 5, "maestro-epoch": 2, "maestro-store": "store"}


def test_a_message() -> None:
    delivery = read(1, 9, True, HEADERS, BODY)
    assert (delivery.connection, delivery.tag, delivery.redelivered) == (1, 9, True)
    assert (delivery.pub, delivery.epoch, delivery.store) == (5, 2, "store")
    run = Run(delivery.message, attempt=2, parameters={})
    assert (run.id, run.automation, run.solution) == ("j", "ns.name", "ns.ns")
    assert (run.script_path, run.reprocessing, run.traceparent) == ("a/b.py", "fix", "00-1-2-01")
    assert run.scheduled_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert delivery.message.parameters == {"a": 1}
    assert "{'a': 1}" not in repr(delivery)


def test_a_message_with_nothing_but_its_run() -> None:
    delivery = read(1, 1, False, None, b'{"job_id":"j","scheduled_time":null}')
    assert (delivery.pub, delivery.epoch, delivery.store) == (None, None, None)
    assert delivery.message.parameters is None
    assert Run(delivery.message, attempt=1, parameters={}).scheduled_time is None


def test_odd_headers_and_fields_are_left_out() -> None:
    odd: dict[str, Any] = {"maestro-pub": "5", "maestro-epoch": True, "maestro-store": 1}
    delivery = read(1, 1, False, odd, b'{"job_id":"j","scheduled_time":"soon","solution":4,"parameters":[1]}')
    assert (delivery.pub, delivery.epoch, delivery.store) == (None, None, None)
    run = Run(delivery.message, attempt=1, parameters={})
    assert (run.scheduled_time, run.solution, delivery.message.parameters) == (None, None, None)


def test_which_copies_are_of_one_publication() -> None:
    first = read(1, 1, False, HEADERS, BODY)
    assert first.same_publication(read(2, 7, True, HEADERS, BODY))
    assert not first.same_publication(read(1, 2, False, HEADERS | {"maestro-pub": 6}, BODY))
    assert not first.same_publication(read(1, 2, False, HEADERS | {"maestro-store": "other"}, BODY))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"job_id":1}', b'"text"'])
def test_what_is_no_message_of_a_run(body: bytes) -> None:
    with pytest.raises(NotARun):
        read(1, 1, False, None, body)
