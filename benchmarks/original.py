"""Preparing a folder of pictures from files to a set on disk, against the way of the original tutorial.

    python -m benchmarks.original --count 200 --size 512

The original: `datasets.load_dataset("imagefolder")`, `map` to resized, cropped, normalised float32 tensors in as many
processes as there are cores, kept by `datasets` on disk. Here: `pikavae prepare` on the same cores, everything that it
does besides included (hashes, duplicates, split, tokens, page). Both as programs of their own, in turn; medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ORIGINAL = """
import json, sys
import datasets
from torchvision import transforms
source, out, size, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
datasets.disable_progress_bars()
compose = transforms.Compose([
    transforms.Resize(size, transforms.InterpolationMode.BILINEAR), transforms.CenterCrop(size),
    transforms.ToTensor(), transforms.Normalize([0.5], [0.5]),
])
def prepare(rows):
    return {"pixel_values": [compose(image.convert("RGB")) for image in rows["image"]]}
data = datasets.load_dataset("imagefolder", data_dir=source, split="train", cache_dir=out)
data = data.map(prepare, batched=True, batch_size=50, remove_columns=["image"], num_proc=processes)
data.set_format("torch")
"""
COMPARE = """
import json, sys
from pathlib import Path
import torch
from PIL import Image
from torchvision import transforms
from pikavae.data.prepared.dataset import open_prepared
source, prepared, size = Path(sys.argv[1]), open_prepared(Path(sys.argv[2])), int(sys.argv[3])
compose = transforms.Compose([
    transforms.Resize(size, transforms.InterpolationMode.BILINEAR), transforms.CenterCrop(size),
    transforms.ToTensor(), transforms.Normalize([0.5], [0.5]),
])
for side in (prepared.train, prepared.validation):
    for index, name in enumerate(side.names):
        theirs = compose(Image.open(source / name).convert("RGB"))
        assert torch.equal(side.batch([index])["pixel_values"][0], theirs), name
print("equal")
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source = draw(Path(temporary) / "pictures", arguments.count, arguments.size)
        seconds: dict[str, list[float]] = {"original": [], "pikavae": []}
        sizes: dict[str, int] = {}
        for number in range(arguments.rounds):
            for name, way in (("original", original), ("pikavae", pikavae)):
                out = Path(temporary) / name
                shutil.rmtree(out, ignore_errors=True)
                began = time.perf_counter()
                way(source, out, arguments.size)
                seconds[name].append(time.perf_counter() - began)
                sizes[name] = size_of(out)
            print(f"round {number + 1}: {seconds['original'][-1]:.1f} s, {seconds['pikavae'][-1]:.1f} s", flush=True)
        idle = {name: statistics.median(startup(name) for _ in range(3)) for name in seconds}
        (prepared,) = (Path(temporary) / "pikavae" / "prepared").glob("*/record.json")
        words = [sys.executable, "-c", COMPARE, str(source), str(prepared.parent), str(arguments.size)]
        pixels = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name in seconds:
        speed = arguments.count / (medians[name] - idle[name])
        print(
            f"{name:<9} {medians[name]:7.2f} s, of which imports {idle[name]:5.2f} s; {speed:7.1f} "
            f"pictures/s without them; {sizes[name] / arguments.count / 1000:8.1f} kB a picture"
        )
    work = {name: medians[name] - idle[name] for name in seconds}
    print(f"speed {work['original'] / work['pikavae']:.2f} times the original's without imports")
    print(f"speed {medians['original'] / medians['pikavae']:.2f} times the original's, all in all")
    print(f"bytes {sizes['pikavae'] / sizes['original']:.3f} of the original's; pixels after conversion: {pixels}")


def draw(folder: Path, count: int, size: int) -> Path:
    """Pictures somewhat larger than `size`, as JPEG files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        large = small.resize((size * 5 // 4, size * 9 // 8), Image.Resampling.BICUBIC)
        large.save(folder / f"{number:04d}.jpg", quality=92)
    return folder


def original(source: Path, out: Path, size: int) -> None:
    """Run the tutorial's preparation, in as many processes as there are cores."""
    cores = str(len(os.sched_getaffinity(0)))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", ORIGINAL, str(source), str(out), str(size), cores]
    subprocess.run(words, check=True, env=environment, stderr=subprocess.DEVNULL)


def pikavae(source: Path, out: Path, size: int) -> None:
    """Run the command of a user."""
    flags = ["--data.source", str(source), "--data.image_size", str(size), "--json"]
    words = [sys.executable, "-m", "flows.cli", "prepare", "demo", *flags]
    environment = {**os.environ, "PIKAVAE_HOME": str(out)}
    done = subprocess.run(words, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    json.loads(done.stdout)


def startup(name: str) -> float:
    """Seconds that the imports alone take."""
    modules = {
        "original": "import datasets, torchvision.transforms, torch",
        "pikavae": "import flows.cli, pikavae.operations, datasets, transformers",
    }
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", modules[name]], check=True, capture_output=True)
    return time.perf_counter() - began


def size_of(folder: Path) -> int:
    """Bytes of all files, each counted once however many names it has."""
    files = {file.stat().st_ino: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return sum(files.values())


if __name__ == "__main__":
    main()
