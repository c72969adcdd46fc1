"""Update weights by Muon in few launches: all weight matrices of one shape are orthogonalised in one batched product.

Sources: Jordan et al. 2024 (github.com/KellerJordan/Muon) for Muon, whose scaling of the rate and Nesterov momentum
this has; Dozat 2016 (openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ) for the Nesterov momentum of the other weights.
Mathematics and saved state are those of timm's `Muon` with `nesterov=True` and `adjust_lr_fn="original"`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Of the five Newton-Schulz iterations, by Cesista et al. 2025 (leloykun.github.io/ponder/muon-opt-coeffs)."""
PRECISION = torch.bfloat16
"""The type of the iteration's products."""
SMALLEST_SIDE = 4
LARGEST_RATIO = 128
"""A matrix with a shorter side, or with sides of a larger ratio, is updated by NAdamW."""


class Muon(Optimizer):
    """Orthogonalises the momentum of weight matrices, and updates all other weights by AdamW with Nesterov momentum.

    A convolution (O, I, k, k) counts as a matrix (O, I * k * k). Every weight needs a gradient at every step.

    If its attribute `found_inf`, a float32 scalar on the device, is 1, a step leaves weights and state as they are. The
    host does not read it. `torch.amp.GradScaler` sets it in the same way.

    Args:
        groups: mappings of `params` and `lr`; with `use_fallback`, all weights of the group are updated by NAdamW.
        momentum: of the matrices.
        betas: NAdamW's decay rates of the two moments.
        eps: the least norm of a matrix before it is orthogonalised, and NAdamW's term that prevents division by zero.
        weight_decay: decoupled weight decay of all weights.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        own = {"momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay, "use_fallback": False}
        super().__init__(groups, own)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is taken
        """Take one step with the gradients of all weights; a closure is not supported."""
        assert closure is None, "gradients are computed before the step"
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            batches: dict[torch.Size, list[Tensor]] = defaultdict(list)
            others: list[Tensor] = []
            for parameter in group["params"]:
                if group.get("use_fallback") or not is_orthogonalised(parameter.shape):
                    others.append(parameter)
                else:
                    batches[as_matrix(parameter, parameter).shape].append(parameter)
            if batches:
                self._accumulate([parameter for batch in batches.values() for parameter in batch], group, found_inf)
            for batch in batches.values():
                self._orthogonalise(batch, group, found_inf)
            if others:
                self._adapt(others, group, found_inf)

    def _accumulate(self, parameters: list[Tensor], group: dict[str, Any], found_inf: Tensor | None) -> None:
        """Move the momentum of all matrices towards their gradients."""
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = self._state_of(parameters, "momentum_buffer")
        move_towards(momenta, gradients(parameters), 1.0 - group["momentum"], found_inf)

    def _orthogonalise(self, parameters: list[Tensor], group: dict[str, Any], found_inf: Tensor | None) -> None:
        """Update the matrices of one shape by their orthogonalised momentum."""
        momenta = self._state_of(parameters, "momentum_buffer")
        ahead = torch._foreach_lerp(gradients(parameters), momenta, group["momentum"])
        updates = torch.stack(
            [as_matrix(update, of) for update, of in zip(ahead, parameters, strict=True)]
        )  # (N, M, K)
        updates.copy_(orthogonalise(updates, group["eps"]))
        scale = max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
        weights = [as_matrix(parameter, parameter) for parameter in parameters]
        descend(weights, list(updates.unbind()), group["lr"], scale, group["weight_decay"], found_inf)

    def _adapt(self, parameters: list[Tensor], group: dict[str, Any], found_inf: Tensor | None) -> None:
        """Update weights by NAdamW: AdamW whose first moment is one step ahead."""
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter] |= {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        steps, means, squares = (self._state_of(parameters, name) for name in ("step", "exp_avg", "exp_avg_sq"))
        slopes, (beta1, beta2) = gradients(parameters), group["betas"]
        torch._foreach_add_(steps, 1.0)
        if found_inf is not None:
            torch._foreach_add_(steps, found_inf, alpha=-1.0)  # `_foreach_sub_` would read the flag
        move_towards(means, slopes, 1.0 - beta1, found_inf)
        move_towards(squares, torch._foreach_mul(slopes, slopes), 1.0 - beta2, found_inf)
        # 1 - beta ** step, without the rounding of a difference; all weights have taken equally many steps
        logarithms = (math.log(beta) if beta else -math.inf for beta in (beta1, beta2))
        of_means, of_squares = (-torch.expm1(steps[0] * logarithm) for logarithm in logarithms)
        updates = torch._foreach_lerp(means, slopes, 1.0 - beta1)
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_div_(divisors, of_squares.sqrt())
        torch._foreach_add_(divisors, group["eps"])
        torch._foreach_div_(updates, divisors)
        torch._foreach_div_(updates, of_means)
        descend(parameters, list(updates), group["lr"], 1.0, group["weight_decay"], found_inf)

    def _state_of(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        return [self.state[parameter][name] for parameter in parameters]


def gradients(parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients of the parameters, which all have one."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(found) == len(parameters), "every weight needs a gradient at every step"
    return found


def is_orthogonalised(shape: torch.Size) -> bool:
    """Return True if Muon orthogonalises weights of this shape, and False if they count as vectors, as in timm."""
    if len(shape) < 2 or shape[0] == 1 or shape[1] == 1:
        return False
    rows, columns = shape[0], math.prod(shape[1:])
    return min(rows, columns) >= SMALLEST_SIDE and max(rows, columns) <= LARGEST_RATIO * min(rows, columns)


def as_matrix(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor of the parameter's shape as a matrix (O, I * k * k); the parameter itself without a copy.

    The columns are in the order of the parameter's memory, on which orthogonalisation does not depend.
    """
    if parameter.ndim == 4 and not parameter.is_contiguous():
        assert parameter.is_contiguous(memory_format=torch.channels_last), "a weight is stored in another layout"
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)


def orthogonalise(matrices: Tensor, eps: float) -> Tensor:
    """Return matrices with the singular vectors of these and singular values near 1: (N, M, K), of type `PRECISION`.

    Each is divided by its Frobenius norm, or by `eps` if that is larger. The result is not the nearest orthogonal
    matrix: its singular values are between about 0.7 and 1.2, which is as good for training.
    """
    x = matrices.to(PRECISION)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = (x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=eps)).contiguous()
    for a, b, c in COEFFICIENTS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def move_towards(
    tensors: list[Tensor], targets: list[Tensor] | tuple[Tensor, ...], share: float, found_inf: Tensor | None
) -> None:
    """Move each tensor by a share in [0, 1] of its way to its target, in one launch; not if `found_inf` is 1.

    It is a step of SGD on half the squared distance, whose gradient is tensor - target: torch has a fused one, whose
    weight decay of 1 adds the tensor and whose `maximize` subtracts the target. Both lists need the same layouts.
    """
    torch._fused_sgd_(
        tensors,
        targets,
        [],
        weight_decay=1.0,
        momentum=0.0,
        lr=share,
        dampening=0.0,
        nesterov=False,
        maximize=True,
        is_first_step=False,
        found_inf=found_inf,
    )


def descend(
    weights: list[Tensor], updates: list[Tensor], lr: float, scale: float, weight_decay: float, found_inf: Tensor | None
) -> None:
    """Subtract lr * (scale * update + weight_decay * weight) from each weight at once; not if `found_inf` is 1."""
    torch._fused_sgd_(
        weights,
        updates,
        [],
        weight_decay=weight_decay / scale,
        momentum=0.0,
        lr=lr * scale,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=found_inf,
    )
