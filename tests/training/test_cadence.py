"""How fast a run is now."""

import pytest

from pikavae.training.cadence import Pace


def test_the_pace_is_that_of_the_last_minute():
    pace = Pace()
    for second in range(0, 600, 5):  # 2 in a second for ten minutes, then 10 in a second for one
        pace.look(second, 2 * second)
    assert pace.per_second == pytest.approx(2.0)
    for second in range(600, 665, 5):
        pace.look(second, 1200 + 10 * (second - 600))
    assert pace.per_second == pytest.approx(10.0)


def test_steps_that_last_longer_than_a_minute_have_a_pace_too():
    pace = Pace()
    paces = []
    for step in range(5):
        pace.look(100.0 * step, step)
        paces.append(pace.per_second)
    assert paces == [0.0, 0.01, 0.01, 0.01, 0.01]


def test_a_thousand_looks_in_a_second_are_kept_as_few():
    pace = Pace()
    for number in range(100_000):
        pace.look(number / 1000, number)
    assert pace.per_second == pytest.approx(1000.0)
    assert len(pace._marks) <= 62
