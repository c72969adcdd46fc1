"""Records of what was used are added up, and read as a person would say it."""

import pytest

from pikavae.workspace.usage import Usage, UsageRecord, usage_folder, usage_in


def record(stage="train", cpu=10.0, gpu=0.0, joules=None):
    return UsageRecord(
        stage=stage, began="2026-11-27T20:00:00+00:00", seconds=5.0, cpu_seconds=cpu, gpu_seconds=gpu, joules=joules
    )


def test_each_attempt_counts_once_and_damaged_files_not_at_all(tmp_path, caplog):
    folder = usage_folder(tmp_path, "abc")
    folder.mkdir(parents=True)
    (folder / "train-1.json").write_text(record(cpu=10.0).to_json())
    (folder / "train-2.json").write_text(record(cpu=2.5).to_json())
    (folder / "evaluate-3.json").write_text(record("evaluate", cpu=1.0).to_json())
    (folder / "train-4.json").write_text('{"stage": "train"')
    (folder / ".train-5.json.0.tmp").write_text(record(cpu=99.0).to_json())
    assert usage_in(folder).cpu_seconds == 13.5
    assert usage_in(folder, "train") == Usage(2, 12.5)
    assert "train-4.json: damaged" in caplog.text
    assert usage_in(usage_folder(tmp_path, "none")) == Usage()


def test_energy_is_that_of_the_attempts_whose_counters_were_read():
    measured, unknown = record(gpu=7200.0, joules=7.2e6), record(gpu=3600.0)
    both = Usage.of([measured, unknown])
    assert both.numbers() == {"gpu_hours": 3.0, "cpu_hours": 20 / 3600, "energy_kwh": 2.0}
    assert both.text() == "3.0 GPU hours, 20 CPU seconds, 2.0 kWh for a part of the GPU time"
    assert Usage.of([measured]).text() == "2.0 GPU hours, 10 CPU seconds, 2.0 kWh"
    assert Usage.of([unknown]).numbers()["energy_kwh"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 CPU seconds"), (59.4, "59 CPU seconds"), (90.0, "1.5 CPU minutes"), (36_000.0, "10.0 CPU hours")],
)
def test_a_time_is_in_the_unit_that_suits_it(seconds, text):
    assert Usage(1, seconds).text() == text
