"""The installation's settings: environment variables in, one frozen model out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PREFIX = "MAESTRO_"
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class InvalidSettings(ValueError):  # noqa: N818 - reads as what it is
    """The environment holds a value that can't be used; the message names each variable and its rule."""


def _names(value: object) -> object:
    return tuple(name for name in value.replace(",", " ").split() if name) if isinstance(value, str) else value


class Settings(BaseModel):
    """Everything an installation may set, each field from the variable `MAESTRO_<FIELD>`.

    Durations are seconds. Secrets never stand here: only the names of the Secrets and files that hold them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str = Field("maestro", description="Name of the installation; labels and Lease names are made of it.")
    namespace: str = Field("maestro", description="The namespace that Maestro itself runs in.")
    role: Literal["all", "controller", "api"] = "all"
    identity: str = Field("", description="Name of this replica in the Lease; the host's name when empty.")
    watch_namespaces: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="Namespaces whose resources are reconciled; none: the whole cluster."
    )

    store_url: str = Field("sqlite:////var/lib/maestro/maestro.db", repr=False)
    store_url_file: Path | None = Field(None, description="A file that holds the store's URL; wins over store_url.")

    broker_secret: str = Field("maestro-broker", description="Secret with the broker's address and admin user.")
    broker_managed: bool = Field(True, description="The broker is the chart's own: an absent Secret is made.")
    broker_host: str = "maestro-rabbitmq"
    broker_port: int = 5672
    broker_management_port: int = 15672
    broker_vhost: str = "/"

    image: str = Field("", description="Maestro's own image: the init container of Jobs.")
    api_url: str = Field("http://maestro.maestro.svc:8080", description="Where pods reach the HTTP API; no path.")
    http_host: str = "0.0.0.0"  # noqa: S104 - a pod serves on its own address
    http_port: int = 8080
    metrics_port: int = 8081
    gateway_port: int = 6971
    gateway_open: bool = Field(False, description="The gateway check answers without a token.")
    default_namespace: str = Field("", description="Namespace of an id without one; Maestro's own when empty.")
    token_audience: str = "maestro"  # noqa: S105 - a name, no secret
    worker_api_key_file: Path | None = None

    notification_secrets: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="Names of Secrets whose URLs an Automation of their namespace may send notifications to."
    )
    users_secret: str = Field("", description="Secret with the logins, in Maestro's own namespace; none: no logins.")

    resync_seconds: float = Field(30.0, gt=0, description="How often each resource is looked at without an event.")
    kube_qps: float = Field(50.0, gt=0)
    kube_burst: int = Field(100, gt=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the variables that begin with `MAESTRO_`; an empty one counts as absent.

        Raises
        ------
        InvalidSettings
            A variable isn't known or breaks its rule; each is named with the rule, never with its value.
        """
        ours = {key: value for key, value in environ.items() if key.startswith(PREFIX) and value}
        given = {key[len(PREFIX) :].lower(): value for key, value in ours.items()}
        # Variables of the workers' contract may stand in a developer's shell, and Services of the namespace leave
        # `MAESTRO_PORT_8080_TCP` and such in every pod: only known names are taken.
        known = {key: value for key, value in given.items() if key in cls.model_fields}
        known.setdefault("namespace", _own_namespace())
        try:
            return cls.model_validate(known)
        except ValidationError as error:
            problems = "; ".join(f"{PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
            raise InvalidSettings(problems) from None

    @property
    def api_namespace(self) -> str:
        """The namespace of an id in an HTTP path that names none."""
        return self.default_namespace or self.namespace

    def store(self) -> str:
        """The run store's URL, from its file where one is set."""
        return self.store_url_file.read_text(encoding="utf-8").strip() if self.store_url_file else self.store_url


def _own_namespace() -> str:
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip() or "maestro"
    except OSError:
        return "maestro"
