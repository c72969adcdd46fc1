"""How many CPUs there are for us: by control groups of both versions, by affinity, and beside other work."""

import os
import time

import pytest

from pikavae.process import cpus


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch):
    monkeypatch.setattr(cpus, "_affinity", lambda: set(range(8)))


V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/docker/abc\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "max 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "350000 100000\n"}, 3),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "50000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "max 100000\n", "sys/fs/cgroup/pod/cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "2000000 100000\n"}, 8),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_the_tightest_quota_limits_the_cpus(tmp_path, files, count):
    write(tmp_path, files)
    assert cpus.count_allowed(tmp_path) == count


def stat(*busy, nice=0):
    """The file's text if each CPU was busy for so many ticks of a thousand."""
    lines = [f"cpu{n} {ticks} {nice} 0 {1000 - ticks - nice} 0 0 0 0 0 0" for n, ticks in enumerate(busy)]
    return "cpu 1 2 3 4 5 6 7 8 9 10\n" + "\n".join(lines) + "\nintr 12 3\n"


@pytest.mark.parametrize(
    ("after", "niceness", "free"),
    [
        (stat(0, 0, 0, 0, 0, 0, 0, 0), 0, 8),
        (stat(1000, 0, 0, 0, 0, 0, 0, 0), 0, 7),
        (stat(*[500] * 8), 0, 4),
        (stat(*[1000] * 8), 0, 1),
        (stat(*[0] * 8, nice=1000), 0, 8),
        (stat(*[0] * 8, nice=1000), 19, 1),
    ],
)
def test_other_work_is_not_competed_with(tmp_path, monkeypatch, after, niceness, free):
    write(tmp_path, {"proc/stat": "\n".join(f"cpu{n} 0 0 0 0 0 0 0 0 0 0" for n in range(8))})
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / "proc/stat").write_text(after))
    monkeypatch.setattr(os, "nice", lambda _: niceness)
    assert cpus.count_free(tmp_path) == free


def test_a_system_that_tells_nothing_gives_what_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    write(tmp_path, V2 | {"sys/fs/cgroup/pod/box/cpu.max": "200000 100000\n"})
    assert cpus.count_free(tmp_path) == 2


def test_this_machine_is_read():
    assert 1 <= cpus.count_free() <= cpus.count_allowed() <= 8
