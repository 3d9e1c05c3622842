"""How many Runs there are, by where they stand and how they ended."""

from __future__ import annotations

from datetime import UTC

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission
from maestro.http.endpoint import Answer, Endpoint
from maestro.http.models import Stats
from maestro.runs.store import RunStore
from maestro.runtime.clock import Clock


class StatsRoutes:
    """The endpoints of figures over all Automations."""

    def __init__(self, store: RunStore, authenticator: Authenticator, clock: Clock) -> None:
        self._store = store
        self._authenticator = authenticator
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        answers = {200: Answer("The figures", Stats)}
        summary = "Runs by where they stand, and how they ended lately"
        return [
            Endpoint("GET", "/api/v1/stats", self.stats, "stats", summary, "person", answers, "stats"),
            Endpoint("GET", "/api/v1/metrics", self.stats, "statsOlder", summary, "person", answers, "stats"),
        ]

    async def stats(self, request: Request) -> Response:
        """The figures of all Automations together."""
        person = await self._authenticator.person(request)
        await self._authenticator.require(person, Permission("list", "automations", "runs"))
        counts = list((await self._store.counts()).values())
        midnight = self._clock().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        hours = await self._store.per_hour(24)
        succeeded = sum(count.succeeded_24h for count in counts)
        failed = sum(count.failed_24h for count in counts)
        canceled = sum(count.canceled_24h for count in counts)
        return json_answer(
            {
                "running": sum(count.running for count in counts),
                "pending": sum(count.waiting for count in counts),
                "completedToday": sum(hour.succeeded for hour in hours if hour.hour >= midnight),
                "succeededLast24h": succeeded,
                "failedLast24h": failed,
                "canceledLast24h": canceled,
                "totalLast24h": succeeded + failed + canceled,
                # Canceled Runs say nothing about how well the work goes.
                "successRate24h": succeeded / (succeeded + failed) if succeeded + failed else None,
            }
        )
