"""What the chart refuses, in words that say what to do."""

from __future__ import annotations

import subprocess

from tests.cluster import binaries
from tests.cluster.paths import REPOSITORY


def rendered(*values: str) -> subprocess.CompletedProcess[str]:
    """`helm template` with these arguments."""
    command = [str(binaries.find("helm")), "template", "maestro", str(REPOSITORY / "charts" / "maestro"), *values]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_several_controllers_on_sqlite_are_refused() -> None:
    done = rendered("--set", "controller.replicas=2")
    assert done.returncode != 0
    assert "controller.replicas > 1 needs store.type=postgresql: a SQLite file has one writer" in done.stderr


def test_several_controllers_on_postgresql_are_not() -> None:
    done = rendered("-f", str(REPOSITORY / "tests" / "e2e" / "values" / "postgresql.yaml"))
    assert done.returncode == 0, done.stderr
    assert "name: maestro-controller" in done.stdout
