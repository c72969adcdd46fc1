"""The folder that latents are written to: what is there already, damage, a full disk, and a kill at every write."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.latents import shards
from pikavae.latents.encode import LOCK_NAME, RECORD_NAME, open_latent_set
from pikavae.workspace.files import exclusive, write_atomically
from tests.latents.conftest import contents, encode, model, sides
from tests.support.places import ROOT as CHECKOUT


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"provenance": {"model": "m2", "snapshot": "step-00000001", "prepared_set": "p1"}}, "model is 'm1', not 'm2'"),
        ({"logvar": True}, "logvar is False, not True"),
        ({"batch_size": 5}, "batch_size is 4, not 5"),
        ({"rows_per_shard": 9}, "rows_per_shard is 10, not 9"),
        ({"given": "fewer"}, "num_images is {'train': 23, 'validation': 6}, not {'train': 22, 'validation': 6}"),
    ],
)
def test_other_latents_are_neither_overwritten_nor_mixed(made, tmp_path, finished, change, named):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    if not finished:
        for name in (RECORD_NAME, "README.md", "train-00001-of-00003.parquet"):
            (folder / name).unlink()
    before = contents(folder)
    if "given" in change:
        change = {"given": sides(train=22)}
    with pytest.raises(UserError) as caught:
        encode(folder, **change)
    assert named in str(caught.value)
    assert str(caught.value).startswith(f"--out {folder}: ")
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_begun_set_is_gone_on_with_by_the_same_threads_only(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    torch.set_num_threads(2)
    with pytest.raises(UserError, match="computed_on is 'cpu with 1 threads', not 'cpu with 2 threads'"):
        encode(folder)


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "train-00000-of-00003.parquet", "other.parquet"])
def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_was(tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    if name == "other.parquet":
        pq.write_table(pa.table({"a": [1]}), folder / name)
    else:
        (folder / name).write_text("mine")
    before = (folder / name).read_bytes()
    with pytest.raises(UserError, match=f"--out .*{name}.*name"):
        encode(folder)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == before


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "set").write_text("mine")
    for folder in (tmp_path / "set", tmp_path / "set" / "below"):
        with pytest.raises(UserError, match=r"--out .*: .*name a folder"):
            encode(folder)


def test_hidden_files_of_the_user_stay(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    kept = [folder / ".gitattributes", folder / ".mine.tmp"]
    for path in kept:
        path.write_text("mine")
    encode(folder)
    assert [path.read_text() for path in kept] == ["mine", "mine"]


def test_an_altered_file_of_a_finished_set_is_found_by_its_hash(made, tmp_path):
    for name in made[1].files:
        folder = tmp_path / name
        shutil.copytree(made[0], folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 3] ^= 1
        (folder / name).write_bytes(content)
        for reopen in (open_latent_set, encode):
            with pytest.raises(DamagedFileError, match=name):
                reopen(folder)
        (folder / name).unlink()
        with pytest.raises(DamagedFileError, match="missing"):
            open_latent_set(folder)
        (folder / RECORD_NAME).unlink()
        with pytest.raises(UserError, match="no finished set"):
            open_latent_set(folder)
        encode(folder)
        assert contents(folder) == contents(made[0])


def test_a_damaged_record_is_told(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    for content in ("", "[]", "{}", (folder / RECORD_NAME).read_text()[:200]):
        (folder / RECORD_NAME).write_text(content)
        with pytest.raises(DamagedFileError, match=RECORD_NAME):
            open_latent_set(folder)


def test_a_damaged_shard_of_a_begun_set_is_written_again(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    shard = folder / "train-00001-of-00003.parquet"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    encode(folder)
    assert contents(folder) == contents(made[0])


def test_a_shard_in_another_ones_place_is_found(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    shutil.copy(folder / "train-00000-of-00003.parquet", folder / "train-00001-of-00003.parquet")
    with pytest.raises(PikavaeError, match=r"00001-of-00003.parquet: holds other rows"):
        encode(folder)
    assert not (folder / RECORD_NAME).exists()


@pytest.mark.parametrize("column", ["latent", "logvar"])
def test_what_is_not_the_models_is_found_on_reading_back(tmp_path, monkeypatch, column):
    """The last bit of one number in the first row, which belongs to the sample."""

    def with_one_bit_more(values):
        changed = values.clone()
        if next(calls) == ("latent", "logvar").index(column):
            changed[0, 0, 0, 0] = torch.nextafter(changed[0, 0, 0, 0], torch.tensor(torch.inf))
        return to_nested_lists(changed)

    to_nested_lists, calls = shards.to_nested_lists, itertools.count()
    monkeypatch.setattr(shards, "to_nested_lists", with_one_bit_more)
    with pytest.raises(PikavaeError, match=r"train-00000-of-00003\.parquet: row 0 is not the latent of its picture"):
        encode(tmp_path / "set", logvar=True)
    assert not (tmp_path / "set" / RECORD_NAME).exists()


def test_the_model_that_wrote_a_begun_set_must_be_the_one_that_ends_it(made, tmp_path):
    """Another model under the same name: the digest of the caller is not taken on trust."""
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    with pytest.raises(PikavaeError, match="is not the latent of its picture"):
        encode(folder, model(seed=1))
    assert not (folder / RECORD_NAME).exists()


def test_a_second_process_is_told_to_wait(tmp_path):
    with (
        exclusive(tmp_path / "set" / LOCK_NAME, busy=""),
        pytest.raises(PikavaeError, match="another process is writing latents"),
    ):
        encode(tmp_path / "set")


def test_a_full_disk_is_one_line_and_leaves_the_shards_before(tmp_path, monkeypatch):
    def full_after_two(path, content):
        if len(list(path.parent.glob("*.parquet"))) == 2:
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    monkeypatch.setattr(shards, "write_atomically", full_after_two)
    with pytest.raises(PikavaeError, match=r"the disk is full \(.* free on .*\); make room there, .* it resumes here"):
        encode(tmp_path / "set")
    assert sorted(contents(tmp_path / "set")) == [f"train-0000{i}-of-00003.parquet" for i in range(2)]


def kill_at(number: int, before_rename: bool) -> None:
    """Have this process killed at its `number`-th atomic write, before it gets its name or after."""
    rename, count = Path.replace, itertools.count(1)

    def replace(path, target):
        here = next(count) == number
        if here and before_rename:
            os.kill(os.getpid(), signal.SIGKILL)
        result = rename(path, target)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = replace


def in_child(work) -> int:
    """The status of a forked child that does `work`; its torch has started no thread yet."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_everywhere(root: Path) -> None:
    """For each write of a set, and both sides of it: a run that is killed there, then one that is not."""
    torch.set_num_threads(1)
    for number in range(1, 7):
        for before_rename in (True, False):
            folder = root / f"{number}-{before_rename}"

            def killed(number=number, before_rename=before_rename, folder=folder):
                kill_at(number, before_rename)
                encode(folder)

            assert in_child(killed) == -signal.SIGKILL
            left = sorted(path.name for path in folder.iterdir())
            sys.stdout.write("|".join([str(number), str(before_rename), *left]) + "\n")
            sys.stdout.flush()
            assert in_child(lambda folder=folder: encode(folder)) == 0


def test_a_run_that_is_killed_anywhere_and_started_again_ends_with_the_same_bytes(made, tmp_path):
    """Four shards, the card and the record are six writes."""
    code = f"from tests.latents.test_encode_folder import *; killed_everywhere(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(made[1].files)
    for line in done.stdout.splitlines():
        number, before_rename, *left = line.split("|")
        named = [name for name in left if not name.startswith(".")]
        whole = int(number) - (before_rename == "True")
        assert len([name for name in left if name.endswith(".tmp")]) == (before_rename == "True")
        assert named == sorted([*names, "README.md", RECORD_NAME][:whole])
        folder = tmp_path / f"{number}-{before_rename}"
        assert contents(folder) == contents(made[0])
    assert len(done.stdout.splitlines()) == 12


def test_reading_back_leaves_nothing_in_the_cache_of_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    encode(tmp_path / "set")
    assert not (tmp_path / "cache").exists()
