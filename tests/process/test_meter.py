"""What an attempt uses is measured over all its processes, and is on the disk while it works."""

import subprocess
import sys
import time

import psutil
import pytest

from pikavae.process import energy, meter
from pikavae.process.meter import Meter, metered, tree_cpu_seconds
from pikavae.workspace.usage import UsageRecord, usage_in

BURN = "import time\nwhile time.process_time() < {seconds}: pass"


def burn(seconds):
    """Use CPU time in this process."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def started(code):
    return subprocess.Popen([sys.executable, "-c", code])


def ended(process):
    """Wait until a process has ended, without asking for its status."""
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(meter, "SECONDS_BETWEEN_WRITES", 0.0)


def only_record(folder):
    (path,) = folder.glob("*.json")
    return UsageRecord.read(path)


def test_the_time_of_a_process_that_ended_is_whole_until_somebody_waits_for_it():
    process = started(BURN.format(seconds=0.3))
    root = psutil.Process(process.pid)
    ended(process)
    assert 0.28 <= tree_cpu_seconds(root, thorough=False) < 3  # the system counts in hundredths
    process.wait()
    assert tree_cpu_seconds(root, thorough=True) == 0.0


def test_the_time_of_processes_below_counts_while_they_run_and_after():
    below = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN.format(seconds=0.5)!r}])"
    process = started(f"{below}\nimport time; time.sleep(60)")
    root = psutil.Process(process.pid)
    try:
        while not root.children():
            time.sleep(0.01)
        (child,) = root.children()
        while sum(child.cpu_times()[:2]) < 0.2:
            time.sleep(0.01)
        running = tree_cpu_seconds(root, thorough=True)
        assert running >= 0.2
        assert tree_cpu_seconds(root, thorough=False) < running
        while root.children():
            time.sleep(0.01)
        assert tree_cpu_seconds(root, thorough=False) >= 0.48
    finally:
        process.kill()
        process.wait()


def test_a_record_is_on_the_disk_before_the_work_ends_and_is_replaced(tmp_path, at_once):
    measured = iter([1.0, 2.5, 2.0])  # the last as if a process had ended without being found
    one = Meter(tmp_path, "train")
    one.cpu_seconds = lambda *, thorough: next(measured)
    one.look()
    assert only_record(tmp_path).cpu_seconds == 1.0
    one.look()
    one.end()
    assert only_record(tmp_path).cpu_seconds == 2.5
    assert only_record(tmp_path).gpu_seconds == 0.0
    assert only_record(tmp_path).joules is None


def test_the_work_of_this_process_is_measured_also_if_it_fails(tmp_path):
    def work():
        with metered(tmp_path, "evaluate"):
            burn(0.2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    record = only_record(tmp_path)
    assert record.stage == "evaluate"
    assert 0.2 <= record.cpu_seconds < 3
    with metered(tmp_path, "evaluate"):
        subprocess.run([sys.executable, "-c", BURN.format(seconds=0.3)], check=True)
    assert usage_in(tmp_path).cpu_seconds >= record.cpu_seconds + 0.3
    assert usage_in(tmp_path).attempts == 2


def test_a_counter_of_energy_counts_from_its_start_and_through_a_reload_of_the_driver(tmp_path, at_once, monkeypatch):
    counter = iter([1_000.0, 1_400.0, None, 50.0, 80.0])
    monkeypatch.setattr(meter, "read_joules", lambda cards: next(counter) if cards else None)
    one = Meter(tmp_path, "train", cards=("GPU-1", "GPU-2"), num_gpus=2)
    found = []
    for _ in range(4):
        one.look()
        found.append(only_record(tmp_path).joules)
    assert found == [400.0, 400.0, 450.0, 480.0]
    record = only_record(tmp_path)
    assert record.gpu_seconds == pytest.approx(2 * record.seconds, abs=0.01)


def test_work_continues_if_its_record_cannot_be_written(tmp_path, at_once, caplog):
    (tmp_path / "file").touch()
    one = Meter(tmp_path / "file", "train")
    one.look()
    one.end()
    assert caplog.text.count("what this work uses is not recorded") == 1


def test_a_card_without_a_counter_and_a_machine_without_cards_say_nothing(monkeypatch):
    assert energy.read_joules(()) is None
    assert energy.read_joules(("GPU-00000000-0000-0000-0000-000000000000",)) is None
    assert energy.cards_of("cpu", 4) == ()
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it was not installed
    assert energy.read_joules(("GPU-1",)) is None


class Card:
    """Stands for NVML with two cards, one of them without a counter."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self):
        self.open = 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return {"GPU-1": 12_345, "GPU-2": 655, "GPU-3": None}[uuid]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if handle is None:
            raise self.NVMLError("Not Supported")
        return handle


def test_millijoules_of_all_cards_are_added_to_joules(monkeypatch):
    card = Card()
    monkeypatch.setitem(sys.modules, "pynvml", card)
    assert energy.read_joules(("GPU-1", "GPU-2")) == 13.0
    assert energy.read_joules(("GPU-1", "GPU-3")) is None
    assert card.open == 0


@pytest.mark.gpu
def test_a_real_card_counts_energy_while_it_works(tmp_path):
    import torch

    cards = energy.cards_of("cuda", 1)
    assert energy.read_joules(cards) is not None
    with metered(tmp_path, "evaluate", cards=cards, num_gpus=1):
        end = time.monotonic() + 3
        matrix = torch.randn(4096, 4096, device="cuda")
        while time.monotonic() < end:
            matrix = torch.nn.functional.normalize(matrix @ matrix)
            torch.cuda.synchronize()
    record = only_record(tmp_path)
    assert record.gpu_seconds >= 3
    assert 30 < record.joules / record.gpu_seconds < 2_000  # watts
