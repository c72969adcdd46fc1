"""Which models no other beats, by score, bytes and time; and how costs are written."""

import math

import pytest

from pikavae.config import ModelConfig
from pikavae.evaluation.compare.costs import ModelCost, front, latent_bytes, millions, rounded


def cost(**values):
    known = {
        "digest": "d",
        "family": "own",
        "downsampling_factor": 8,
        "latent_channels": 4,
        "latent_bytes": 2048,
        "compression": 24.0,
        "parameters": 10,
        "encoder_parameters": 4,
        "decoder_parameters": 6,
        "encode_ms": 1.0,
        "encode_ms_range": [0.5, 2.0],
        "decode_ms": 2.0,
        "decode_ms_range": [1.5, 3.0],
        "encode_bytes": 1000,
        "decode_bytes": 2000,
    }
    return ModelCost(**{**known, **values})


@pytest.mark.parametrize(
    ("scores", "costs", "expected"),
    [
        ([20.0, 25.0, 30.0], [1, 2, 4], [True, True, True]),
        ([25.0, 20.0, 30.0], [1, 2, 4], [True, False, True]),  # worse and more expensive
        ([20.0, 25.0], [2, 2], [False, True]),  # at one cost the better one
        ([20.0, 20.0], [1, 2], [True, False]),  # of one score the cheaper one
        ([20.0, 20.0], [2, 2], [True, True]),  # equals beat nobody
        ([None, 10.0], [1, 9], [False, True]),
        ([None], [1], [False]),
    ],
)
def test_the_front_holds_what_no_other_beats(scores, costs, expected):
    assert front(scores, costs) == expected


def test_times_that_hardly_differ_count_as_equal():
    assert front([20.0, 25.0], [100.0, 104.0]) == [True, True]
    assert front([20.0, 25.0], [100.0, 104.0], same=1.05) == [False, True]
    assert front([20.0, 20.0], [100.0, 104.0], same=1.05) == [True, True]
    assert front([20.0, 20.0], [100.0, 106.0], same=1.05) == [True, False]


def test_the_time_is_of_both_ways_and_the_memory_of_the_larger():
    assert (cost().ms, cost().peak_bytes) == (3.0, 2000)


def test_a_latent_has_two_bytes_a_number():
    assert latent_bytes(ModelConfig(like="sd1"), 512, 512) == 2 * 4 * 64 * 64
    assert latent_bytes(ModelConfig(like="flux1"), 512, 768) == 2 * 16 * 64 * 96
    wide, high = 512, 768
    assert math.isclose(3 * wide * high / latent_bytes(ModelConfig(like="flux1"), high, wide), 6.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rounded(1234.4), "1,234"),
        (rounded(22.46), "22.5"),
        (rounded(0.01234), "0.0123"),
        (millions(83_653_863), "83.7 M"),
        (millions(120_000_000), "120 M"),
        (millions(1234), "0.00123 M"),
    ],
)
def test_numbers_have_three_digits(text, expected):
    assert text == expected
