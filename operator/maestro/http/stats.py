"""How many Runs there are, by where they stand and how they ended."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from maestro.http.answers import json_answer
from maestro.http.auth import Authenticator, Permission
from maestro.http.directory import Catalog, Directory, split_id
from maestro.http.endpoint import Answer, Endpoint
from maestro.http.figure_models import AutomationQuery, AutomationsFigures, ErrorClasses, Hours, HoursQuery, Stats
from maestro.http.query import query
from maestro.http.views import moment
from maestro.runs import figures
from maestro.runs.figures import Sampled
from maestro.runs.model import Counts, older_status, to_micros
from maestro.runs.store import RunStore
from maestro.runtime.clock import Clock


class StatsRoutes:
    """The endpoints of figures, over all Automations or of one."""

    def __init__(
        self, store: RunStore, catalog: Catalog, directory: Directory, authenticator: Authenticator, clock: Clock
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._directory = directory
        self._authenticator = authenticator
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """This area's part of the table."""
        answers = {200: Answer("The figures", Stats)}
        summary = "Runs by where they stand, and how they ended lately"
        path = "/api/v1/metrics"
        return [
            Endpoint("GET", "/api/v1/stats", self.stats, "stats", summary, "person", answers, "stats"),
            Endpoint("GET", path, self.stats, "statsOlder", summary, "person", answers, "stats"),
            Endpoint(
                "GET", f"{path}/jobs-per-hour", self.per_hour, "runsPerHour", "Ended Runs by hour",
                "person", {200: Answer("The hours", Hours)}, "stats", (404, 422), query=HoursQuery,
            ),
            Endpoint(
                "GET", f"{path}/automations", self.automations, "automationFigures", "Figures by Automation",
                "person", {200: Answer("The figures", AutomationsFigures)}, "stats", (404, 422), query=AutomationQuery,
            ),
            Endpoint(
                "GET", f"{path}/error-classes", self.error_classes, "errorClasses",
                "Runs that failed in the last 24 hours, by class of error",
                "person", {200: Answer("The classes", ErrorClasses)}, "stats", (404, 422), query=AutomationQuery,
            ),
        ]  # fmt: skip

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
                "successRate24h": _rate(succeeded, failed),
            }
        )

    async def per_hour(self, request: Request) -> Response:
        """Ended Runs by hour."""
        wanted = query(request, HoursQuery)
        keys = await self._entered(request, wanted.automation)
        only = next(iter(keys)) if wanted.automation is not None else None
        items = [
            {
                "hour": moment(hour.hour),
                "total": hour.total,
                "succeeded": hour.succeeded,
                "failed": hour.failed,
                "canceled": hour.canceled,
            }
            for hour in await self._store.per_hour(wanted.hours, only)
        ]
        return json_answer({"items": items})

    async def automations(self, request: Request) -> Response:
        """Figures by Automation."""
        keys = await self._entered(request, query(request, AutomationQuery).automation)
        counts = await self._store.counts()
        sampled = await self._store.read(lambda transaction: figures.sample(transaction, keys))
        items = [self._shown(keys[pk], counts.get(pk, Counts()), sampled[pk]) for pk in keys]
        return json_answer({"items": items})

    async def error_classes(self, request: Request) -> Response:
        """Failed Runs by class of error."""
        keys = await self._entered(request, query(request, AutomationQuery).automation)
        since = to_micros(self._clock() - timedelta(hours=24))
        found = await self._store.read(lambda transaction: figures.error_classes(transaction, keys, since))
        items = [{"errorClass": name, "count": count} for name, count in found.most_common()]
        return json_answer({"items": items})

    async def _entered(self, request: Request, automation: str | None) -> dict[int, str]:
        """The Automations whose figures are asked for, by key: their ids, in order; 403 without the right to list."""
        person = await self._authenticator.person(request)
        namespace, name, automation_id = "", "", None
        if automation is not None:
            automation_id = self._directory.full_id(automation)
            namespace, name = split_id(automation_id)
        await self._authenticator.require(person, Permission("list", "automations", "runs", namespace, name))
        if automation_id is not None:
            key, _ = await self._directory.find(automation_id)
            return {key: automation_id}
        found = {key: registration.id for key, registration in self._store.registrations().items()}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def _shown(self, automation_id: str, count: Counts, sampled: Sampled) -> dict[str, Any]:
        automation = self._catalog.get(automation_id)
        name = automation.spec.display_name if automation is not None else None
        last = sampled.last_state
        return {
            "automationId": automation_id,
            "name": name or split_id(automation_id)[1],
            "total": count.succeeded_24h + count.failed_24h + count.canceled_24h,
            "succeeded": count.succeeded_24h,
            "failed": count.failed_24h,
            "canceled": count.canceled_24h,
            "successRate": _rate(count.succeeded_24h, count.failed_24h),
            "sampled": sampled.sampled,
            "manual": sampled.manual,
            "scheduled": sampled.scheduled,
            "durationP50S": sampled.duration_p50,
            "durationP95S": sampled.duration_p95,
            "lastStatus": None if last is None else older_status(last, sampled.last_reason),
            "lastRunAt": moment(sampled.last_at),
            "recent": [older_status(state) for state in sampled.recent],
        }


def _rate(succeeded: int, failed: int) -> float | None:
    """Canceled Runs say nothing about how well the work goes."""
    return succeeded / (succeeded + failed) if succeeded + failed else None
