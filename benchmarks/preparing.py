"""Preparation at scale: pictures a second, peak memory, the second look, one more picture, and kills.

    python -m benchmarks.preparing --counts 1000 100000 --kills 20

Draws the pictures once into files below --folder, prepares them by the command line as a user would, prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from pikavae.data.sprites.draw import draw_sprite

SECONDS_BETWEEN_LOOKS = 0.05
NUM_SPRITES = 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-count", type=int, default=3000, help="pictures of the set that is killed")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--folder", type=Path, required=True, help="for pictures and state; reused when it is there")
    arguments = parser.parse_args()
    rows = [row for count in arguments.counts for row in measure(arguments.folder, count, arguments.image_size)]
    width = max(len(name) for name, *_ in rows)
    for name, seconds, memory, note in rows:
        print(f"{name:<{width}}  {seconds:9.2f} s  {memory / 2**20:7.0f} MiB  {note}")
    if arguments.kills:
        kills(arguments.folder, arguments.kill_count, arguments.kills, arguments.image_size)


def draw(folder: Path, count: int) -> Path:
    """Draw a folder of `count` PNG files with captions: each the left of a sprite and the right of another."""
    pictures = folder / f"sprites-{count}"
    if not (pictures / "complete").is_file():
        sprites = [draw_sprite(7, index) for index in range(min(count, NUM_SPRITES))]
        arrays = [np.asarray(sprite.image.convert("RGB")) for sprite in sprites]
        half = arrays[0].shape[1] // 2
        for index in range(count):
            part = pictures / f"{index // 1000:04d}"
            part.mkdir(parents=True, exist_ok=True)
            left = index % len(sprites)
            right = (left + index // len(sprites)) % len(sprites)
            pixels = np.concatenate([arrays[left][:, :half], arrays[right][:, half:]], axis=1)
            Image.fromarray(pixels).save(part / f"{index:06d}.png", compress_level=1)
            caption = f"{sprites[left].caption}; {sprites[right].caption}"
            (part / f"{index:06d}.txt").write_text(caption, encoding="utf-8")
        (pictures / "complete").touch()
    return pictures


def measure(folder: Path, count: int, size: int) -> list[tuple[str, float, int, str]]:
    """Prepare from nothing, again, and with one more picture."""
    pictures, home = draw(folder, count), folder / f"home-{count}"
    shutil.rmtree(home, ignore_errors=True)
    extra = pictures / "one-more.png"
    extra.unlink(missing_ok=True)
    rows = []
    seconds, memory, _ = prepare(pictures, home, size)
    disk = sum(file.stat().st_size for file in (home / "prepared" / "shards").glob("*.arrow"))
    rows.append(
        (
            f"{count:,} pictures",
            seconds,
            memory,
            f"{count / seconds:,.0f} pictures/s, {disk / count / 1000:.1f} kB each",
        )
    )
    seconds, memory, _ = prepare(pictures, home, size)
    rows.append((f"{count:,} again", seconds, memory, "unchanged"))
    shards = set((home / "prepared" / "shards").glob("*.arrow"))
    draw_sprite(8, count).image.save(extra)
    seconds, memory, _ = prepare(pictures, home, size)
    made = len(set((home / "prepared" / "shards").glob("*.arrow")) - shards)
    rows.append((f"{count:,} and one more", seconds, memory, f"{made} of {len(shards)} shards made"))
    extra.unlink()
    return rows


def command(pictures: Path, size: int) -> list[str]:
    """Return the preparation of a folder, as a user types it."""
    fields = {"source": pictures, "image_size": size, "near_duplicate_distance": 4}
    flags = [word for name, value in fields.items() for word in (f"--data.{name}", str(value))]
    return [sys.executable, "-m", "flows.cli", "prepare", "demo", *flags, "--json"]


def prepare(pictures: Path, home: Path, size: int) -> tuple[float, int, str]:
    """Seconds, peak of the memory of all its processes in bytes (shared pages counted once), fingerprint."""
    environment = {**os.environ, "PIKAVAE_HOME": str(home)}
    began = time.monotonic()
    process = subprocess.Popen(command(pictures, size), env=environment, stdout=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    output, _ = process.communicate()
    seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"preparation ended with status {process.returncode}")
    return seconds, watch.peak(), json.loads(output.splitlines()[-1])["fingerprint"]


class Watch:
    """Measures the peak of the memory that a process and its descendants have together."""

    def __init__(self, pid: int) -> None:
        self.pid, self._peak, self._thread = pid, 0, threading.Thread(target=self._look)
        self._thread.start()

    def peak(self) -> int:
        """In bytes; call it when the process has ended."""
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while True:
            try:
                parent = psutil.Process(self.pid)
                family = [parent, *parent.children(recursive=True)]
                if parent.status() == psutil.STATUS_ZOMBIE:
                    return
                self._peak = max(self._peak, sum(_proportional(process) for process in family))
            except psutil.NoSuchProcess:
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _proportional(process: psutil.Process) -> int:
    """Return a process's own pages and its share of common ones; files that are merely mapped do not count."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    except (OSError, psutil.NoSuchProcess):
        pass
    return 0


def kills(folder: Path, count: int, number: int, size: int) -> None:
    """Kill preparations at random moments; each must then end as an undisturbed one does."""
    pictures, home = draw(folder, count), folder / "home-kills"
    shutil.rmtree(home, ignore_errors=True)
    seconds, _, fingerprint = prepare(pictures, home, size)
    expected = content(home / "prepared" / fingerprint)
    generator = random.Random(0)
    for attempt in range(number):
        shutil.rmtree(home)
        moment = generator.uniform(0.3, 1.0) * seconds
        environment = {**os.environ, "PIKAVAE_HOME": str(home)}
        process = subprocess.Popen(command(pictures, size), env=environment, stdout=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        process.wait()
        shards = len(list((home / "prepared" / "shards").glob("*.json"))) if home.exists() else 0
        _, _, again = prepare(pictures, home, size)
        same = again == fingerprint and content(home / "prepared" / again) == expected
        print(f"kill {attempt + 1:>3} after {moment:6.2f} s, {shards:>4} shards: {'same bytes' if same else 'DIFFERS'}")
        if not same:
            raise SystemExit(1)


def content(folder: Path) -> dict[str, str]:
    """Return the hash of every file of a prepared set by its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    main()
