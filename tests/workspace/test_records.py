"""Records: what earlier versions wrote is read, what is written is what it always was, and damage is named."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from flows.server.environment import Services
from pikavae.config import content_hash
from pikavae.data.files.left_out import lost_of, missing_line
from pikavae.data.record import CaptionCounts, NotUsed, SetRecord
from pikavae.errors import DamagedFileError
from pikavae.latents.record import LatentRecord
from pikavae.notify.attempts import Attempt
from pikavae.notify.outbox import OutboxEvent, State
from pikavae.operations.resolving.imported import ImportRecord
from pikavae.operations.stages.results import StageRecord
from pikavae.operations.upkeep.housekeeping import HousekeepingRecord
from pikavae.production.judgements.standing import Standing
from pikavae.production.judgements.watches import Watch
from pikavae.training.state import STATE_NAME, read_state
from pikavae.workspace.records import Record
from pikavae.workspace.run_record import (
    CheckpointRecord,
    ExtendedRun,
    ImportResult,
    JobRecord,
    PrunedRecord,
    RunRecord,
    TrainingResult,
)
from pikavae.workspace.runs import RunFolder
from pikavae.workspace.usage import UsageRecord
from tests.workspace.earlier_files import (
    ATTEMPT,
    CONVERTED,
    EVALUATION,
    GUARDED,
    HOUSEKEEPING,
    IMPORTED,
    JOB,
    LATENTS,
    OLD_SET,
    OUTBOX_EVENT,
    OUTBOX_STATE,
    PRUNED,
    REGISTRATION,
    RUN,
    SET,
    STANDING,
    STATE,
    TRAIN,
    UI,
    UP,
    USAGE,
    WATCH,
)

FILES: Mapping[str, tuple[type[Record], str, dict[str, Any]]] = {
    "run.json": (RunRecord, RUN, {}),
    "train.json": (TrainingResult, TRAIN, {}),
    "train.json of an import": (ImportResult, IMPORTED, {}),
    "pruned.json": (PrunedRecord, PRUNED, {}),
    "usage": (UsageRecord, USAGE, {}),
    "imported.json": (ImportRecord, CONVERTED, {}),
    "latents.json": (LatentRecord, LATENTS, {"indent": 1}),
    "stage.json": (StageRecord, EVALUATION, {}),
    "registration": (StageRecord, REGISTRATION, {}),
    "job.json": (JobRecord, JOB, {}),
    "up.json": (Services, UP, {"indent": None}),
    "up.json with a password": (Services, GUARDED, {"indent": None}),
    "housekeeping.json": (HousekeepingRecord, HOUSEKEEPING, {}),
    "ui.json": (Services, UI, {"indent": None}),
    "standings": (Standing, STANDING, {}),
    "watch.json": (Watch, WATCH, {"ensure_ascii": False}),
    "outbox/events": (OutboxEvent, OUTBOX_EVENT, {}),
    "outbox/state.json": (State, OUTBOX_STATE, {}),
    "outbox/attempts": (Attempt, ATTEMPT, {}),
    "record.json": (SetRecord, SET, {"indent": 1, "ensure_ascii": False}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_an_earlier_version_is_read_and_written_byte_for_byte(tmp_path, name):
    kind, text, form = FILES[name]
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    assert kind.read(path).to_json(**form) == text


def test_records_that_are_made_here_have_the_bytes_of_earlier_versions():
    record = RunRecord(**{**json.loads(RUN), "extends": ExtendedRun(run="f00", step=4)})
    assert record.to_json() == RUN
    plain = record.model_copy(update={"extends": None})
    assert "extends" not in RunRecord(**{k: v for k, v in json.loads(RUN).items() if k != "extends"}).content()
    assert plain.extends is None
    assert TrainingResult(**json.loads(TRAIN)).to_json() == TRAIN
    values = json.loads(SET)
    made = SetRecord(
        **{
            **values,
            "unused": [NotUsed(**item) for item in values["unused"]],
            "quarantined": [NotUsed(**item) for item in values["quarantined"]],
            "set_aside": [NotUsed(**item) for item in values["set_aside"]],
            "captions": CaptionCounts(**values["captions"]),
            "files": {},
        }
    )
    shown = made.model_copy(update={"files": values["files"], "ignored": {"source": {"other": 2}}})
    assert shown.to_json(indent=1, ensure_ascii=False) == SET
    assert missing_line(shown) == ("1 unreadable (1 empty file), 1 left out (1 .psd files), 2 other files passed over")


def test_an_older_record_of_a_set_lacks_fields_and_a_newer_one_has_more(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(OLD_SET)
    record = SetRecord.read(path)
    assert record.counts == {"num_images": 3, "num_train": 2, "num_validation": 1, "num_quarantined": 1}
    assert missing_line(record) == "1 unreadable (1 empty file), 1 left out (1 is a.b)"
    assert (record.warnings, record.unused, record.captions.notes) == ((), (), {})
    assert [item.name for item in lost_of(record)] == ["a.png", "b"]


def test_a_run_folder_tells_an_import_from_a_training(tmp_path):
    run = RunFolder(tmp_path)
    assert run.result is None
    (tmp_path / "train.json").write_text(TRAIN)
    assert isinstance(run.result, TrainingResult)
    (tmp_path / "train.json").write_text(IMPORTED)
    assert isinstance(run.result, ImportResult)
    (tmp_path / "run.json").write_text(RUN)
    assert run.record.extends == ExtendedRun(run="f00", step=4)
    assert run.record.inputs["data.source"] is None


def test_a_state_of_an_earlier_version_is_read_with_a_score_that_is_not_finite(tmp_path):
    values = json.loads(STATE)
    path = tmp_path / STATE_NAME
    path.write_text(json.dumps({**values, "digest": content_hash(values)}))
    state = read_state(tmp_path)
    assert (state.step, state.threads, state.scores["2"], math.isnan(state.scores["4"])) == (4, None, 19.5, True)
    assert CheckpointRecord(**values).to_json() == STATE
    del values["processes"]
    path.write_text(json.dumps({**values, "digest": content_hash(values)}))
    with pytest.raises(DamagedFileError, match=r"state.json: damaged: 'processes' is missing"):
        read_state(tmp_path)


DAMAGES = {
    "a field is missing": (lambda values: values.pop("created"), "'created' is missing"),
    "a field of another type": (lambda values: values.update(key=7), "'key' is not what pikavae writes there"),
    "a number as text": (lambda values: values["extends"].update(step="4"), "'extends.step' is not what pikavae"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_by_file_and_field(tmp_path, damage):
    change, message = DAMAGES[damage]
    values = json.loads(RUN)
    change(values)
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(DamagedFileError, match=f"run.json: damaged: {message}"):
        RunRecord.read(tmp_path / "run.json")
