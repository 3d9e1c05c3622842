"""What the demos share: kubectl, and a line for each step."""

from __future__ import annotations

import subprocess
import sys


def kubectl(*args: str, stdin: str | None = None, check: bool = True) -> str:
    """Run kubectl and return what it prints; the demo ends with kubectl's message where it fails."""
    done = subprocess.run(["kubectl", *args], input=stdin, text=True, capture_output=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"kubectl {' '.join(args)}\n{done.stderr}")
    return done.stdout


def step(text: str) -> None:
    """Say what comes next."""
    print(f"\n\033[1m▸ {text}\033[0m" if sys.stdout.isatty() else f"\n> {text}", flush=True)
