"""Certificates of one cluster, made with openssl: an authority, what it signs, and the kubeconfigs that carry them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import packages
from tests.cluster.process import run

DAYS = "3650"
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """The certificate authority of one cluster; what exists already is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pair = KeyPair(folder / "ca.crt", folder / "ca.key")
        self.service_account_key = folder / "service-account.key"
        self.service_account_public_key = folder / "service-account.pub"

    def make(self) -> None:
        """Make the authority and the key that signs ServiceAccount tokens."""
        if self.service_account_public_key.exists():
            return
        packages.require("openssl")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _openssl(
            *("req", "-x509", *EC, "-days", DAYS, "-subj", "/CN=maestro-test-cluster"),
            *("-keyout", str(self.pair.key), "-out", str(self.pair.certificate)),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"),
        )
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(self.service_account_key))
        temporary = self.service_account_public_key.with_suffix(".partial")
        _openssl("ec", "-in", str(self.service_account_key), "-pubout", "-out", str(temporary))
        temporary.replace(self.service_account_public_key)

    def client(self, name: str, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """Return a client certificate for a user in groups, signed now unless the file exists."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        return self._signed(name, subject, ["extendedKeyUsage=clientAuth"])

    def server(self, name: str, addresses: Sequence[str], names: Sequence[str]) -> KeyPair:
        """Return a serving certificate for addresses and DNS names, signed now unless the file exists."""
        alternatives = ",".join([*(f"IP:{address}" for address in addresses), *(f"DNS:{name}" for name in names)])
        return self._signed(name, f"/CN={name}", ["extendedKeyUsage=serverAuth", f"subjectAltName={alternatives}"])

    def kubeconfig(self, file: Path, server: str, pair: KeyPair) -> Path:
        """Write a kubeconfig that holds everything it needs, readable by us alone; return its path."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "maestro",
            "clusters": [
                {
                    "name": "maestro",
                    "cluster": {"server": server, **_embedded("certificate-authority", self.pair.certificate)},
                }
            ],
            "users": [
                {
                    "name": "maestro",
                    "user": {**_embedded("client-certificate", pair.certificate), **_embedded("client-key", pair.key)},
                }
            ],
            "contexts": [{"name": "maestro", "context": {"cluster": "maestro", "user": "maestro"}}],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.partial")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(config, indent=2))
        temporary.replace(file)
        return file

    def _signed(self, name: str, subject: str, extensions: Sequence[str]) -> KeyPair:
        pair = KeyPair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        if pair.certificate.exists():
            return pair
        temporary = pair.certificate.with_suffix(".partial")
        every = ["basicConstraints=critical,CA:FALSE", *extensions]
        _openssl(
            *("req", "-x509", "-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key), *EC),
            *("-days", DAYS, "-subj", subject, "-keyout", str(pair.key), "-out", str(temporary)),
            *(part for extension in every for part in ("-addext", extension)),
        )
        temporary.replace(pair.certificate)
        return pair


def _embedded(field: str, file: Path) -> dict[str, str]:
    return {f"{field}-data": base64.b64encode(file.read_bytes()).decode()}


def _openssl(*arguments: str) -> None:
    run(["openssl", *arguments])
