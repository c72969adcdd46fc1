"""prefect.yaml and cron lines, without a server."""

import json
import pkgutil
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.context import FlowRunContext

from flows.absolute import is_deployed
from flows.commands.schedule import schedules_result
from flows.latents import latents
from flows.pipeline import pipeline
from flows.retrain import retrain
from flows.scheduling.deployments import check_deployments, deployments_file
from flows.scheduling.rules import cron_schedule, next_dates, zone_hint
from flows.scheduling.schedules import describe_schedule
from pikavae.errors import UserError
from pikavae.presets import parse_config
from pikavae.workspace.home import home

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
        ("0 3 * * 1", "Europe/Belin", "timezone 'Europe/Belin': no such time zone; did you mean Europe/Berlin?"),
        ("", "UTC", "cron '': expected 5 fields"),
        ("0 3 31 2 *", "UTC", "cron '0 3 31 2 *': there is no such day"),
        ("0 3 * * 1", "Mars/Base", "timezone 'Mars/Base': no such time zone; an example is"),
    ],
)
def test_a_bad_schedule_is_named_in_one_line(cron, zone, complaint, tmp_path):
    with pytest.raises(UserError) as refused:
        cron_schedule(cron, zone, where="--")
    assert str(refused.value).startswith(f"--{complaint}") or complaint.startswith("expected")
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
    path = tmp_path / "prefect.yaml"
    path.write_text(DEPLOYMENT.format(cron=cron, zone=zone, steps=3))
    with pytest.raises(UserError, match=r"prefect\.yaml: deployment 'nightly': "):
        check_deployments(path)


@pytest.mark.parametrize(
    ("zone", "meant"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("Europe/Berln", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("Amerika/New_York", "America/New_York"),
        ("New York", "America/New_York"),
        ("utc", "UTC"),
        ("GMT+2", None),
        ("MEZ", None),
        ("Mars/Base", None),
    ],
)
def test_a_misspelt_time_zone_gets_a_suggestion(zone, meant):
    assert zone_hint(zone) == (f"did you mean {meant}?" if meant else "an example is Europe/Berlin")


def test_a_line_is_reckoned_in_its_zone():
    (first,) = next_dates(cron_schedule("0 3 * * 1", "Europe/Berlin", where=""), 1)
    assert (first.hour, first.minute, first.isoweekday()) == (3, 0, 1)
    assert first.utcoffset().total_seconds() in {3600, 7200}


@pytest.mark.parametrize(
    ("schedule", "rule", "cron"),
    [
        (CronSchedule(cron="0 3 * * 1", timezone="Europe/Berlin"), "0 3 * * 1", "0 3 * * 1"),
        (IntervalSchedule(interval=timedelta(days=1), timezone="Europe/Berlin"), "every day", None),
        (IntervalSchedule(interval=timedelta(hours=36)), "every 36 hours", None),
        (IntervalSchedule(interval=timedelta(minutes=90)), "every 90 minutes", None),
        (IntervalSchedule(interval=timedelta(seconds=90)), "every 90 seconds", None),
        (RRuleSchedule(rrule="FREQ=WEEKLY;BYDAY=MO"), "FREQ=WEEKLY;BYDAY=MO", None),
    ],
)
def test_every_kind_of_schedule_is_described_with_its_next_date(schedule, rule, cron):
    shown = describe_schedule("retrain/x", schedule, active=True)
    assert (shown.rule, shown.cron, shown.timezone) == (rule, cron, schedule.timezone or "UTC")
    assert datetime.now(UTC) < datetime.fromisoformat(shown.next) < datetime.now(UTC) + timedelta(days=8)


def test_a_schedule_that_has_ended_has_no_next_date():
    schedule = RRuleSchedule(rrule="DTSTART:20200101T000000Z\nRRULE:FREQ=DAILY;UNTIL=20200201T000000Z")
    ended = describe_schedule("retrain/x", schedule, active=True)
    assert ended.next == ""
    paused = describe_schedule("retrain/y", CronSchedule(cron="0 3 * * 1"), active=False)
    _, text = schedules_result([ended, paused])
    assert [line.split()[-1] for line in text.splitlines()] == ["NEXT", "ended", "paused"]
    assert max(map(len, text.splitlines())) <= 80


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


PARAMETERS = """
deployments:
  - name: own
    entrypoint: flows.latents.latents
    parameters: {parameters}
"""


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"config": {"data": {"source": "pictures"}}}, "data.source 'pictures'"),
        ({"config": {"data": {"source": "./a/*.parquet"}}}, "data.source './a/*.parquet'"),
        ({"config": {"data": {"links_into": ["/a", "../b"]}}}, "data.links_into.1 '../b'"),
        ({"config": {"training": {"start": "weights.safetensors"}}}, "training.start 'weights.safetensors'"),
        ({"config": {"evaluation": {"lpips_weights": "vgg.pth"}}}, "evaluation.lpips_weights 'vgg.pth'"),
        ({"model": "exported"}, "model 'exported'"),
        ({"model": "3", "out": "latents"}, "out 'latents'"),
    ],
)
def test_a_relative_path_in_the_file_of_deployments_is_refused(parameters, complaint, tmp_path):
    path = tmp_path / "prefect.yaml"
    path.write_text(PARAMETERS.format(parameters=json.dumps(parameters)))
    with pytest.raises(UserError) as refused:
        check_deployments(path)
    assert str(refused.value) == (
        f"prefect.yaml: deployment 'own': {complaint}: a relative path, and a worker runs in a temporary folder; give "
        f"an absolute path"
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"config": {"data": {"source": "/pictures/*.parquet", "links_into": ["~/more"]}}, "out": "/latents"},
        {"config": {"data": {"source": "hub:org/name", "tokenizer": "org/name"}}, "model": "champion"},
        {"config": {"training": {"start": "run:0a1b@best"}}, "model": "hub:org/name", "out": None},
        None,
    ],
)
def test_absolute_paths_and_other_names_are_taken_from_it(parameters, tmp_path):
    path = tmp_path / "prefect.yaml"
    path.write_text(PARAMETERS.format(parameters=json.dumps(parameters)))
    assert check_deployments(path) == ["latents/own"]


def test_a_schedule_of_another_kind_than_cron_is_left_to_prefect(tmp_path):
    path = tmp_path / "prefect.yaml"
    daily = DEPLOYMENT.format(cron="@daily", zone="UTC", steps=3)
    path.write_text(daily.replace('cron: "@daily", timezone: "UTC"', "interval: 3600"))
    assert check_deployments(path) == ["retrain/nightly"]


RELATIVE = parse_config({"data": {"source": "pictures"}})


def test_flows_of_a_worker_refuse_a_relative_path_before_anything_is_made(monkeypatch, folder_of_pictures, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.pipeline.is_deployed", lambda: True)
    for flow in (pipeline, retrain, partial(latents.fn, "champion")):
        with pytest.raises(UserError, match=r"^data\.source 'pictures': a relative path, and a worker runs"):
            getattr(flow, "fn", flow)(config=RELATIVE)
    for call, complaint in (
        (partial(latents.fn, "exported"), "model 'exported'"),
        (partial(latents.fn, "1", out="a"), "out 'a'"),
    ):
        with pytest.raises(UserError, match=f"^{complaint}: a relative path"):
            call()
    assert not home().exists()


def test_only_a_flow_of_a_deployment_runs_in_the_folder_of_a_worker():
    run = FlowRun(flow_id=uuid4(), deployment_id=None)
    assert not is_deployed()
    with FlowRunContext.model_construct(flow_run=run):  # type: ignore[call-arg]
        assert not is_deployed()
    with FlowRunContext.model_construct(flow_run=run.model_copy(update={"deployment_id": uuid4()})):  # type: ignore[call-arg]
        assert is_deployed()


def test_the_shipped_file_is_sound():
    names = check_deployments(deployments_file())
    entrypoints = [item["entrypoint"] for item in yaml.safe_load(deployments_file().read_text())["deployments"]]
    assert [pkgutil.resolve_name(name).name for name in entrypoints] == [name.partition("/")[0] for name in names]
    assert names == [
        "pipeline/pipeline",
        "retrain/retrain",
        "retrain-on-new-data/retrain-on-new-data",
        "promote/promote",
        "approve/approve",
        "evaluate-champion/evaluate-champion",
        "housekeeping/housekeeping",
        "latents/latents",
    ]
