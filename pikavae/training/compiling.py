"""Compile the residual blocks of a model, one for all of its kind, if the rest of the run pays for it.

Blocks of equal sizes share one compiled function, because torch treats their weights as inputs of the same code. The
full Stable Diffusion v1 model has 34 blocks of 8 kinds. They stay modules of the model: DDP sees their weights, and a
checkpoint computes them again like any other layer. Outside of training a block runs as it is written.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.model.autoencoder import AutoencoderKL, ResnetBlock2D
from pikavae.model.tiny import TinyBlock

logger = logging.getLogger(__name__)

COMPILE_SECONDS = 30.0
"""What compiling takes at most: blocks of the full model took 20 s on an H200 with 16 cores."""
SHARE_SAVED = 0.05
"""The share of a step's time that compiling saves on CUDA: 117 ms became 111 on an H200, at 256 px and batch 16."""
SETTLED, TIMED = 10, 10
"""Steps before an uncompiled step is timed, and steps over which it is."""
MOST_KINDS = 64
"""Kinds of blocks, by sizes, precision and what needs gradients, before torch stops compiling more of them."""


class Compiler:
    """Compiles a model at once, never, or after the first steps if the rest of the run pays for it.

    Args:
        model: the model that trains.
        config: the whole configuration; `training.compile` decides.
        device: where it trains.
        announces: True in the process that writes the log.
    """

    def __init__(self, model: AutoencoderKL, config: Config, device: torch.device, *, announces: bool = True) -> None:
        self._model, self._device, self._announces = model, device, announces
        self._minutes = config.training.minutes
        self._varies = config.data.crop == "buckets" or config.loss.equivariance > 0
        # Sizes that vary would be compiled one by one, or once for all in a slower way
        self._undecided = config.training.compile == "auto" and device.type == "cuda" and not self._varies
        self._steps, self._since = 0, 0.0
        if config.training.compile is True:
            self._compile("training.compile true")

    def after_step(self, steps_left: int, seconds: float) -> None:
        """Time the first steps, then decide.

        Args:
            steps_left: optimizer steps to the end of the run.
            seconds: how long the run has trained.
        """
        if not self._undecided:
            return
        self._steps += 1
        if self._steps not in (SETTLED, SETTLED + TIMED):
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._steps == SETTLED:
            self._since = now
            return
        self._undecided = False
        left = steps_left * (now - self._since) / TIMED
        if self._minutes is not None:
            left = min(left, 60.0 * self._minutes - seconds)
        if pays(left):
            self._compile(f"training.compile auto: about {left / 60:.0f} minutes are left")

    def _compile(self, why: str) -> None:
        if failure := compiler_failure(self._device):
            logger.warning("%s, but torch.compile does not work here (%s); training runs uncompiled", why, failure)
            return
        if self._announces:
            logger.info("%s: the residual blocks are compiled at the next step", why)
        compile_blocks(self._model, varies=self._varies)


def pays(seconds_left: float) -> bool:
    """Return True if compiling saves more of a run's remaining time than it takes."""
    return seconds_left * SHARE_SAVED > COMPILE_SECONDS


def compile_blocks(model: AutoencoderKL, *, varies: bool, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the residual blocks of a model for training, at their first call.

    Args:
        model: its blocks get another `forward`.
        varies: make code for maps of any height and width; otherwise each size gets its own.
        backend: of torch.compile.
    """
    from torch._dynamo import config as dynamo  # takes seconds, which only compiling is worth

    # Dynamo looks at it for each map that enters a block
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_KINDS)
    kind = TinyBlock if model.config.kind == "tiny" else ResnetBlock2D
    compiled = torch.compile(kind.forward, dynamic=varies, backend=backend)
    for block in model.modules():
        if isinstance(block, kind):
            block.forward = partial(_run, compiled, block)  # type: ignore[method-assign]  # for this block alone


def _run(compiled: Callable[..., Tensor], block: Any, x: Tensor) -> Tensor:
    """Run a block: the compiled function in training, the written one for validation and previews."""
    in_training = block.training and torch.is_grad_enabled()
    out: Tensor = (compiled if in_training else type(block).forward)(block, x)
    return out


def compiler_failure(device: torch.device) -> str | None:
    """Return the first line of why torch.compile fails for a device; None if it compiles and runs a small function."""
    try:
        torch.compile(_probe)(torch.ones(2, device=device))
    except Exception as error:  # noqa: BLE001 - whatever a compiler, a missing header or a driver raises
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


def _probe(x: Tensor) -> Tensor:
    return x * 2 + 1
