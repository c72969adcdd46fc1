"""What a training step of the tutorial's model keeps in memory, by estimate; nothing is computed.

    python -m benchmarks.memory

One row for each combination of size, precision, what is trained and checkpointing: GiB kept at the end of the forward
pass beside weights, gradients and AdamW's moments, which is what `pikavae.training.memory.estimate` counts under CUDA's
rules of autocast. The last column is the same model without any recomputation, which is what its forward pass would
keep as written.
"""

from __future__ import annotations

import argparse
from itertools import product
from unittest import mock

from pikavae.model import autoencoder
from pikavae.presets import load_config
from pikavae.training.memory import GIB, Memory, estimate


def rows(preset: str, batch_size: int, sizes: list[int]) -> list[tuple[str, Memory, Memory]]:
    """Each combination's name, its memory, and its memory without recomputation."""
    found = []
    for size, precision, trainable, checkpointing in product(
        sizes, ("float32", "bf16"), ("all", "decoder"), (False, True)
    ):
        fields = {
            "data.image_size": size,
            "training.batch_size": batch_size,
            "training.precision": precision,
            "training.trainable": trainable,
            "training.device": "cuda",
        }
        counted = estimate(load_config(preset, {**fields, "training.gradient_checkpointing": checkpointing}))
        with mock.patch.object(autoencoder, "RECOMPUTE_ABOVE", float("inf")):
            plain = estimate(load_config(preset, {**fields, "training.gradient_checkpointing": False}))
        name = f"{size} | {precision} | {trainable} | {'yes' if checkpointing else 'no'}"
        found.append((name, counted, plain))
    return found


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tutorial")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels along a side")
    arguments = parser.parse_args()
    print(f"{arguments.preset}, batch {arguments.batch_size}, GiB\n")
    print("| size | precision | trained | checkpointing | activations | total | total without recomputation |")
    print("| ---: | --- | --- | --- | ---: | ---: | ---: |")
    for name, counted, plain in rows(arguments.preset, arguments.batch_size, arguments.sizes):
        print(
            f"| {name} | {counted.activations / GIB:.2f} | {counted.total / GIB:.2f} | {plain.total / GIB:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
