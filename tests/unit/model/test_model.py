"""What must be true of Maestro, under any order, loss and doubling of messages and reports, and crashes of anything."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tests.unit.model.moves import MOVES, Move
from tests.unit.model.system import System

numbers = st.integers(0, 11)


class Machine(RuleBasedStateMachine):
    """Any order of moves; then everything must end."""

    def __init__(self) -> None:
        super().__init__()
        self.system = System()
        self.system.accept()

    @rule(move=st.sampled_from(MOVES), a=numbers, b=numbers)
    def happen(self, move: Move, a: int, b: int) -> None:
        move(self.system, a, b)

    def teardown(self) -> None:
        self.system.settle_down()


def test_no_order_of_events_breaks_a_promise() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
