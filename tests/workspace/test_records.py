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

RUN = """{
  "key": "0a1b2c3d4e5f6071",
  "inputs": {
    "prepared set": "aa11bb22cc33dd44",
    "training.steps": 6,
    "data.source": null,
    "code of pikavae/model": {
      "model/autoencoder.py": "0123456789abcdef"
    }
  },
  "created": "2026-11-25T03:34:25.694000+00:00",
  "config": {
    "data": {
      "source": "sprites"
    },
    "training": {
      "steps": 6,
      "start": null
    }
  },
  "extends": {
    "run": "f00",
    "step": 4
  }
}
"""
TRAIN = """{
  "snapshot": "step-00000006",
  "start_step": 0,
  "steps": 6,
  "images_seen": 24,
  "images_per_second": 31.25,
  "best_step": 4,
  "experiment_id": "1",
  "snapshot_sha256": {
    "config.json": "aa",
    "diffusion_pytorch_model.safetensors": "bb"
  }
}
"""
IMPORTED = """{
  "imported": "hub:some/vae",
  "steps": 0,
  "best_step": 0,
  "images_seen": 0,
  "snapshot": "step-00000000",
  "experiment_id": "2",
  "snapshot_sha256": {
    "config.json": "aa"
  }
}
"""
PRUNED = """{
  "time": "2026-11-25T03:34:25.694000+00:00",
  "reason": "pruned: 10.00 dB at step 4 of 6 is worse than the median of the sweep's trials; stopped at step 5"
}
"""
CONVERTED = """{
  "source": "/of/another/vae.pt",
  "form": "LDM single file",
  "notes": [
    "norm_groups 32 is assumed: the file does not say"
  ],
  "sha256": {
    "config.json": "aa"
  }
}
"""
SET = """{
 "fingerprint": "aa11bb22cc33dd44",
 "image_size": 16,
 "crop": "center",
 "shards": [
  "s.arrow"
 ],
 "num_images": 3,
 "num_train": 2,
 "num_repeated": 0,
 "num_validation": 1,
 "num_leaked": 0,
 "num_bridging": 0,
 "num_dropped": 1,
 "num_exact_duplicates": 1,
 "num_near_duplicates": 0,
 "unused": [
  {
   "name": "d.png",
   "reason": "is a duplicate of an earlier picture, and data.drop_duplicates is set"
  }
 ],
 "captions": {
  "missing": 1,
  "truncated": 0,
  "notes": {
   "missing": 1
  }
 },
 "num_quarantined": 1,
 "quarantined": [
  {
   "name": "\u00e9.png",
   "reason": "empty file"
  }
 ],
 "num_left_out": 1,
 "left_out": {
  ".psd files": 1
 },
 "set_aside": [
  {
   "name": "e.psd",
   "reason": ".psd is not read; convert it to .png",
   "kind": ".psd files"
  }
 ],
 "columns": {
  "source": {
   "image": "image",
   "caption": null
  }
 },
 "captions_from": {
  "source": {}
 },
 "warnings": [
  "Few pictures."
 ],
 "files": {
  "index.arrow": 100
 },
 "sha256": {
  "index.arrow": "cc"
 }
}
"""
OLD_SET = """{"fingerprint": "aa11bb22cc33dd44", "image_size": 16, "crop": "center", "shards": ["s.arrow"],
"num_images": 3, "num_train": 2, "num_validation": 1, "num_quarantined": 1, "of_another_version": [1],
"quarantined": [{"name": "a.png", "reason": "empty file"}], "set_aside": [{"name": "b", "reason": "is a.b"}],
"captions": {"missing": 0, "truncated": 1}, "files": {"index.arrow": 100}, "sha256": {"index.arrow": "cc"}}"""

LATENTS = """{
 "scaling_factor": 0.5,
 "shift": -0.25,
 "std": 2.0,
 "channel_means": [
  0.5,
  -1.0
 ],
 "channel_stds": [
  1.5,
  2.5
 ],
 "statistics": "of the posterior's mean over the train split",
 "model": "m1",
 "snapshot": "run:a@6",
 "prepared_set": "aa11bb22cc33dd44",
 "image_size": 16,
 "downsampling_factor": 8,
 "latent_shape": [
  2,
  2,
  2
 ],
 "logvar": false,
 "num_images": {
  "train": 23,
  "validation": 6
 },
 "batch_size": 4,
 "rows_per_shard": 1024,
 "computed_on": "cpu with 1 threads",
 "torch": "2.9.0",
 "pikavae": "0.1",
 "code of the latents": "0123456789abcdef",
 "files": {
  "train-00000-of-00001.parquet": "aa"
 }
}
"""
EVALUATION = """{
  "inputs": {
    "run": null,
    "model": "m1"
  },
  "sha256": {
    "report.json": "aa",
    "per_image.csv": "bb"
  }
}
"""
REGISTRATION = """{
  "key": "0a1b",
  "inputs": {
    "run": "a"
  },
  "version": 3
}
"""
JOB = """{
  "config": {
    "data": {
      "source": "sprites"
    }
  },
  "prepared": "/of/a/set",
  "start": null,
  "device": "cpu",
  "threads": 2,
  "processes": 1
}
"""
STATE = """{
  "step": 4,
  "images_seen": 16,
  "seconds": 2.5,
  "scores": {
    "2": 19.5,
    "4": NaN
  },
  "processes": 1,
  "sha256": {
    "model.safetensors": "aa"
  }
}
"""
UP = '{"owner": "17:1764211200", "mlflow": "http://127.0.0.1:5000", "prefect": "http://127.0.0.1:4200"}\n'
GUARDED = (
    '{"owner": "17:1764211200", "mlflow": "http://box:5000", "prefect": "http://box:4200", '
    '"api": "http://127.0.0.1:4200/api", "auth_file": "/home/me/auth"}\n'
)
UI = '{"owner": "17:1764211200", "mlflow": "http://127.0.0.1:5000", "prefect": null}\n'
OUTBOX_EVENT = """{
  "notification": {
    "id": "ledger-2-0a1b2c3d4e5f6071",
    "event": "promoted",
    "time": "2026-11-27T10:00:00.000001+00:00",
    "host": "here",
    "title": "pikavae: version 1 of pikavae is champion",
    "message": "me@here: sharper",
    "data": {
      "version": 1
    },
    "link": null,
    "picture": null
  },
  "deliveries": {
    "0a1b2c3d4e5f6071": {
      "label": "https://example.org (0a1b2c)",
      "delivered": null,
      "tries": 1,
      "tried": "2026-11-27T10:00:01.000+00:00",
      "error": "it answered with status 503"
    }
  }
}
"""
OUTBOX_STATE = """{
  "ledger": 2,
  "ledger_stamp": [
    1764211200000000000,
    2048
  ],
  "candidates": [
    "0a1b2c3d4e5f6071.json"
  ],
  "complaint": "",
  "is_disk_low": false
}
"""
ATTEMPT = """{
  "id": "0a1b2c3d4e5f60710a1b2c3d4e5f6071",
  "what": "sprites 64px f4 adamw",
  "started": "2026-11-27T10:00:00+00:00",
  "host": "here",
  "run": null,
  "flow_run": null,
  "link": null
}
"""

HOUSEKEEPING = """{
  "times": [
    {
      "time": "2026-11-27T03:00:00+00:00",
      "done": [
        {
          "step": "logs",
          "ok": true,
          "what": "deleted 1 older than 30 days, 5 bytes"
        }
      ]
    }
  ]
}
"""

STANDING = """{
  "version": 7,
  "champion": 3,
  "outcome": "fail",
  "metric": "psnr",
  "gain": -2.1,
  "interval": [
    -2.31,
    -1.88
  ],
  "findings": [
    "regression: fail: psnr gain -2.1"
  ],
  "comparison": "evaluations/aa11bb22cc33dd44/comparison-5566778899aabbcc.html"
}
"""

WATCH = """{
  "id": "20261127T060000Z-0a1b2c3d",
  "time": "2026-11-27T06:00:00+00:00",
  "model": "pikavae",
  "version": 3,
  "source": "/new",
  "fell": true,
  "line": "PSNR 1.20 dB worse than in its report (95 %: -1.90 to -0.60), on 40 fresh pictures",
  "findings": [
    "The champion fell"
  ],
  "metric": "psnr",
  "tolerance": 0.0,
  "num_fresh": 40,
  "num_trained_on": 2,
  "num_alike": null,
  "scores": {
    "primary_metric": "psnr"
  },
  "paired": null,
  "drift": {},
  "evaluation_set": "aa11bb22cc33dd44",
  "report": "5566778899aabbcc",
  "champion_report": "99aabbcc55667788",
  "page": "watches/20261127T060000Z-0a1b2c3d/page.html",
  "run_id": "f00",
  "experiment_id": "7"
}
"""

USAGE = """{
  "stage": "train",
  "began": "2026-11-27T20:00:00+00:00",
  "seconds": 61.204,
  "cpu_seconds": 58.91,
  "gpu_seconds": 122.408,
  "joules": 18230.5
}
"""

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
