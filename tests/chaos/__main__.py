"""Chaos on the native node: `python -m tests.chaos [--store sqlite|postgresql] [--runs N] [--times N] [--seed N]`.

Every fault of `faults` strikes at random, each so many times, while Runs are submitted and worked on. Then everything
is left alone until every Run has ended, and the accounts are compared. Exit code 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time

from tests.chaos.faults import strike_all
from tests.chaos.report import Report, judge
from tests.chaos.world import World, submitting, world
from tests.cluster import backends
from tests.cluster.cluster import Cluster
from tests.cluster.process import wait_for
from tests.e2e.installation import install
from tests.e2e.postgresql import postgresql

SETTLE_SECONDS = 900.0


def chaos(cluster: Cluster, namespace: str, *, store: str, runs: int, pods: int, times: int, seed: int) -> Report:
    """One whole run on the Maestro that is installed; prints what happens as it does."""
    dice = random.Random(seed)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - begun:6.1f} s  {text}", flush=True)

    print(f"chaos: {runs} Runs over {pods} pods on {store}, every fault {times} times; --seed {seed} repeats it")
    with world(cluster, namespace, store, pods) as under_attack:
        begun = time.monotonic()
        kinds = 9 if store == "postgresql" else 8
        submit = submitting(under_attack, runs, kinds * times * 6.0, random.Random(seed + 1))
        hits = strike_all(under_attack, dice, times, say)
        submit.join()
        say(f"{len(under_attack.accepted)} Runs accepted; no more faults, {under_attack.look()} Runs to go")
        _settle(under_attack)
        say("every Run has ended")
        report = judge(under_attack)
    for name, number in sorted(hits.items()):
        print(f"{name:<36} {number}")
    print("\n".join(report.lines()), flush=True)
    return report


def _settle(under_attack: World) -> None:
    wait_for("every Run to end", lambda: under_attack.look() == 0, timeout=SETTLE_SECONDS, every=2.0)


def main() -> int:
    """Install Maestro as told, let chaos reign, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--pods", type=int, default=6)
    parser.add_argument("--times", type=int, default=3, help="how often each fault strikes")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    options = parser.parse_args()
    cluster = backends.choose()
    with cluster.in_use():
        cluster.load_image("example-video")
        install(cluster, *(postgresql(cluster) if options.store == "postgresql" else ()))
        with cluster.namespace("chaos") as namespace:
            report = chaos(
                cluster,
                namespace,
                store=options.store,
                runs=options.runs,
                pods=options.pods,
                times=options.times,
                seed=options.seed,
            )
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
