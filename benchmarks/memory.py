"""What a training step of the tutorial's model needs in memory, by estimate; nothing is computed.

    python -m benchmarks.memory
    python -m benchmarks.memory --preset finetune --like flux1 --batch-size 8 --sizes 256

One row for each combination of size, precision, what is trained and what is kept: GiB alive after the forward pass
beside weights and AdamW's moments, and the most that is alive at once, as `pikavae.training.memory.estimate` counts it
under CUDA's rules of autocast.
"""

from __future__ import annotations

import argparse
from itertools import product

from pikavae.presets import load_config
from pikavae.training.memory import GIB, Memory, estimate


def rows(preset: str, batch_size: int, sizes: list[int], like: str | None = None) -> list[tuple[str, Memory]]:
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
            **({} if like is None else {"model.like": like}),
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
    parser.add_argument("--like", help="the family whose sizes the model has, as model.like names it")
    arguments = parser.parse_args()
    like = "" if arguments.like is None else f", like {arguments.like}"
    print(f"{arguments.preset}{like}, batch {arguments.batch_size}, GiB\n")
    print("| size | precision | trained | training.activations | after the forward pass | at most |")
    print("| ---: | --- | --- | --- | ---: | ---: |")
    for name, counted in rows(arguments.preset, arguments.batch_size, arguments.sizes, arguments.like):
        print(f"| {name} | {counted.activations / GIB:.2f} | {counted.total / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()
