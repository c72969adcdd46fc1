"""Numbers as pages show them."""

import pytest

from pikavae.html.text import shown_number


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
    [(None, 2, "-"), (None, None, "-"), (1234.567, 2, "1,234.57"), (1234.56789, None, "1234.57"), (0.0, None, "0")],
)
def test_a_number_has_its_decimals_or_six_digits_and_none_is_a_dash(value, decimals, shown):
    assert shown_number(value, decimals) == shown
