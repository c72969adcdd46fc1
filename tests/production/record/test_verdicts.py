"""What gates said is read from the ledger as earlier versions wrote it, and written with the same content and order."""

import json
from dataclasses import replace

import pytest

from pikavae.errors import DamagedFileError
from pikavae.production.record import ledger
from pikavae.production.record.verdicts import Verdicts
from tests.production.record.test_ledger import ENTRY

TEXT = """{
  "outcome": "hold",
  "gates": {
    "integrity": {
      "name": "integrity",
      "outcome": "pass",
      "findings": [
        {
          "outcome": "pass",
          "reason": "3 files have their hashes"
        }
      ],
      "thresholds": {}
    },
    "half precision": {
      "name": "half precision",
      "outcome": "hold",
      "findings": [
        {
          "outcome": "hold",
          "reason": "bf16 was not measured"
        }
      ],
      "thresholds": {
        "half_precision": [
          "bf16"
        ]
      }
    }
  },
  "evaluation_set": "aa11",
  "num_images": 24,
  "image_size": 64,
  "reports": {
    "candidate": {
      "report": "0123456789abcdef",
      "sha256": {
        "report.json": "aa",
        "per_image.csv": "bb"
      }
    }
  },
  "champion": null,
  "comparison": "comparisons/a/index.html"
}
"""
REFUSED = '{"outcome": "fail", "gates": {}}'


def event_of(tmp_path, verdicts):
    return ledger.append(tmp_path / "ledger.jsonl", replace(ENTRY, action="request", state="done", verdicts=verdicts))


def test_verdicts_keep_content_and_order(tmp_path):
    verdicts = Verdicts.of_event(event_of(tmp_path, json.loads(TEXT)))
    assert verdicts.to_json() == Verdicts.model_validate(json.loads(TEXT)).to_json() == TEXT
    assert json.dumps(Verdicts.model_validate(json.loads(REFUSED)).content()) == REFUSED
    assert verdicts.gates["half precision"].findings[0].reason == "bf16 was not measured"
    assert verdicts.reports["candidate"].sha256["per_image.csv"] == "bb"


def test_an_event_without_gates_has_none_and_other_content_is_named_by_its_line(tmp_path):
    assert Verdicts.of_event(event_of(tmp_path, None)) is None
    with pytest.raises(DamagedFileError, match="ledger: line 2 holds no verdicts"):
        Verdicts.of_event(event_of(tmp_path, {"outcome": "maybe"}))
