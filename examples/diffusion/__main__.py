"""Run `python -m examples.diffusion`: train, draw, measure."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples import diffusion
from examples.diffusion import measuring
from examples.diffusion.latents import LatentSet
from examples.diffusion.model import Drawer, draw, mean_loss
from examples.diffusion.training import Settings, identity_of, train
from pikavae.config import Config
from pikavae.errors import PikavaeError, UserError
from pikavae.evaluation.report.panels import panel
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.operations import Workspace, resolve
from pikavae.process.cpus import count_free
from pikavae.weights.published import read_snapshot
from pikavae.workspace.files import exclusive, write_atomically

HELD_OUT = 256
"""The largest number of held-out captions to draw pictures for when measuring."""
RESULT_NAME, SAMPLES_NAME, PROMPTS_NAME = "result.json", "samples.png", "prompts.png"


def autoencoder(name: str, data: LatentSet) -> AutoencoderKL:
    """Return the model of a name, as `pikavae encode` takes it, after checking that it made the latents.

    Raises:
        UserError: there is no such model, or the latents are of another one.
    """
    model = resolve(Workspace.open(), name, Config())
    if model.digest != data.record.model:
        raise UserError(
            f"--model {name}: not the model of these latents, which is {data.record.snapshot!r}; name that one, or "
            f"encode again"
        )
    return read_snapshot(model.folder)


@torch.inference_mode()
def measured(
    drawer: Drawer, data: LatentSet, model: AutoencoderKL, guidance: float, seed: int
) -> tuple[dict[str, Any], Tensor]:
    """Return what `measuring` says of latents drawn from held-out captions, and these latents."""
    held_out, known = data.validation.latents[:HELD_OUT], data.train.latents
    drawn = draw(drawer, data.validation.words[:HELD_OUT], tuple(known.shape[1:]), guidance=guidance, seed=seed)
    noise = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(seed))
    sets = {"held out": held_out, "training": known[: len(held_out)], "drawn": drawn, "noise": noise}
    features = {name: measuring.features(model, data.decode(model, latents)) for name, latents in sets.items()}
    numbers = {
        "loss": {
            name: mean_loss(drawer, split, HELD_OUT)
            for name, split in (("training", data.train), ("held out", data.validation))
        },
        "distance to held out": {
            name: measuring.distance(features["held out"], features[name]) for name in ("training", "drawn", "noise")
        },
        "nearer to its caption's": measuring.nearer_to_its_own(drawn, held_out),
        "to the nearest training latent": {
            name: measuring.to_nearest(latents, known) for name, latents in (("drawn", drawn), ("held out", held_out))
        },
    }
    return numbers, drawn


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.diffusion",
        description=diffusion.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("latents", type=Path, help="the folder that `pikavae encode` wrote")
    parser.add_argument(
        "--model", required=True, help="the model that made the latents: a version, champion, run:ID, a path"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for state and result")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=Settings.batch_size)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument(
        "--guidance", type=float, default=2.0, help="how far drawing follows the caption; 1 is as learned"
    )
    parser.add_argument("--threads", type=int, help="CPU threads; by default as many as other work leaves free")
    parser.add_argument("--prompt", nargs="+", default=[], help=f"captions to draw into {PROMPTS_NAME}")
    given = parser.parse_args(words)
    try:
        with exclusive(given.out / ".lock", busy=f"--out {given.out}: another process works there; wait for it"):
            run(given)
    except PikavaeError as error:
        print(f"examples.diffusion: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def run(given: argparse.Namespace) -> None:
    """Train, draw, measure, and write the result; or find it."""
    torch.set_num_threads(given.threads or count_free())
    settings = Settings(given.batch_size, given.learning_rate, given.seed)
    data = LatentSet(given.latents)
    model = autoencoder(given.model, data)
    drawer = train(data, settings, given.steps, given.out)
    made = {**identity_of(data, settings), "steps": given.steps, "guidance": given.guidance}
    path = given.out / RESULT_NAME
    if not path.is_file() or (result := json.loads(path.read_text()))["made"] != made:
        numbers, drawn = measured(drawer, data, model, given.guidance, given.seed)
        rows = [("held out", data.validation.latents[:8]), ("drawn", drawn[:8])]
        write_png(given.out / SAMPLES_NAME, [(name, data.decode(model, latents)) for name, latents in rows])
        result = {"made": made, "captions": data.validation.captions[:8], **numbers}
        write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if given.prompt:
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(given.latents / "tokenizer")
        ids = tokenizer(given.prompt, padding="max_length", truncation=True, max_length=77, return_tensors="np")[
            "input_ids"
        ]
        shape = tuple(data.train.latents.shape[1:])
        drawn = draw(drawer, data.words_of(ids), shape, guidance=given.guidance, seed=given.seed)
        write_png(given.out / PROMPTS_NAME, [("", data.decode(model, drawn))])


@torch.inference_mode()
def write_png(path: Path, rows: list[tuple[str, Tensor]]) -> None:
    """Write labelled rows of pictures as a PNG."""
    buffer = io.BytesIO()
    panel(rows).save(buffer, "PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
