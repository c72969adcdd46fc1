"""The page of a sweep: the best first, reasons of failures, lines across the axes, and nothing that breaks out."""

import pytest

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.html.parallel import axis_of
from pikavae.operations.sweeps.objective import objective_of
from pikavae.operations.sweeps.page import About, sweep_page
from pikavae.operations.sweeps.plan import Plan, command_of
from pikavae.operations.sweeps.space import Choices, Range, Space
from pikavae.operations.sweeps.trials import Entry
from pikavae.presets import load_config
from tests.support.pages import Page

SPACE = Space(
    {
        "optimizer.learning_rate": Range(1e-4, 1e-2, "log_range", is_whole=False),
        "optimizer.name": Choices(("adamw", "muon")),
    }
)
HEAD = ["trial", "PSNR, dB", "learning_rate", "optimizer.name", "minutes", "state"]


def values(rate, name):
    return {"optimizer.learning_rate": rate, "optimizer.name": name}


ENTRIES = [
    Entry(1, "complete", values(1e-4, "adamw"), score=20.0, run_id="a" * 32, seconds=90),
    Entry(2, "failed", values(1e-2, "muon"), reason="<script>alert(1)</script> loss is nan"),
    Entry(3, "complete", values(1e-2, "muon"), score=22.5, run_id="b" * 32, is_reused=True),
    Entry(4, "pruned", values(1e-3, "muon"), scores={2: 11.0, 4: 12.0}, reason="pruned"),
    Entry(5, "waiting", values(1e-3, "adamw"), where="host"),
]


def page(entries, metric="psnr", space=SPACE):
    about = About(
        name="<b>name</b>",
        space=space,
        objective=objective_of(metric, Config()),
        source="sprites",
        image_size=64,
        num_images=8,
        is_grid=False,
        budget=6,
        prunes=True,
        seed=0,
    )
    return Page(sweep_page(about, entries, "pikavae run demo" if entries else None))


def test_the_table_has_the_best_first_and_what_became_of_each():
    shown = page(ENTRIES)
    head, *rows = shown.rows[:6]
    assert head == HEAD
    assert [row[0] for row in rows] == ["3", "1", "5", "4", "2"]
    assert rows[0][1:4] == ["22.50", "0.01", "muon"]
    assert "found: trained before" in rows[0][-1]
    assert rows[2][-1] == "cut off; the same command resumes it"
    assert rows[3][-1] == "pruned at step 4, at 12.00 dB"
    assert rows[4][-1] == "failed: <script>alert(1)</script> loss is nan"
    assert shown.tags["script"] == 1  # the page's own


def test_every_trial_that_ended_has_a_line_and_only_scored_ones_reach_the_last_axis():
    shown = page(ENTRIES)
    paths = [value for tag, name, value in shown.attributes if (tag, name) == ("path", "d") and " L" in value]
    kinds = [value for tag, name, value in shown.attributes if (tag, name) == ("path", "class")]
    lines = [path for path in paths if path != "M0 4 L26 4"]
    assert sorted(path.count("L") for path in lines) == [1, 1, 2, 2]
    assert kinds[-4:] == ["failed", "pruned", "done", "best"]  # the best is drawn last


def test_an_empty_sweep_and_a_metric_with_a_best_number_have_a_page_too():
    assert "No trial has ended yet." in page([]).text
    sharp = [
        Entry(1, "complete", values(1e-4, "adamw"), score=0.3),
        Entry(2, "complete", values(1e-3, "adamw"), score=0.1),
    ]
    assert [row[0] for row in page(sharp, "high_frequency_ratio").rows[1:3]] == ["2", "1"]


def test_places_on_an_axis_follow_size_or_order_and_labels_do_not_touch():
    axis = axis_of("rate", [1e-4, 1e-3, 1e-2], ["0.0001", "0.001", "0.01"])
    assert axis.places == pytest.approx([0.0, 0.5, 1.0])  # logarithmic
    axis = axis_of("steps", [100, 150, 200], ["100", "150", "200"])
    assert axis.places == pytest.approx([0.0, 0.5, 1.0])
    axis = axis_of("name", ["b", "a", "b", None], ["b", "a", "b", "none"], ["a", "b", None])
    assert [round(place, 1) for place in axis.places] == [0.5, 0.0, 0.5, 1.0]
    assert axis.places[0] < 0.5 < axis.places[2]  # side by side
    assert axis_of("score", [None, 3.0], ["-", "3"]).places == [None, 0.5]
    crowded = axis_of("x", [i / 1000 for i in range(50)], [f"{i / 1000:.3f}" for i in range(50)])
    assert 2 <= len(crowded.ticks) <= 5


def test_the_command_of_the_best_has_what_differs_from_the_preset():
    config = load_config("demo", {"training.steps": 7, "data.source": "a b", "optimizer.max_grad_norm": None})
    command = command_of(Plan(config, SPACE, "demo"), {"optimizer.learning_rate": 0.00123, "model.channels": [16, 32]})
    assert command == (
        "pikavae run demo --data.source 'a b' --model.channels 16 32 --optimizer.learning-rate 0.00123 "
        "--optimizer.max-grad-norm none --training.steps 7"
    )


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("psn", "did you mean psnr"),
        ("rfid", "does not say which of its values is better"),
        ("ms_ssim", "needs sides of 176 pixels"),
        ("lpips", "VGG16's weights are missing"),
    ],
)
def test_a_metric_that_cannot_rank_is_refused_before_anything_is_trained(metric, said):
    with pytest.raises(UserError, match=said):
        objective_of(metric, load_config("demo"))
