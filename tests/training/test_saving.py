"""Writing beside the next steps: the same files, in the same order, whole or absent, and bounded in memory."""

import errno
import itertools
import os
import signal
import threading
from functools import partial
from multiprocessing import get_context

import pytest
import torch
from safetensors.torch import load_file

from pikavae.data.prepared.dataset import open_prepared
from pikavae.errors import PreemptedError
from pikavae.training import saving, state
from pikavae.training.journal import JOURNAL_NAME, Journal, gaps, read_events
from pikavae.training.loop import train
from pikavae.training.observer import Observer
from pikavae.training.saving import MOST_WAITING, HostMemory, Queue, Saver, best_step
from pikavae.training.state import TrainState, step_name
from tests.training.conftest import make_config

CPU = torch.device("cpu")
EVERYTHING = {
    "data.image_size": 32,
    "training.ema_decay": 0.9,
    "optimizer.name": "muon",
    "loss.adversarial_weight": 0.5,
    "loss.adversarial_start": 0.2,
    "loss.adversarial_warmup": 0.1,
    "model.resample_shortcuts": True,
}


def tensors(folder):
    """All tensors in a folder's snapshots and checkpoints, by file and name."""
    found = {}
    for path in sorted(folder.glob("*/step-*/*.safetensors")):
        found |= {(str(path.relative_to(folder)), name): value for name, value in load_file(path).items()}
    for path in sorted(folder.glob("checkpoints/step-*/optimizer.pt")):
        moments = torch.load(path, weights_only=True)
        for number, entry in moments["optimizer"]["state"].items():
            found |= {(str(path.relative_to(folder)), number, name): value for name, value in entry.items()}
    return found


def assert_same_files(one, other):
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, value in ours.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[name])), name


class Slow(Observer):
    """Ends each checkpoint's writing only once the next step was taken."""

    def __init__(self):
        self.next, self.overlapped, self.previews = threading.Event(), [], []

    def on_step(self, state, loss, progress):
        if state.step % 2 == 1:
            self.next.set()

    def on_checkpoint(self, step, metrics):
        if step < 6:
            self.overlapped.append(self.next.wait(timeout=60))
        self.next.clear()

    def preview(self, reconstructions, step):
        self.previews.append((step, threading.current_thread() is threading.main_thread()))


def test_beside_the_next_steps_the_same_is_written(tmp_path, larger):
    config, slow = make_config(**EVERYTHING), Slow()
    train(config, larger, tmp_path / "at once", CPU)
    train(config, larger, tmp_path / "beside", CPU, slow, beside=True)
    assert slow.overlapped == [True, True]
    assert slow.previews == [(0, True), (3, False), (6, False)]
    assert_same_files(tmp_path / "at once", tmp_path / "beside")


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def points(folder):
    timed = ("per_second", "wait_fraction")
    events, _ = read_events(folder / JOURNAL_NAME)
    values = [(name, event.step, value) for event in events for name, value in event.values.items()]
    kinds = [(event.kind, event.step) for event in events if event.kind != "metrics"]
    return sorted(one for one in values if not one[0].endswith(timed)), sorted(kinds)


KEEPS_ONE = {"training.keep_checkpoints": 1, "training.ema_decay": 0.9}


def train_beside(folder, prepared, journal):
    folder.mkdir(exist_ok=True)
    observer = journal(folder)
    result = train(make_config(**KEEPS_ONE), prepared, folder, CPU, observer, beside=True)
    observer.close()
    return result


def train_until_killed(folder, prepared, moment):
    """Train, and kill this process while it writes the second checkpoint."""

    class Killing(Journal):
        def on_checkpoint(self, step, metrics):
            super().on_checkpoint(step, metrics)
            self.at("on_checkpoint", step)

        def before_save(self, step):
            super().before_save(step)
            self.at("before_save", step)

        def on_drop(self, step):
            super().on_drop(step)
            self.at("drop", step + 2)

        def at(self, name, step):
            if (name, step) == (moment, 4):
                kill()

    of_module, name = {"snapshot": (saving, "write_snapshot"), "hash": (state, "sha256_of")}.get(moment, (None, ""))
    if of_module:
        real, calls = getattr(of_module, name), []

        def kill_later(*arguments, **more):
            calls.append(1)
            if len(calls) > (1 if moment == "snapshot" else 5):  # in the second checkpoint, which has four files
                kill()
            return real(*arguments, **more)

        setattr(of_module, name, kill_later)
    train_beside(folder, open_prepared(prepared), Killing)


@pytest.mark.parametrize("moment", ["snapshot", "on_checkpoint", "before_save", "hash", "drop"])
def test_killed_while_it_writes_it_resumes_from_the_last_whole_checkpoint(tmp_path, prepared, moment):
    train_beside(tmp_path / "calm", prepared, Journal)
    # A fork would inherit what earlier tests have started in this process.
    process = get_context("spawn").Process(target=train_until_killed, args=(tmp_path / "killed", prepared.path, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert train_beside(tmp_path / "killed", prepared, Journal).start_step == (4 if moment == "drop" else 2)
    assert_same_files(tmp_path / "calm", tmp_path / "killed")
    assert points(tmp_path / "calm") == points(tmp_path / "killed")
    assert gaps(tmp_path / "killed" / JOURNAL_NAME, 6) == []


def test_what_fails_in_writing_ends_the_training_with_its_own_error(tmp_path, prepared, config):
    class Full(Observer):
        steps, written = 0, []

        def on_step(self, state, loss, progress):
            self.steps = state.step

        def before_save(self, step):
            self.written.append(step)
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    observer = Full()
    with pytest.raises(OSError, match="No space left") as failure:
        train(config, prepared, tmp_path, CPU, observer, beside=True)
    assert failure.value.errno == errno.ENOSPC
    assert observer.written == [2]  # nothing is written after it
    assert observer.steps <= 4
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_told_to_stop_it_waits_until_everything_is_written(tmp_path, prepared, config):
    asked = itertools.count(1)  # at each step, and after the scores of the second
    with pytest.raises(PreemptedError, match="stopped at step 3 of 6"):
        train(config, prepared, tmp_path, CPU, beside=True, should_stop=lambda: next(asked) >= 4)
    assert [folder.name for folder in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
    ]
    assert train(config, prepared, tmp_path, CPU, beside=True).start_step == 3


def test_a_state_is_copied_once_the_copy_before_is_written(tmp_path, config):
    """Both copies have the same memory: the first checkpoint would get numbers of the second step."""
    go = threading.Event()

    class Held(Observer):
        def before_save(self, step):
            assert go.wait(60)

    now = TrainState.fresh(config, CPU)
    first = {name: value.clone() for name, value in now.model.state_dict().items()}
    with Saver(config, tmp_path, Held(), CPU, beside=True) as saver:
        now.step = 1
        saver.save_state(now)
        with torch.no_grad():
            for weight in now.model.parameters():
                weight.fill_(2.0)
        now.step = 2
        threading.Timer(0.2, go.set).start()
        saver.save_state(now)
        assert go.is_set()
    written = load_file(tmp_path / "checkpoints" / step_name(1) / "model.safetensors")
    assert all(torch.equal(value, first[name]) for name, value in written.items())


def test_memory_of_one_copy_is_used_again_and_keeps_the_layout():
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    tree = {"a": [weight, 3], "b": {0: (torch.ones(2), "x")}}
    memory = HostMemory(CPU)
    first = memory.copy(tree)
    pointer = first["a"][0].data_ptr()
    assert torch.equal(first["a"][0], weight)
    assert pointer != weight.data_ptr()
    assert first["a"][0].stride() == weight.stride()
    assert first["a"][1] == 3
    assert first["b"][0][1] == "x"
    weight.zero_()
    assert first["a"][0].any()
    assert memory.copy(tree)["a"][0].data_ptr() == pointer
    assert not first["a"][0].any()


def test_a_queue_holds_few_and_keeps_their_order():
    queue, done, begun, go = Queue(beside=True), [], threading.Event(), threading.Event()

    def first():
        begun.set()
        go.wait(60)
        done.append(0)

    queue.submit(first)
    for number in range(1, MOST_WAITING):
        queue.submit(partial(done.append, number))
    begun.wait(60)
    threading.Timer(0.2, go.set).start()
    queue.submit(lambda: done.append(MOST_WAITING))  # waits for the first
    assert go.is_set()
    queue.wait()
    queue.close()
    assert done == list(range(MOST_WAITING + 1))


def test_after_work_that_failed_none_is_run():
    queue, done, go = Queue(beside=True), [], threading.Event()

    def fail():
        go.wait(60)
        raise OSError("No space left on device")

    queue.submit(fail)
    queue.submit(partial(done.append, 1))
    go.set()
    with pytest.raises(OSError, match="No space left"):
        queue.wait()
    queue.close()
    assert done == []


def test_the_best_step_is_the_later_of_equals_and_never_nan():
    assert best_step({2: 1.0, 4: 3.0, 6: 3.0, 8: float("nan")}) == 6
