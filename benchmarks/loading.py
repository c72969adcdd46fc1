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
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pikavae.config import parse_config
from pikavae.data.dataset import PictureSet, to_float
from pikavae.data.loader import Loader, Way
from pikavae.data.shards import INDEX_SCHEMA, ShardWriter
from pikavae.training.order import indices_at

ENCODED = {"PNG": {"format": "PNG"}, "WebP lossless": {"format": "WEBP", "lossless": True}}
PICTURES_PER_SHARD = 64


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
    """The pictures one by one, as `set_format("torch")` gives them."""
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
    """The shards as a set."""
    columns = {field.name: pa.nulls(count, field.type) for field in INDEX_SCHEMA}
    columns["shard"] = pa.array([i // PICTURES_PER_SHARD for i in range(count)], pa.int32())
    columns["row"] = pa.array([i % PICTURES_PER_SHARD for i in range(count)], pa.int32())
    columns["height"] = columns["width"] = pa.array([size] * count, pa.int32())
    return PictureSet(pa.table(columns, schema=INDEX_SCHEMA), sorted(folder.glob("*.arrow")), size, "center")


def loader(pictures: PictureSet, size: int, batch_size: int, way: Way, *, flip: bool = False) -> Loader:
    """The training loader, for the CPU."""
    config = parse_config({"data": {"image_size": size, "flip": flip}, "training": {"batch_size": batch_size}})
    order = partial(indices_at, count=batch_size, num_images=len(pictures), seed=0)
    return Loader(pictures, order, 0, config, torch.device("cpu"), way)


def read_batches(stream: Loader, count: int, batch_size: int) -> None:
    """One pass over all pictures."""
    for _ in range(count // batch_size):
        next(stream)


# Other ways


def encode(pictures: list[np.ndarray], kind: str) -> list[bytes]:
    """Each picture as a file of a lossless format."""
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
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def size_on_disk(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def written_again(write: Callable[[Path], None], folder: Path) -> float:
    """Seconds to write into a folder that is not there."""
    shutil.rmtree(folder, ignore_errors=True)
    return seconds(lambda: write(folder))


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
    """What `peak_memory` runs: anonymous memory is counted, not pages of mapped files, which the system can drop."""
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
    """Whether both ways give the same float32 bits for every picture."""
    ours = (to_float(pictures.pixels([i]))[0] for i in range(len(pictures)))
    return all(torch.equal(one, other) for one, other in zip(ours, read_float32(floats), strict=True))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Write, read, and print the table."""
    count, size, batch = arguments.count, arguments.size, arguments.batch
    drawn = draw(count, size)
    files = {kind: encode(drawn[: arguments.few], kind) for kind in ENCODED}
    floats, shards = folder / "float32", folder / "shards"
    write_float32(drawn, floats)
    write_shards(drawn, shards)
    pictures = open_shards(shards, count, size)
    reads: dict[str, tuple[int, Callable[[], object]]] = {
        "original: float32 by datasets": (count, lambda: consume(read_float32(floats)))
    }
    streams = []
    for name, way, flip in (
        ("shards, direct", "direct", False),
        ("shards, direct, flips", "direct", True),
        ("shards, streamed (a thread more)", "streamed", False),
        ("resident (in memory)", "resident", False),
    ):
        streams.append(loader(pictures, size, batch, way, flip=flip))
        reads[name] = (count, partial(read_batches, streams[-1], count, batch))
    for kind in ENCODED:
        reads[f"{kind}, decoded"] = (arguments.few, partial(decode_all, files[kind]))
        reads[f"{kind}, decoded by {arguments.workers} threads"] = (
            arguments.few,
            partial(decode_with_threads, files[kind], arguments.workers),
        )
    writes: dict[str, tuple[int, Callable[[], float]]] = {
        "original: float32 by datasets": (
            count,
            partial(written_again, partial(write_float32, drawn), folder / "again"),
        ),
        "shards, direct": (count, partial(written_again, partial(write_shards, drawn), folder / "again")),
    }
    for kind in ENCODED:
        few = drawn[: arguments.few]
        writes[f"{kind}, decoded"] = (arguments.few, partial(seconds, partial(encode, few, kind)))
    read_times: dict[str, list[float]] = {name: [] for name in reads}
    write_times: dict[str, list[float]] = {name: [] for name in writes}
    for round_number in range(arguments.rounds + 1):  # the first round warms up
        for name, (number, read) in reads.items():
            elapsed = seconds(read) / number
            read_times[name] += [elapsed] if round_number else []
        for name, (number, write) in writes.items():
            if round_number <= arguments.write_rounds:
                elapsed = write() / number
                write_times[name] += [elapsed] if round_number else []
    for stream in streams:
        stream.__exit__(None, None, None)
    bytes_each = {
        "original: float32 by datasets": size_on_disk(floats) / count,
        "shards, direct": size_on_disk(shards) / count,
        **{f"{kind}, decoded": statistics.mean(map(len, files[kind])) for kind in ENCODED},
    }
    memory = {
        "original: float32 by datasets": peak_memory("float32", floats, arguments),
        "shards, direct": peak_memory("shards", shards, arguments),
    }
    print_table(arguments, read_times, write_times, bytes_each, memory)
    print(f"\nfloat32 pixels of both ways equal bit for bit: {equal_pixels(pictures, floats)}")


def print_table(
    arguments: argparse.Namespace,
    read_times: dict[str, list[float]],
    write_times: dict[str, list[float]],
    bytes_each: dict[str, float],
    memory: dict[str, float],
) -> None:
    """One row for each way."""
    print(
        f"{arguments.count} pictures of {arguments.size} px, batches of {arguments.batch}, {arguments.rounds} rounds\n"
    )
    print(f"{'way':36}{'read/s':>9}{'(min - max)':>16}{'times':>7}{'written/s':>11}{'kB each':>10}{'peak MB':>9}")
    reference = statistics.median(read_times["original: float32 by datasets"])
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
