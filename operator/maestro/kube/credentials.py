"""Where the API server is and how to prove who one is: a kubeconfig file, or the pod's own service account."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import incluster_config
from kubernetes.aio.config.config_exception import ConfigException

from maestro.kube.errors import Unauthorized


class TokenFile:
    """A bearer token that the kubelet replaces from time to time; read anew once a minute, and after a refusal."""

    def __init__(self, path: Path, *, max_age: float = 60.0) -> None:
        self._path = path
        self._max_age = max_age
        self._token = ""
        self._read_at = float("-inf")

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"

    def expire(self) -> None:
        """Read the file again at the next use."""
        self._read_at = float("-inf")

    def token(self) -> str:
        """The token as the file has it now, or had it at most `max_age` seconds ago.

        Raises
        ------
        Unauthorized
            The file is missing or empty and no token was ever read.
        """
        now = time.monotonic()
        if now - self._read_at < self._max_age:
            return self._token
        try:
            token = self._path.read_text(encoding="utf-8").strip()
        except OSError as error:
            token = ""
            problem = error.strerror or "unreadable"
        else:
            problem = "empty"
        if token:
            self._token, self._read_at = token, now
        elif not self._token:
            raise Unauthorized(401, "NoToken", f"the token file {self._path} is {problem}")
        return self._token


@dataclass
class Credentials:
    """The connection's configuration (address, CA, client certificate) and its Authorization header."""

    configuration: Any = field(repr=False)
    token_file: TokenFile | None = None

    @property
    def server(self) -> str:
        """The address of the API server, without a path's slash at the end."""
        return str(self.configuration.host).rstrip("/")

    async def headers(self) -> dict[str, str]:
        """The headers that authenticate a request; none where a client certificate does."""
        if self.token_file is not None:
            return {"Authorization": f"Bearer {self.token_file.token()}"}
        # Refreshes what an exec plugin or OIDC gave, where a kubeconfig says so.
        value = await self.configuration.get_api_key_with_prefix("BearerToken")
        return {"Authorization": value} if value else {}

    def ssl_context(self) -> ssl.SSLContext:
        """A TLS context with the CA and the client certificate, as the client library makes it."""
        context: ssl.SSLContext = RESTClientObject(self.configuration).ssl_context
        return context

    @property
    def proxy(self) -> str | None:
        """The proxy on the way to the API server, where a kubeconfig names one."""
        return self.configuration.proxy or None

    def expire(self) -> bool:
        """Forget a token that was refused; whether there can be a fresh one."""
        if self.token_file is None:
            return False
        self.token_file.expire()
        return True


async def load_credentials(
    kubeconfig: str | Path | None = None,
    context: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    token_path: str = incluster_config.SERVICE_TOKEN_FILENAME,
    ca_path: str = incluster_config.SERVICE_CERT_FILENAME,
) -> Credentials:
    """Credentials from the named kubeconfig; without one, from the pod Maestro runs in, else from `KUBECONFIG`.

    Raises
    ------
    ConfigException
        There is no usable configuration.
    """
    configuration = Configuration()
    # The library has no annotations of its own.
    in_cluster: Any = incluster_config.InClusterConfigLoader
    from_file: Any = config.load_kube_config
    if kubeconfig is None and environ.get(incluster_config.SERVICE_HOST_ENV_NAME):
        loader = in_cluster(token_path, ca_path, try_refresh_token=False, environ=environ)
        loader.load_and_set(configuration)
        configuration.api_key.clear()
        return Credentials(configuration, TokenFile(Path(token_path)))
    path = str(kubeconfig or environ.get("KUBECONFIG") or "~/.kube/config")
    await from_file(config_file=path, context=context, client_configuration=configuration)
    return Credentials(configuration)


__all__ = ["ConfigException", "Credentials", "TokenFile", "load_credentials"]
