"""Each benchmark at a small size: it runs to its end and prints its ratio. What the ratio is, is no test's business."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.cluster.paths import REPOSITORY


@pytest.mark.parametrize(
    "command",
    [
        ("bench_dispatch", "--messages", "2000", "--repeats", "1"),
        ("bench_worker", "--quick", "--concurrency", "16"),
        ("bench_store", "--runs", "1000"),
        ("bench_schedules", "--schedules", "20", "--cronjobs", "0", "--armed", "40", "--repeats", "1"),
        ("bench_scale", "history", "--runs", "1000", "--repeats", "1", "--finished", "1", "1000"),
        ("bench_scale", "keys", "--runs", "1000", "--repeats", "1", "--keys", "2000"),
        ("bench_scale", "accept", "--runs", "3000"),
        ("bench_replay", "--runs", "1000", "--held", "500", "--plan", "[1000]", "--seconds", "0.3", "--repeats", "1"),
    ],
    ids=lambda command: "-".join(command[:2]).replace("---", "-"),
)
def test_it_runs(command: tuple[str, ...]) -> None:
    module, *arguments = command
    done = subprocess.run(
        [sys.executable, "-m", f"tests.performance.{module}", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
