"""Puts the API together: areas → table of endpoints → router, behind the gateway check and the guard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import NoReturn

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from maestro.http import health, openapi
from maestro.http.answers import encode
from maestro.http.auth import Authenticator
from maestro.http.automations import AutomationRoutes
from maestro.http.bulk import BulkRoutes
from maestro.http.deadletters import DeadLetterRoutes
from maestro.http.directory import Catalog, Directory
from maestro.http.endpoint import Answer, Endpoint, Table
from maestro.http.errors import not_found
from maestro.http.execute import Execute
from maestro.http.gateway import Gateway, GatewayCheck, OpenGateway
from maestro.http.guard import Guard
from maestro.http.keys import KeyRoutes
from maestro.http.login_routes import LoginRoutes
from maestro.http.logins.service import Logins
from maestro.http.logs import LogRoutes
from maestro.http.objects import Objects
from maestro.http.older_reprocessings import OlderReprocessingRoutes
from maestro.http.plans import PlanRoutes
from maestro.http.preview import PreviewRoutes
from maestro.http.proceed import Proceed
from maestro.http.reprocessings import ReprocessingRoutes
from maestro.http.runs import RunAccess, RunRoutes
from maestro.http.schedules import ScheduleRoutes
from maestro.http.stats import StatsRoutes
from maestro.http.ticks import TickRoutes
from maestro.http.unknown import UnknownRoutes
from maestro.http.user_routes import UserRoutes
from maestro.http.views import RunViews
from maestro.http.worker import WorkerRoutes
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import AUTOMATION, REPROCESSING, SCHEDULE
from maestro.runs.store import RunStore
from maestro.runtime.clock import Clock, utcnow
from maestro.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What the API works with.

    Attributes
    ----------
    store
        The run store.
    catalog
        The Automations, from memory.
    automations, schedules, reprocessings
        The custom resources as they are, from memory.
    authenticator
        Who calls, and what they may.
    objects
        Writes custom resources.
    settings
        Used are `api_namespace` and `gateway_open`.
    gateway
        Which Solutions are blocked.
    stopping
        Set when the server is told to stop, so that log streams end.
    logins
        The installation's own logins; None: it has none.
    """

    store: RunStore
    catalog: Catalog
    authenticator: Authenticator
    objects: Objects
    settings: Settings
    automations: ObjectCache = field(default_factory=lambda: ObjectCache(AUTOMATION))
    schedules: ObjectCache = field(default_factory=lambda: ObjectCache(SCHEDULE))
    reprocessings: ObjectCache = field(default_factory=lambda: ObjectCache(REPROCESSING))
    gateway: Gateway = field(default_factory=OpenGateway)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    logins: Logins | None = None
    clock: Clock = utcnow


def create_app(services: Services) -> ASGIApp:
    """The whole API as one ASGI application."""
    table = _endpoints(services)
    return _guarded(services, Table(table, _nowhere))


def create_gateway_app(services: Services) -> ASGIApp:
    """Only the version 1.0.0 paths, for the port that older callers know."""
    return _guarded(services, Table(_older_endpoints(services), _nowhere))


def _guarded(services: Services, app: ASGIApp) -> ASGIApp:
    settings = services.settings
    check = GatewayCheck(
        app,
        services.gateway,
        services.authenticator,
        settings.api_namespace,
        needs_token=not settings.gateway_open,
    )
    return Proceed(Guard(check), services.gateway, check.solution_id, needs_token=not settings.gateway_open)


def _endpoints(services: Services) -> list[Endpoint]:
    store, authenticator, namespace = services.store, services.authenticator, services.settings.api_namespace
    directory = Directory(store, services.catalog, namespace)
    access = RunAccess(store, authenticator)
    views = RunViews(store, directory, services.gateway)
    # The router looks at one path after the other: what is asked most stands first.
    table = [
        *Execute(store, directory, authenticator).endpoints(),
        *WorkerRoutes(store, directory, authenticator).endpoints(),
        *RunRoutes(store, directory, authenticator, access, views).endpoints(),
        *BulkRoutes(store, directory, authenticator).endpoints(),
        *KeyRoutes(store, directory, authenticator).endpoints(),
        *UnknownRoutes(store, directory, authenticator).endpoints(),
        *LogRoutes(store, access, services.stopping).endpoints(),
        *DeadLetterRoutes(store, directory, authenticator).endpoints(),
        *AutomationRoutes(services.catalog, directory, authenticator, services.objects, namespace).endpoints(),
        *PreviewRoutes(authenticator, services.clock).endpoints(),
        *TickRoutes(services.schedules, store, directory, authenticator, services.clock).endpoints(),
        *ScheduleRoutes(services.schedules, directory, authenticator, services.objects, namespace).endpoints(),
        *PlanRoutes(
            store, services.automations, services.reprocessings, directory, authenticator, namespace
        ).endpoints(),
        *ReprocessingRoutes(
            services.reprocessings, directory, authenticator, services.objects, namespace, services.clock
        ).endpoints(),
        *_older_endpoints(services),
        *StatsRoutes(store, services.catalog, directory, authenticator, services.clock).endpoints(),
        *LoginRoutes(services.logins, authenticator).endpoints(),
        *UserRoutes(services.logins, authenticator, services.settings.namespace, services.clock).endpoints(),
        *health.endpoints(),
    ]
    return [*table, _document(table)]


def _older_endpoints(services: Services) -> list[Endpoint]:
    namespace = services.settings.api_namespace
    directory = Directory(services.store, services.catalog, namespace)
    routes = OlderReprocessingRoutes(
        services.reprocessings, directory, services.authenticator, services.objects, namespace
    )
    return routes.endpoints()


def _document(table: list[Endpoint]) -> Endpoint:
    async def answer(request: Request) -> Response:
        return Response(document, 200, None, "application/json")

    schema = {"type": "object", "additionalProperties": True}
    endpoint = Endpoint(
        "GET", "/openapi.json", answer, "openapi", "This document", "nobody",
        {200: Answer("The OpenAPI 3.1 document", schema)}, "health",
    )  # fmt: skip
    document = encode(openapi.document([*table, endpoint]))
    return endpoint


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> NoReturn:
    raise not_found("there is nothing at this path; /openapi.json lists what there is")
