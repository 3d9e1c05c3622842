"""The no-op as a worker of the SDK."""

from __future__ import annotations

from tests.performance.stamps import recorder

from maestro_worker import worker

stamp = recorder()


@worker
def noop() -> None:
    """Nothing."""
    stamp()
