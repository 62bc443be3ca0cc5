"""Gates that a price opened are looked at again, ever more rarely, and for little."""

from __future__ import annotations

from finesieve.stages import Fixed, Work
from finesieve.stages.second_look import SecondLook
from finesieve.stages.transitions import Transitions
from finesieve.stages.window import Window
from tests.stages.kit import NO_LIMITS


def looks(cost: float, until: int = 200_000) -> list[int]:
    look = SecondLook()
    found: list[int] = []
    assert not look.due(10**9, 1.0, lambda: 0.0)  # gates were never closed
    look.opened(1000)
    for drawn in range(1000, until, 500):
        if look.due(drawn, 1000.0, lambda: cost):
            found.append(drawn)
            look.looked(drawn)
            again = SecondLook()
            again.load_state_dict(look.state_dict())
            look = again
    look.closed()
    assert not look.due(10**9, 1.0, lambda: 0.0)
    return found


def test_intervals_grow_and_a_look_takes_a_hundredth_of_them() -> None:
    assert looks(0.0)[:4] == [5000, 13000, 29000, 61000]
    assert looks(300.0)[:3] == [31000, 61000, 91000]
    assert looks(10_000.0) == []


def test_survivors_come_whole_where_launches_are_most_of_a_step() -> None:
    transitions = Transitions(Fixed({}), Window(), 100, NO_LIMITS)
    whole = []
    for smaller in (1.0, 1.4, 1.6, 1.4, 1.2, 1.4):
        numbers = transitions.evidence(1, 0, (0.3, 1.2), Work, smaller)
        assert transitions.due(numbers) is None
        whole.append(transitions.whole)
    assert whole == [False, False, True, True, False, False]
