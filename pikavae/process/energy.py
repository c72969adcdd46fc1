"""Read the counters of energy of NVIDIA's cards.

The counter is the card's own, in millijoules since the driver was loaded (`nvmlDeviceGetTotalEnergyConsumption`, NVML's
reference). It counts all that runs on the card. Cards before Volta and parts of a card (MIG) have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def cards_of(device: str, count: int) -> tuple[str, ...]:
    """Return NVML's names of the cards that processes on a device hold, one each; none if it is no GPU of NVIDIA's.

    Args:
        device: `cpu`, `cuda` or `mps`.
        count: the number of processes.
    """
    if device != "cuda":
        return ()
    held = range(min(count, torch.cuda.device_count()))
    names = [str(torch.cuda.get_device_properties(number).uuid) for number in held]
    return tuple(name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}" for name in names)


def read_joules(cards: Sequence[str]) -> float | None:
    """Return the sum of the cards' counters, in joules; None if one has none or `nvidia-ml-py` is not installed."""
    if not cards:
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByUUID(card) for card in cards]
            return sum(float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles) / 1000.0
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
