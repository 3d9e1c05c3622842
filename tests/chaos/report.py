"""What came of it: every account against every other, and the report that people read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.chaos import ledger
from tests.chaos.ledger import Executions
from tests.chaos.world import ENDED, World, end_of


@dataclass
class Report:
    """Counts, and the promises that were broken: none, it is hoped."""

    runs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    attempts_charged: int = 0
    began: int = 0
    ended: int = 0
    broken: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"Runs accepted              {self.runs}",
            *(f"  {state:<24} {number}" for state, number in sorted(self.states.items())),
            f"executions begun           {self.began}",
            f"executions ended           {self.ended}",
            f"doubled executions begun   {self.began - self.runs}  (what at-least-once delivery has cost)",
            f"doubled executions ended   {self.ended - self.runs}",
            f"attempts charged again     {self.attempts_charged}  (what was lost together isn't charged)",
            f"promises broken            {len(self.broken)}",
            *(f"  {line}" for line in self.broken[:20]),
        ]


def judge(world: World) -> Report:
    """Compare what the API accepted, what the store shows and what the workers' ledger says."""
    shown = {run["id"]: run for run in world.runs()}
    # The volume may have served before: only what is about these Runs counts.
    written = {run: found for run, found in ledger.read(world.ledger).items() if str(run) in shown}
    report = Report(runs=len(world.accepted))
    report.states = Counter(run["state"] for run in shown.values())
    report.attempts_charged = sum(run["retryCount"] for run in shown.values())
    report.began = sum(len(one.began) for one in written.values())
    report.ended = sum(len(one.ended) for one in written.values())
    broken = report.broken
    if len(set(world.accepted)) != len(world.accepted):
        broken.append("an id was given to two accepted Runs")
    broken += [f"{run}: accepted, and lost" for run in set(world.accepted) - shown.keys()]
    broken += [f"{run}: nobody was told that it was accepted" for run in shown.keys() - set(world.accepted)]
    for run_id, run in shown.items():
        broken += [f"{run_id}: {what}" for what in _judge_one(run, written.get(UUID(run_id), Executions()))]
        first = world.seen_ended.get(run_id)
        if first is not None and first != end_of(run):
            broken.append(f"{run_id}: its end was changed from {first} to {end_of(run)}")
    return report


def _judge_one(run: dict[str, Any], executions: Executions) -> list[str]:
    if run["state"] not in ENDED:
        return [f"still {run['state']}"]
    if run["state"] != "Succeeded":
        return [f"{run['state']} for {run['reason']}, though its function never fails"]
    token, attempt = run["result"]["token"], run["result"]["attempt"]
    found = []
    if executions.ended.get(token) != attempt:
        found.append("its result is of no execution that the ledger knows to have ended")
    latest = max(executions.began.values(), default=0)
    if attempt < latest:
        found.append(f"the end of attempt {attempt} was accepted, though attempt {latest} had begun")
    by_attempt = Counter(executions.began.values())
    found += [f"attempt {number} was executed {times} times" for number, times in by_attempt.items() if times > 1]
    return found
