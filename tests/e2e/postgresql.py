"""A PostgreSQL in Maestro's namespace, for an installation of several replicas. Its data goes with its pod."""

from __future__ import annotations

import secrets

from tests.cluster.cluster import Cluster
from tests.cluster.kubectl import RESTRICTED
from tests.e2e.installation import NAMESPACE

NAME = "postgresql"
SECRET = "maestro-postgresql"
USER = 65532
SCRIPT = """
set -e
if [ ! -s /data/base/PG_VERSION ]; then
  initdb -D /data/base -U maestro --pwfile=/secret/password --auth=scram-sha-256 > /dev/null
  echo "host all all all scram-sha-256" >> /data/base/pg_hba.conf
fi
exec postgres -D /data/base -c listen_addresses='*' -c unix_socket_directories=/data \\
  -c fsync=off -c full_page_writes=off -c max_connections=100
"""


def postgresql(cluster: Cluster) -> tuple[str, ...]:
    """Start it where it doesn't run yet; returns helm's arguments for a Maestro that uses it."""
    image = cluster.load_image("postgres")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}})
    if not cluster.kubectl("-n", NAMESPACE, "get", "secret", SECRET, "--ignore-not-found", "-o", "name"):
        password = secrets.token_urlsafe(16)
        url = f"postgresql+psycopg://maestro:{password}@{NAME}.{NAMESPACE}.svc:5432/postgres"
        cluster.apply(_object("v1", "Secret", SECRET, stringData={"url": url, "password": password}))
    labels = {"app": NAME}
    cluster.apply(
        # Its programs want a name for the user that they run as.
        _object("v1", "ConfigMap", NAME, data={"passwd": f"maestro:x:{USER}:{USER}::/data:/bin/sh\n"}),
        _object("v1", "Service", NAME, spec={"selector": labels, "ports": [{"port": 5432}]}),
        _object(
            "apps/v1",
            "Deployment",
            NAME,
            spec={
                "selector": {"matchLabels": labels},
                "strategy": {"type": "Recreate"},
                "template": {"metadata": {"labels": labels}, "spec": _pod(image)},
            },
        ),
    )
    cluster.kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{NAME}", "--timeout=120s")
    return (
        *("--set", "store.type=postgresql", "--set", f"store.postgresql.existingSecret={SECRET}"),
        *("--set", "controller.replicas=2", "--set", "api.replicas=2"),
    )


def _pod(image: str) -> dict[str, object]:
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "postgresql",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", SCRIPT],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "readinessProbe": {
                    "exec": {"command": ["pg_isready", "-h", "127.0.0.1", "-U", "maestro"]},
                    "periodSeconds": 1,
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "secret", "mountPath": "/secret"},
                    {"name": "passwd", "mountPath": "/etc/passwd", "subPath": "passwd"},
                ],
            }
        ],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "secret", "secret": {"secretName": SECRET}},
            {"name": "passwd", "configMap": {"name": NAME}},
        ],
    }


def _object(api_version: str, kind: str, name: str, **content: object) -> dict[str, object]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, **content}
