"""Writes the dataset card of a set of latents."""

from __future__ import annotations

from pikavae.latents.record import LatentRecord
from pikavae.model.sizes import FACTORS, in_digits

ORIGIN = (
    "model",
    "snapshot",
    "prepared_set",
    "image_size",
    "downsampling_factor",
    "precision",
    "computed_on",
    "torch",
    "pikavae",
)

BY_CHANNEL = "`(latent - latents_mean) * scaling_factor / latents_std` by channel"
PACKED = (
    "`latent` is the posterior's mean, not sampled: each 2x2 cell of a channel is four channels, which are normalised "
    "by the model's statistics. `torch.nn.functional.pixel_shuffle(latent * (vae.bn.running_var + 1e-4).sqrt()"
    "[:, None, None] + vae.bn.running_mean[:, None, None], 2)` is what the decoder takes. "
)


def card(record: LatentRecord) -> str:
    """Write the card: Markdown with a header that names the files of each split for `datasets.load_dataset`.

    Args:
        record: the content of `latents.json`.
    """
    splits = [f"  - split: {side}\n    path: {side}-*.parquet" for side in record.num_images]
    published = [
        f"{name.replace('_', ' ')} {in_digits(value, 8)}"
        for name in FACTORS
        if (value := getattr(record, f"published_{name}")) is not None
    ]
    counts = ", ".join(f"{count} {side}" for side, count in record.num_images.items())
    channels = enumerate(zip(record.channel_means, record.channel_stds, strict=True))
    return "\n".join(
        [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files:",
            *splits,
            "---",
            "",
            "# Latents",
            "",
            f"Pictures ({counts}) encoded by a variational autoencoder, with their captions and token ids.",
            "",
            "```python",
            "rows = datasets.load_dataset(FOLDER, split='train').with_format('torch')",
            f"rows[0]['latent']  # {tuple(record.latent_shape)} float32",
            "```",
            "",
            (PACKED if record.normalised else "`latent` is the posterior's mean, not sampled and not scaled. ")
            + ("With `logvar`, `latent + exp(logvar / 2) * noise` is a sample. " if record.logvar else "")
            + f"`scaling_factor` is {record.scaling_factor:.8g}, 1 / std over the train split, and `shift` is "
            f"{record.shift:.8g}, the mean. "
            + (
                "Train on `latent` itself, as FLUX.2 does. "
                if record.normalised
                else "Train on `latent * scaling_factor`, as Stable Diffusion does, or on "
                "`(latent - shift) * scaling_factor`; undo it before decoding. "
            )
            + "`latents.json` has all digits, and the hash of every file."
            + (
                f" The encoder computed in {record.precision}: {record.distance.describe(record.std)}."
                if record.distance
                else ""
            )
            + (f" Diffusion models for the published weights use {', '.join(published)}" if published else "")
            + (f", as {BY_CHANNEL}." if record.published_latents_std else "." if published else ""),
            "",
            "| channel | mean | std |",
            "| --- | --- | --- |",
            *(f"| {number} | {mean:.6g} | {std:.6g} |" for number, (mean, std) in channels),
            "",
            "| made from | |",
            "| --- | --- |",
            *(f"| {name} | `{getattr(record, name)}` |" for name in ORIGIN),
            "",
            "The licence of the pictures also applies to their latents.",
            "",
        ]
    )
