"""The clock of training stands still while the host does something else."""

from __future__ import annotations

from finesieve.costs.clock import TrainingClock


def test_pauses_are_taken_out() -> None:
    now = [5.0]
    clock = TrainingClock(lambda: now[0])
    clock.go_on()  # without a pause: nothing
    start = clock()
    now[0] += 3.0
    clock.pause()
    now[0] += 100.0
    clock.go_on()
    now[0] += 2.0
    clock.go_on()
    assert clock() - start == 5.0
    clock.pause()
    now[0] += 1.0
    clock.pause()  # the step that came between counts
    now[0] += 50.0
    clock.go_on()
    assert clock() - start == 6.0
