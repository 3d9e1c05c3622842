"""Makes the Kubernetes Job of a Run's attempt."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from maestro.kube.cache import ObjectCache
from maestro.kube.client import KubeClient
from maestro.kube.errors import AlreadyExists, BadRequest, Invalid, KubeError, TooManyRequests
from maestro.kube.kinds import JOB
from maestro.resources import Automation
from maestro.runs.dispatcher import JobRefused
from maestro.runs.model import Claimed, Registration
from maestro.runs.parameters import InvalidSchema, ParameterValidator
from maestro.workload.job import job
from maestro.workload.merge import InvalidTemplate, MergeTable
from maestro.workload.pod import Installation, controller_of
from maestro.workload.pressure import Pressure

Object = dict[str, Any]

_PATIENCE = 5
"""How often a busy API server is asked for one Job before the Run goes back to wait in the store."""


class KubeJobLauncher:
    """Makes the Job of a Run's attempt. The Job's name is made of both, so that it can't be made twice."""

    def __init__(
        self,
        kube: KubeClient,
        automations: ObjectCache,
        installation: Installation,
        table: Callable[[], MergeTable],
    ) -> None:
        self._kube = kube
        self._automations = automations
        self._installation = installation
        self._table = table
        self._pressure = Pressure()
        self._validators: dict[str, tuple[int, ParameterValidator]] = {}

    async def launch(self, run: Claimed, registration: Registration) -> None:
        """Make the Job; one of that name that is there already is the same. Raises JobRefused."""
        obj = self._automations.get(registration.namespace, registration.name)
        if obj is None or obj["metadata"].get("uid") != registration.uid:
            raise JobRefused(f"Automation {registration.id} isn't known to be there", final=False)
        body = self._body(obj, run)
        try:
            await self._create(registration.namespace, body)
        except AlreadyExists:
            await self._same(registration, body["metadata"])
        except (Invalid, BadRequest) as error:
            raise JobRefused(error.message, final=True) from error
        except KubeError as error:
            raise JobRefused(str(error), final=False) from error

    async def _create(self, namespace: str, body: Object) -> None:
        """Raises KubeError; TooManyRequests where the API server stays busy."""
        for _ in range(_PATIENCE):
            async with self._pressure:
                try:
                    await self._kube.create(JOB, namespace, body)
                except TooManyRequests as error:
                    self._pressure.pushed_back()
                    wait = error.retry_after or 1.0
                else:
                    self._pressure.eased()
                    return
            await asyncio.sleep(wait * random.uniform(1.0, 1.25))  # noqa: S311 - spreads load, keeps no secret
        raise TooManyRequests(429, "TooManyRequests", "the API server is too busy for more Jobs")

    def _body(self, obj: Object, run: Claimed) -> Object:
        try:
            automation = Automation.model_validate(obj)
            parameters = run.parameters or {}
            hidden = self._hidden(automation, parameters)
            return job(
                automation,
                self._installation,
                run.id,
                run.attempt,
                parameters,
                hidden,
                tick=run.job,
                table=self._table(),
            )
        except (InvalidTemplate, ValidationError, InvalidSchema) as error:
            raise JobRefused(str(error), final=True) from error

    def _hidden(self, automation: Automation, parameters: Mapping[str, Any]) -> list[str]:
        """The parameters that hold something `writeOnly`."""
        uid, generation = automation.metadata.uid, automation.metadata.generation
        known = self._validators.get(uid)
        if known is None or known[0] != generation:
            validator = ParameterValidator(automation.spec.parameter_schema, automation.spec.default_parameters)
            known = self._validators[uid] = generation, validator
        redacted = known[1].redact(parameters)
        return [name for name, value in parameters.items() if redacted.get(name) != value]

    async def _same(self, registration: Registration, wanted: Mapping[str, Any]) -> None:
        """Make sure that the Job which has the name is the one that is wanted, and stays."""
        name = wanted["name"]
        try:
            there = await self._kube.get(JOB, registration.namespace, name)
        except KubeError as error:
            raise JobRefused(str(error), final=False) from error
        if there["metadata"].get("deletionTimestamp"):
            raise JobRefused(f"Job {name} is still being deleted", final=False)
        owner, ours = controller_of(there), controller_of({"metadata": wanted})
        if owner is not None and ours is not None and owner.get("uid") == ours["uid"]:
            return
        if (
            owner is not None
            and ours is not None
            and (owner.get("kind"), owner.get("name"))
            == (
                ours["kind"],
                ours["name"],
            )
        ):
            # Of an object of the same name that is gone: the garbage collector is on its way.
            raise JobRefused(f"Job {name} is left over from an earlier {ours['kind']} {ours['name']}", final=False)
        raise JobRefused(f"Job {name} exists and isn't the {ours['kind'] if ours else 'owner'}'s", final=True)
