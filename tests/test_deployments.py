"""prefect.yaml and cron lines, without a server."""

import pytest

from flows.deployments import check_deployments, cron_schedule, deployments_file, next_dates
from pikavae.errors import UserError

DEPLOYMENT = """
deployments:
  - name: nightly
    entrypoint: flows.retrain.retrain
    schedules: [{{cron: "{cron}", timezone: "{zone}", slug: nightly}}]
    parameters: {{config: {{training: {{steps: {steps}}}}}}}
"""


@pytest.mark.parametrize(
    ("cron", "zone", "complaint"),
    [
        ("61 3 * * *", "UTC", "cron '61 3 * * *': not a schedule"),
        ("every night", "UTC", "cron 'every night': expected 5 fields"),
        ("* * * * * *", "UTC", "expected 5 fields"),
        ("", "UTC", "cron '': expected 5 fields"),
        ("0 3 31 2 *", "UTC", "cron '0 3 31 2 *': there is no such day"),
        ("0 3 * * 1", "Mars/Base", "time zone 'Mars/Base': no such zone"),
    ],
)
def test_a_bad_schedule_is_named_in_one_line(cron, zone, complaint, tmp_path):
    with pytest.raises(UserError) as refused:
        cron_schedule(cron, zone, where="--cron")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
    path = tmp_path / "prefect.yaml"
    path.write_text(DEPLOYMENT.format(cron=cron, zone=zone, steps=3))
    with pytest.raises(UserError, match=r"prefect\.yaml: deployment 'nightly': "):
        check_deployments(path)


def test_a_line_is_reckoned_in_its_zone():
    (first,) = next_dates(cron_schedule("0 3 * * 1", "Europe/Berlin", where="--cron"), 1)
    assert (first.hour, first.minute, first.isoweekday()) == (3, 0, 1)
    assert first.utcoffset().total_seconds() in {3600, 7200}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (DEPLOYMENT.format(cron="0 3 * * *", zone="UTC", steps=0), "training.steps 0: input should be greater"),
        ("deployments: [3]", "not a file of deployments"),
        ("deployments: {", "not a file of deployments"),
        ("", "not a file of deployments"),
    ],
)
def test_a_file_that_is_not_sound_is_refused_before_anything_starts(text, complaint, tmp_path):
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        check_deployments(path)


def test_the_shipped_file_is_sound():
    assert check_deployments(deployments_file()) == [
        "pipeline/pipeline",
        "retrain/retrain",
        "promote/promote",
        "approve/approve",
        "latents/latents",
    ]
