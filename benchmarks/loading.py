"""How fast pictures are stored and read, against the way of the original tutorial, and what other ways would cost.

    python -m benchmarks.loading --size 512 --count 200

The original maps its pictures to normalised float32 tensors with `datasets.Dataset.map`, saves them, and reads them one
by one. Here the same pictures are stored as 8-bit shards and read through the loader. All ways take turns, and the
medians of several rounds are printed. One process, one thread, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pikavae.data.prepared.dataset import PictureSet, to_float
from pikavae.data.prepared.loader import Loader, Way
from pikavae.data.shards.files import INDEX_SCHEMA, ShardWriter
from pikavae.presets import parse_config
from pikavae.training.order import indices_at

ENCODED: dict[str, dict[str, Any]] = {"PNG": {"format": "PNG"}, "WebP lossless": {"format": "WEBP", "lossless": True}}
PICTURES_PER_SHARD = 64
ORIGINAL, OURS = "original: float32 by datasets", "shards, direct"


def draw(count: int, size: int) -> list[np.ndarray]:
    """Pictures between photograph and drawing: smooth fields with some noise, (size, size, 3) uint8."""
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        small = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), np.int16)
        noise = generator.integers(-3, 4, smooth.shape, dtype=np.int16)
        pictures.append((smooth + noise).clip(0, 255).astype(np.uint8))
    return pictures


# The original's way


def write_float32(pictures: list[np.ndarray], folder: Path) -> None:
    """`Dataset.map` to float32 tensors (3, H, W), saved to disk."""
    import datasets
    from torchvision import transforms

    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    datasets.disable_progress_bars()
    source = datasets.Dataset.from_dict({"number": list(range(len(pictures)))})
    cache = folder.with_suffix(".cache")
    mapped = source.map(
        lambda row: {"pixel_values": to_tensor(pictures[row["number"]])},
        load_from_cache_file=False,
        cache_file_name=str(cache),
        remove_columns=["number"],
    )
    mapped.save_to_disk(str(folder))
    cache.unlink()


def read_float32(folder: Path) -> Iterator[torch.Tensor]:
    """Read the pictures one by one, as `set_format("torch")` gives them."""
    import datasets

    rows = datasets.load_from_disk(str(folder))
    rows.set_format("torch")
    for row in rows:
        yield row["pixel_values"]


# Our way


def write_shards(pictures: list[np.ndarray], folder: Path) -> None:
    """8-bit shards."""
    folder.mkdir()
    for start in range(0, len(pictures), PICTURES_PER_SHARD):
        with ShardWriter(folder / f"{start:06d}.arrow") as writer:
            for picture in pictures[start : start + PICTURES_PER_SHARD]:
                writer.write(
                    picture, name="", caption="", note="", identity=bytes(32), perceptual_hash=0, thumbnail=bytes(192),
                    source_width=0, source_height=0, changes=[],
                )  # fmt: skip


def open_shards(folder: Path, count: int, size: int) -> PictureSet:
    """Open the shards as a set."""
    columns = {field.name: pa.nulls(count, field.type) for field in INDEX_SCHEMA}
    columns["shard"] = pa.array([i // PICTURES_PER_SHARD for i in range(count)], pa.int32())
    columns["row"] = pa.array([i % PICTURES_PER_SHARD for i in range(count)], pa.int32())
    columns["height"] = columns["width"] = pa.array([size] * count, pa.int32())
    return PictureSet(pa.table(columns, schema=INDEX_SCHEMA), sorted(folder.glob("*.arrow")), size, "center")


def loader(pictures: PictureSet, size: int, batch_size: int, way: Way, *, flip: bool = False) -> Loader:
    """Return the training loader for the CPU."""
    config = parse_config({"data": {"image_size": size, "flip": flip}, "training": {"batch_size": batch_size}})
    order = partial(indices_at, count=batch_size, num_images=len(pictures), seed=0)
    return Loader(pictures, order, 0, config, torch.device("cpu"), way)


def read_batches(stream: Loader, count: int, batch_size: int) -> None:
    """Pass once over all pictures."""
    for _ in range(count // batch_size):
        next(stream)


# Other ways


def encode(pictures: list[np.ndarray], kind: str) -> list[bytes]:
    """Encode each picture as a file of a lossless format."""
    files = []
    for picture in pictures:
        memory = io.BytesIO()
        Image.fromarray(picture).save(memory, **ENCODED[kind])
        files.append(memory.getvalue())
    return files


def decode(file: bytes) -> torch.Tensor:
    """(3, H, W) float32 in [-1, 1]."""
    return to_float(torch.from_numpy(np.array(Image.open(io.BytesIO(file)))).permute(2, 0, 1))


def decode_all(files: list[bytes]) -> None:
    """Decode one after the other."""
    consume(map(decode, files))


def decode_with_threads(files: list[bytes], threads: int) -> None:
    """Decode all; Pillow lets go of the interpreter's lock while it decodes."""
    with ThreadPoolExecutor(threads) as pool:
        consume(pool.map(decode, files))


# Measuring


def seconds(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def size_on_disk(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def written_again(write: Callable[[Path], None], folder: Path) -> None:
    """Write into a folder in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    write(folder)


def consume(stream: Iterator[object]) -> None:
    """Read to the end."""
    for _ in stream:
        pass


def peak_memory(way: str, folder: Path, arguments: argparse.Namespace) -> float:
    """Peak memory in MB, beyond that of the imports, of a process of its own that reads all pictures once."""
    words = ["--size", arguments.size, "--count", arguments.count, "--batch", arguments.batch]
    command = [
        sys.executable,
        "-m",
        "benchmarks.loading",
        *map(str, words),
        "--memory-of",
        way,
        "--folder",
        str(folder),
    ]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(finished.stdout)["megabytes"])


def report_memory(arguments: argparse.Namespace) -> None:
    """Run as `peak_memory`'s process: anonymous memory counts, not pages of mapped files, which the system can drop."""
    import datasets  # noqa: F401 - loaded for both ways, so that it counts for neither

    before = anonymous_memory()
    peak = before
    if arguments.memory_of == "float32":
        for _ in read_float32(arguments.folder):
            peak = max(peak, anonymous_memory())
    else:
        pictures = open_shards(arguments.folder, arguments.count, arguments.size)
        with loader(pictures, arguments.size, arguments.batch, "direct") as stream:
            for _ in range(arguments.count // arguments.batch):
                next(stream)
                peak = max(peak, anonymous_memory())
    print(json.dumps({"megabytes": (peak - before) / 1e6}))


def anonymous_memory() -> int:
    """Bytes of this process's memory that no file stands behind; where the system does not tell, its peak of all."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("RssAnon"))


def equal_pixels(pictures: PictureSet, floats: Path) -> bool:
    """Return True if both ways give the same float32 bits for every picture."""
    ours = (to_float(pictures.pixels([i]))[0] for i in range(len(pictures)))
    return all(torch.equal(one, other) for one, other in zip(ours, read_float32(floats), strict=True))


def ways_to_read(
    arguments: argparse.Namespace, floats: Path, pictures: PictureSet, files: dict[str, list[bytes]], stack: ExitStack
) -> dict[str, tuple[int, Callable[[], object]]]:
    """By name: how many pictures are read, and what reads them."""
    count, few = arguments.count, arguments.few
    reads: dict[str, tuple[int, Callable[[], object]]] = {ORIGINAL: (count, lambda: consume(read_float32(floats)))}
    streams: list[tuple[str, Way, bool]] = [
        (OURS, "direct", False),
        ("shards, direct, mirrored by chance", "direct", True),
        ("shards, read ahead by a thread", "streamed", False),
        ("kept in memory", "resident", False),
    ]
    for name, way, flip in streams:
        stream = stack.enter_context(loader(pictures, arguments.size, arguments.batch, way, flip=flip))
        reads[name] = (count, partial(read_batches, stream, count, arguments.batch))
    for kind, encoded in files.items():
        reads[kind] = (few, partial(decode_all, encoded))
        reads[f"{kind}, {arguments.workers} threads"] = (few, partial(decode_with_threads, encoded, arguments.workers))
    return reads


def in_turn(reads: dict[str, tuple[int, Callable[[], object]]], rounds: int) -> dict[str, list[float]]:
    """Seconds a picture of each way, in rounds of all ways, after one round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in reads}
    for round_number in range(rounds + 1):
        for name, (count, read) in reads.items():
            elapsed = seconds(read) / count
            times[name] += [elapsed] if round_number else []
    return times


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Write, read, and print the table."""
    drawn = draw(arguments.count, arguments.size)
    few = drawn[: arguments.few]
    files = {kind: encode(few, kind) for kind in ENCODED}
    floats, shards = folder / "float32", folder / "shards"
    writes: dict[str, tuple[int, Callable[[], object]]] = {
        ORIGINAL: (arguments.count, partial(written_again, partial(write_float32, drawn), floats)),
        OURS: (arguments.count, partial(written_again, partial(write_shards, drawn), shards)),
        **{kind: (arguments.few, partial(encode, few, kind)) for kind in ENCODED},
    }
    write_times = in_turn(writes, arguments.write_rounds)
    pictures = open_shards(shards, arguments.count, arguments.size)
    with ExitStack() as stack:
        read_times = in_turn(ways_to_read(arguments, floats, pictures, files, stack), arguments.rounds)
    bytes_each = {
        ORIGINAL: size_on_disk(floats) / arguments.count,
        OURS: size_on_disk(shards) / arguments.count,
        **{kind: statistics.mean(map(len, encoded)) for kind, encoded in files.items()},
    }
    memory = {ORIGINAL: peak_memory("float32", floats, arguments), OURS: peak_memory("shards", shards, arguments)}
    print_table(arguments, read_times, write_times, bytes_each, memory)
    print(f"\nfloat32 pixels of both ways equal bit for bit: {equal_pixels(pictures, floats)}")


def print_table(
    arguments: argparse.Namespace,
    read_times: dict[str, list[float]],
    write_times: dict[str, list[float]],
    bytes_each: dict[str, float],
    memory: dict[str, float],
) -> None:
    """Print one row for each way."""
    print(
        f"{arguments.count} pictures of {arguments.size} px, batches of {arguments.batch}, {arguments.rounds} rounds\n"
    )
    print(f"{'way':36}{'read/s':>9}{'(min - max)':>16}{'times':>7}{'written/s':>11}{'kB each':>10}{'peak MB':>9}")
    reference = statistics.median(read_times[ORIGINAL])
    for name, times in read_times.items():
        median = statistics.median(times)
        spread = f"({1 / max(times):.0f} - {1 / min(times):.0f})"
        written = f"{1 / statistics.median(write_times[name]):.0f}" if name in write_times else ""
        stored = f"{bytes_each[name] / 1000:.0f}" if name in bytes_each else ""
        peak = f"{memory[name]:.0f}" if name in memory else ""
        print(f"{name:36}{1 / median:9.0f}{spread:>16}{reference / median:7.1f}{written:>11}{stored:>10}{peak:>9}")


def main() -> None:
    """Measure in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels along a side")
    parser.add_argument("--count", type=int, default=200, help="how many pictures")
    parser.add_argument("--batch", type=int, default=4, help="pictures in a batch")
    parser.add_argument("--few", type=int, default=20, help="how many of them are encoded losslessly, which is slow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write-rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="threads that decode")
    parser.add_argument("--memory-of", choices=("float32", "shards"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        report_memory(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


if __name__ == "__main__":
    main()
