"""The full tutorial configuration on a CPU: one step and one evaluation at 512 px."""

import os

import pytest

from pikavae import operations
from pikavae.config import load_config


@pytest.mark.slow
def test_one_step_and_one_evaluation_at_full_size():
    config = load_config(
        "tutorial",
        {
            "data.source": "sprites",
            "data.sprites_count": 2,
            "data.tokenizer": None,
            "training.epochs": None,
            "training.steps": 1,
            "training.accumulation": 1,
            "training.threads": os.cpu_count(),
            "training.preview_images": 1,
            "evaluation.batch_size": 1,
        },
    )
    prepared = operations.prepare(config)
    trained = operations.train(config, prepared)
    report = operations.evaluate(config, prepared, trained).report
    assert (trained.result["steps"], trained.result["images_seen"]) == (1, 1)
    assert report.image_size == 512
    assert report.downsampling_factor == 8
    assert 0 < report.metrics["psnr"] < 40
