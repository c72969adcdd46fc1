"""The commands that make pictures with a model."""

from __future__ import annotations

from pathlib import Path

from flows.options import InterpolateOptions, ReconstructOptions, SampleOptions
from flows.words import Result, model_options
from pikavae.errors import UserError

ABOUT_NOISE = (
    "Decoded noise, which is no picture of the data: neighbours in a picture's latent belong together, here they do "
    "not. It takes a diffusion model that was trained on the latents to make pictures."
)
ABOUT_DRAWS = "Drawn from the posteriors, as training sees the pictures; `reconstruct` decodes their modes."


def reconstruct(words: list[str]) -> Result:
    """Encode and decode picture files of any size."""
    model, images, options = model_options("reconstruct", words, ReconstructOptions)
    if not images:
        raise UserError("reconstruct: name at least one picture file after the model")
    from pikavae import operations

    return _told(operations.reconstruct(model, [Path(image) for image in images], Path(options.out), options.config))


def interpolate(words: list[str]) -> Result:
    """Decode what lies between two picture files in the latent."""
    model, images, options = model_options("interpolate", words, InterpolateOptions)
    if len(images) != 2:
        raise UserError(f"interpolate: name two picture files of one size after the model; {len(images)} were given")
    from pikavae import operations

    first, second = map(Path, images)
    return _told(operations.interpolate(model, first, second, Path(options.out), options.config, frames=options.frames))


def sample(words: list[str]) -> Result:
    """Decode noise, to look at, or draws from the posteriors of picture files."""
    model, images, options = model_options("sample", words, SampleOptions)
    from pikavae import operations

    files = operations.sample(
        model,
        [Path(image) for image in images],
        Path(options.out),
        options.config,
        count=options.count,
        seed=options.seed,
    )
    return _told(files, ABOUT_DRAWS if images else ABOUT_NOISE)


def _told(files: list[Path], *remarks: str) -> Result:
    """The files that were written, and what is to be said of them."""
    return {"files": [str(file) for file in files]}, "\n".join([*map(str, files), *remarks])
