"""Measure what models cost on this device: bytes of a latent, time and memory; models take turns, so it is fair."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from pikavae.config import content_hash
from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import DamagedFileError
from pikavae.evaluation.compare.costs import Costs, ModelCost, latent_bytes
from pikavae.evaluation.compare.families import family_of
from pikavae.evaluation.measure.measurement import images_of
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32, prepare_for_use
from pikavae.model.sizes import CONFIG_NAME, scaling_in
from pikavae.operations.resolving.resolve import ResolvedModel
from pikavae.training.peak import LiveBytes
from pikavae.weights.published import read_snapshot
from pikavae.workspace.files import write_atomically
from pikavae.workspace.records import read_object

logger = logging.getLogger(__name__)

ROUNDS = range(3, 26)
"""The least and the most rounds; between them, `SECONDS` decide."""
SECONDS = 20.0
MEMORY_BY = {
    "cuda": "torch.cuda.max_memory_allocated: all weights of the model, and what lives while it computes",
    "cpu": "counted: all weights of the model, and the tensors that live at once while it computes, without the "
    "scratch memory of libraries",
}


def find_or_measure_costs(
    models: Sequence[ResolvedModel], picture_set: PictureSet, device: torch.device, folder: Path
) -> Costs:
    """Return the costs of models on the first picture of a set, measured now or in an earlier command.

    They are kept in `folder` as `costs-KEY.json`, where KEY is a hash of the models, the picture's shape, the device
    and torch's version: the same command shows the same numbers until that file is deleted.

    Args:
        models: in the order of the table.
        picture_set: the evaluation set.
        device: where to compute.
        folder: of the report of the first model.
    """
    image = images_of(picture_set, [0])
    digests = [model.digest for model in models]
    key = content_hash([digests, list(image.shape), device_name(device), torch.__version__])
    file = folder / f"costs-{key}.json"
    try:
        return Costs.read(file)
    except (FileNotFoundError, DamagedFileError):
        logger.info("measuring time and memory of %d models on %s", len(models), device_name(device))
        costs = measure_costs([model.folder for model in models], digests, image, device)
        write_atomically(file, costs.to_json())
        return costs


def measure_costs(folders: Sequence[Path], digests: Sequence[str], image: Tensor, device: torch.device) -> Costs:
    """Measure the models of some snapshot folders.

    All models are on the device at once. In each round every model encodes and decodes the picture once, and every
    other round goes through them backwards, so that no model has the warmer or the busier machine.

    Args:
        folders: the snapshots.
        digests: the hash of each.
        image: (1, C, H, W) in [-1, 1].
        device: where to compute.
    """
    _, channels, height, width = image.shape
    models = [prepare_for_use(read_snapshot(folder), device) for folder in folders]
    image = image.to(device)
    with torch.inference_mode(), exact_float32():
        # The first time, which is not timed: libraries choose their kernels then.
        encoded = [_with_peak(model, device, partial(_encode, model, image)) for model in models]
        latents = [latent for latent, _ in encoded]
        decoded = [
            _with_peak(model, device, partial(model.decode, latent))
            for model, latent in zip(models, latents, strict=True)
        ]
        encode_ms, decode_ms = _times(models, image, latents, device)
    found = []
    for number, (folder, digest, model) in enumerate(zip(folders, digests, models, strict=True)):
        config, size = model.config, latent_bytes(model.config, height, width)
        decoding = _count(model.decoder) + _count(model.post_quant_conv)
        parameters = _count(model)
        found.append(
            ModelCost(
                digest=digest,
                family=family_of(config, scaling_in(read_object(folder / CONFIG_NAME))),
                downsampling_factor=config.downsampling_factor,
                latent_channels=config.latent_channels,
                latent_bytes=size,
                compression=channels * height * width / size,
                parameters=parameters,
                encoder_parameters=parameters - decoding,
                decoder_parameters=decoding,
                encode_ms=median(encode_ms[number]),
                encode_ms_range=[min(encode_ms[number]), max(encode_ms[number])],
                decode_ms=median(decode_ms[number]),
                decode_ms_range=[min(decode_ms[number]), max(decode_ms[number])],
                encode_bytes=encoded[number][1],
                decode_bytes=decoded[number][1],
            )
        )
    return Costs(
        measured=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        device=device_name(device),
        precision="float32",
        shape=[channels, height, width],
        rounds=len(encode_ms[0]),
        memory_by=MEMORY_BY["cuda" if device.type == "cuda" else "cpu"],
        models=found,
    )


def device_name(device: torch.device) -> str:
    """Name a device, and for a CPU the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"the CPU with {threads} {'thread' if threads == 1 else 'threads'}"


def _times(
    models: Sequence[AutoencoderKL], image: Tensor, latents: Sequence[Tensor], device: torch.device
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the milliseconds of each model and round: to encode the picture, and to decode its latent."""
    encode_ms: list[list[float]] = [[] for _ in models]
    decode_ms: list[list[float]] = [[] for _ in models]
    began = time.perf_counter()
    numbers = list(range(len(models)))
    for done in range(ROUNDS.stop - 1):
        if done >= ROUNDS.start and time.perf_counter() - began > SECONDS:
            break
        for number in numbers if done % 2 == 0 else reversed(numbers):
            model, latent = models[number], latents[number]
            encode_ms[number].append(_milliseconds(device, partial(_encode, model, image)))
            decode_ms[number].append(_milliseconds(device, partial(model.decode, latent)))
    return encode_ms, decode_ms


def _milliseconds(device: torch.device, work: Callable[[], Tensor]) -> float:
    """Return how long some work takes, with all that it started on a GPU."""
    _synchronize(device)
    began = time.perf_counter()
    work()
    _synchronize(device)
    return 1000.0 * (time.perf_counter() - began)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _encode(model: AutoencoderKL, image: Tensor) -> Tensor:
    return model.encode(image).mode()


def _with_peak(model: AutoencoderKL, device: torch.device, work: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Return what some work gives, and the most bytes that the model's weights and its tensors take at once."""
    tensors = (*model.parameters(), *model.buffers())
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        made = work()
        torch.cuda.synchronize(device)
        weights = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        return made, weights + torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        for tensor in tensors:
            tensor.detach()  # counts the weights, so that a view of them does not count as new memory
        made = work()
    return made, live.peak


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
