"""What a training step of the tutorial's model needs in memory, by estimate; nothing is computed.

    python -m benchmarks.memory

One row for each combination of size, precision, what is trained and what is kept: GiB alive after the forward pass
beside weights and AdamW's moments, and the most that is alive at once, as `pikavae.training.memory.estimate` counts it
under CUDA's rules of autocast.
"""

from __future__ import annotations

import argparse
from itertools import product

from pikavae.presets import load_config
from pikavae.training.memory import GIB, Memory, estimate


def rows(preset: str, batch_size: int, sizes: list[int]) -> list[tuple[str, Memory]]:
    """Return each combination's name and its memory."""
    found = []
    for size, precision, trainable, activations in product(
        sizes, ("float32", "bf16"), ("all", "decoder"), ("keep", "recompute", "checkpoint")
    ):
        fields = {
            "data.image_size": size,
            "training.batch_size": batch_size,
            "training.precision": precision,
            "training.trainable": trainable,
            "training.activations": activations,
            "training.device": "cuda",
        }
        name = f"{size} | {precision} | {trainable} | {activations}"
        found.append((name, estimate(load_config(preset, fields))))
    return found


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tutorial")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels along a side")
    arguments = parser.parse_args()
    print(f"{arguments.preset}, batch {arguments.batch_size}, GiB\n")
    print("| size | precision | trained | training.activations | after the forward pass | at most |")
    print("| ---: | --- | --- | --- | ---: | ---: |")
    for name, counted in rows(arguments.preset, arguments.batch_size, arguments.sizes):
        print(f"| {name} | {counted.activations / GIB:.2f} | {counted.total / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()
