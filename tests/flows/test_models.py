"""What the commands of models say of a version's scores: in the words and digits of the table of metrics."""

from datetime import UTC, datetime

import pytest

from flows.commands.models import list_result, version_result
from pikavae.operations import Listed
from pikavae.production.record.statuses import Status
from pikavae.registry.versions import Version

METRICS = {"val/psnr": 23.456, "val/ssim": 0.91234, "val/scaling_factor": 0.5, "val/mse": 0.001}


def listed(primary_metric, metrics):
    version = Version("pikavae", 3, "run", "m-1", {}, metrics, {}, datetime.now(UTC), ())
    return Listed(version, Status("candidate", None, None), "a run", "sprites", 16, primary_metric)


@pytest.mark.parametrize(
    ("primary_metric", "metrics", "shown"),
    [("psnr", METRICS, "23.46 dB"), ("ssim", METRICS, "0.9123 SSIM"), ("psnr", {}, "-"), ("ssim", {}, "-")],
)
def test_the_list_shows_the_primary_metric_or_a_dash(primary_metric, metrics, shown):
    _, text = list_result([listed(primary_metric, metrics)])
    assert f"  {shown}  " in text.splitlines()[1]


def test_a_version_shows_the_scores_that_it_has():
    _, text = version_result(listed("psnr", METRICS))
    (line,) = (line for line in text.splitlines() if line.startswith("score"))
    assert line.split(maxsplit=1)[1] == "PSNR 23.46 dB, SSIM 0.9123, scaling factor 0.5000"
