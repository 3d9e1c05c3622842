"""From an id in a path to the Automation behind it: its object, its registration in the run store, its validator."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from maestro.http.errors import HttpError, not_found, unavailable
from maestro.kube.cache import ObjectCache
from maestro.kube.kinds import ObjectKey
from maestro.resources import Automation
from maestro.runs.model import Registration
from maestro.runs.parameters import ParameterValidator
from maestro.runs.registration import registration_of
from maestro.runs.store import RunStore

log = logging.getLogger(__name__)

NOBODYS = -1
"""A key that no registration has: a worker whose Automation the store never knew."""

_NAME = r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?"
_NAMESPACE = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_ID = re.compile(rf"(?:(?P<namespace>{_NAMESPACE})\.)?(?P<name>{_NAME})")
_VALIDATORS = 2_000


class Version(NamedTuple):
    """Which state of which object: a new object of the same name has another UID."""

    uid: str
    generation: int


class Catalog(Protocol):
    """The Automations as the API server holds them, from memory."""

    @property
    def synced(self) -> bool:
        """Whether all of them have been seen: only then does an absent one not exist."""

    def version(self, automation_id: str) -> Version | None:
        """The object's version; None where there is none."""

    def get(self, automation_id: str) -> Automation | None:
        """The object; None where there is none, or where it can't be read."""

    def all(self) -> Iterable[Automation]:
        """Every object that can be read."""


class CacheCatalog:
    """The catalog over the cache that kopf or an informer feeds."""

    def __init__(self, cache: ObjectCache) -> None:
        self._cache = cache
        self._parsed: dict[str, tuple[str, Automation]] = {}
        cache.subscribe(self._forget)

    def _forget(self, key: ObjectKey, found: object | None) -> None:
        if found is None:
            self._parsed.pop(f"{key.namespace}.{key.name}", None)

    @property
    def synced(self) -> bool:
        """Whether the cache has taken in a whole list."""
        return self._cache.synced

    def version(self, automation_id: str) -> Version | None:
        """The version of the object, without parsing it."""
        found = self._cache.get(*split_id(automation_id))
        return None if found is None else Version(found["metadata"]["uid"], found["metadata"].get("generation", 1))

    def get(self, automation_id: str) -> Automation | None:
        """The object, parsed once for each resourceVersion."""
        found = self._cache.get(*split_id(automation_id))
        if found is None:
            return None
        version = found["metadata"].get("resourceVersion", "")
        known = self._parsed.get(automation_id)
        if known is not None and known[0] == version:
            return known[1]
        try:
            automation = Automation.model_validate(found)
        except ValidationError as error:
            log.warning("Automation %s can't be read: %d fields break the schema", automation_id, error.error_count())
            return None
        self._parsed[automation_id] = (version, automation)
        return automation

    def all(self) -> Iterable[Automation]:
        """Every object that can be read, by namespace and name."""
        ids = sorted(f"{key.namespace}.{key.name}" for key in self._cache.keys())  # noqa: SIM118 - a method of the cache
        return [automation for automation in map(self.get, ids) if automation is not None]


def split_id(automation_id: str) -> tuple[str, str]:
    """`<namespace>.<name>` → (namespace, name); names have no dots."""
    namespace, _, name = automation_id.rpartition(".")
    return namespace, name


class Directory:
    """Resolves ids and pods' Automations to registrations, and keeps the compiled validators."""

    def __init__(self, store: RunStore, catalog: Catalog, default_namespace: str) -> None:
        self._store = store
        self._catalog = catalog
        self._default_namespace = default_namespace
        self._validators: OrderedDict[tuple[str, int], ParameterValidator] = OrderedDict()

    def full_id(self, given: str, kind: str = "Automation") -> str:
        """`<namespace>.<name>` of an id in a path.

        Raises
        ------
        HttpError
            404: no object of that kind can have such an id.
        """
        match = _ID.fullmatch(given)
        if match is None:
            raise not_found(f"no such {kind}: an id is <name> or <namespace>.<name>")
        return f"{match['namespace'] or self._default_namespace}.{match['name']}"

    async def find(self, automation_id: str) -> tuple[int, Registration]:
        """The Automation's key in the run store and its registration, brought up to date with the object.

        Raises
        ------
        HttpError
            404 where there is no such Automation; 503 before the objects have been loaded; 409 for one that can't be
            read.
        """
        version = self._catalog.version(automation_id)
        live = self._store.live(automation_id)
        if version is None:
            if self._catalog.synced:
                raise not_found(f"there is no Automation {automation_id}")
            if live is None:
                raise unavailable("the list of Automations")
            return live
        if live is not None and live[1].uid == version.uid and live[1].generation >= version.generation:
            return live
        automation = self._catalog.get(automation_id)
        if automation is None:
            raise HttpError(409, f"the Automation {automation_id} breaks its schema and can't be used")
        registration = registration_of(automation)
        return await self._store.register(registration), registration

    async def keys_named(self, automation_id: str) -> frozenset[int]:
        """The keys of the Automation and of those that had its id before it; they outlive the object.

        Raises
        ------
        HttpError
            As `find`, where no Automation with this id was ever known.
        """
        known = self._store.keys_named(automation_id)
        if known and self._catalog.version(automation_id) is None:
            return known
        return known | {(await self.find(automation_id))[0]}

    async def key_of(self, uid: str, automation_id: str) -> int:
        """The key of the Automation with this UID; of one that is gone too: its pods finish what they run."""
        known = self._store.key_of(uid)
        if known is not None:
            return known
        version = self._catalog.version(automation_id)
        return (await self.find(automation_id))[0] if version is not None and version.uid == uid else NOBODYS

    def validator(self, registration: Registration) -> ParameterValidator:
        """The compiled schema of a registration.

        Raises
        ------
        InvalidSchema
            The Automation's parameterSchema can't be used.
        """
        key = (registration.uid, registration.generation)
        known = self._validators.get(key)
        if known is None:
            known = ParameterValidator(registration.parameter_schema, registration.default_parameters)
            self._validators[key] = known
            while len(self._validators) > _VALIDATORS:
                self._validators.popitem(last=False)
        else:
            self._validators.move_to_end(key)
        return known
