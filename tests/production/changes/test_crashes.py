"""Whatever point a promotion is killed at, and however many are at work at once, production stays whole."""

import os
import subprocess
import sys

import pytest


def run_matrix(name, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{name}", *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_a_promotion_killed_at_points_of_every_phase_is_finished_or_undone():
    said = run_matrix("crash_matrix", "--cases", "promotion", "rollback", "--every", "67")
    assert "FAILED" not in said
    ends = [line for line in said.splitlines() if line.startswith(("promotion", "rollback"))]
    assert len(ends) == 6
    assert any("version 1" in line and "version 2" in line for line in ends)  # undone, and finished


@pytest.mark.slow
def test_promotions_at_once_have_one_order_on_sqlite_and_on_postgresql():
    said = run_matrix("promoting_at_once", "--processes", "4")
    sqlite, postgresql = said.splitlines()[-2:]
    assert sqlite.split()[:4] == ["sqlite", "4", "0", "10"]
    assert postgresql.split()[:4] == ["postgresql", "4", "2", "10"]
