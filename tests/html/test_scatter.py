"""The scatter chart: its axes, the line through the front, and numbers that can be read."""

import itertools
import re

import pytest

from pikavae.html.scatter import LABEL_HEIGHT, LABEL_WIDTH, Point, Scatter


def chart(*places, front=()):
    points = [Point(x, y, i, f"model {i}", i in front) for i, (x, y) in enumerate(places, 1)]
    return Scatter("PSNR against bytes", points, "bytes", "PSNR, dB")


def test_an_axis_over_a_factor_of_four_has_equal_steps_for_equal_factors():
    wide = chart((512, 20), (2048, 25), (8192, 30))
    assert wide.is_logarithmic
    xs = [wide.x(value) for value in (512, 2048, 8192)]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    narrow = chart((1000, 20), (2000, 25), (3000, 30))
    assert not narrow.is_logarithmic
    assert [narrow.x(value) for value in (1000, 3000)] == pytest.approx([xs[0], xs[2]])


def test_points_lie_inside_and_higher_scores_are_higher():
    made = chart((512, 19.3), (2048, 27.4), (8192, 32.9))
    low, high = made.y_ticks[0][0], made.y_ticks[-1][0]
    assert low <= 19.3
    assert high >= 32.9
    assert [label for _, label in made.y_ticks] == ["15", "20", "25", "30", "35"]
    ys = [made.y(y) for y in (19.3, 27.4, 32.9)]
    assert made.bottom >= ys[0] > ys[1] > ys[2] >= made.top


@pytest.mark.parametrize("places", [[(512, 20.0)], [(512, 20.0), (512, 20.0)], [(512, 0.0), (600, 0.0)]])
def test_points_without_a_spread_are_drawn_in_the_middle(places):
    made = chart(*places)
    assert all(made.left < made.x(x) < made.right and made.top <= made.y(y) <= made.bottom for x, y in places)


def test_the_front_climbs_in_steps_from_its_cheapest_point():
    made = chart((2048, 25), (512, 20), (512, 18), front={1, 2})
    numbers = [float(number) for number in re.findall(r"[\d.]+", made.front)]
    assert made.front.startswith("M")
    assert numbers == pytest.approx([made.x(512), made.y(20), made.x(2048), made.y(25), made.right], abs=0.01)
    assert chart((512, 20)).front == ""


def test_numbers_of_points_close_to_each_other_do_not_touch():
    made = chart((512, 20.0), (512, 20.1), (512, 20.2), (8192, 30.0))
    for one, other in itertools.combinations(made.labels, 2):
        assert abs(one.x - other.x) >= LABEL_WIDTH or abs(one.y - other.y) >= LABEL_HEIGHT


def test_labels_of_the_bytes_do_not_touch():
    labels = [label for _, label in chart((8192, 20), (8300, 21), (32768, 30)).x_ticks]
    assert labels == ["8,192", "32,768"]
