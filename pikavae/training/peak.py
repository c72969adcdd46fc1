"""Measure how many bytes are alive at most during a forward and a backward pass, by watching storages come and go.

It works on real tensors and on fake ones, which have shapes but no numbers. A fake backward pass on a device that is
not there needs `backpropagate`, because autograd's own engine asks the device for its streams.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import GraphExecGroup

BLOCK = 512
"""CUDA's allocator gives out memory in multiples of this many bytes."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """Counts the bytes of the storages that are made inside its `with` block, while they are alive.

    Attributes:
        now: the bytes that are alive.
        peak: the largest number of bytes that were alive, with the workspace of the operation that ran.

    Args:
        workspace: returns the bytes that an operation needs beside its inputs and outputs, from its name, its arguments
            and its result.
    """

    def __init__(self, workspace: Callable[[str, tuple[Any, ...], Any], int] = lambda *_: 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._workspace = workspace
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.now + self._workspace(str(func), args, out))
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._alive:
            self._alive[address] = -(-storage.nbytes() // BLOCK) * BLOCK
            self.now += self._alive[address]
            weakref.finalize(storage, self._forget, address)

    def _forget(self, address: int) -> None:
        self.now -= self._alive.pop(address)


class _Key:
    """Stands in a graph for a tensor that it saved; it goes with the node."""


class SavedTensors:
    """Holds what a graph saves for its backward pass while it is made, until the node that saved it has run.

    torch frees it with the node. But nodes cannot go one by one: torch 2.11 makes a function in Python unusable once
    the nodes that lead to it are gone.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakKeyDictionary[_Key, Tensor] = weakref.WeakKeyDictionary()
        self._read: list[_Key] = []

    def kept(self) -> saved_tensors_hooks:
        """Return the context in which the graph is made."""
        return saved_tensors_hooks(self._hold, self._give)

    def _hold(self, tensor: Tensor) -> _Key:
        key = _Key()
        self._held[key] = tensor
        return key

    def _give(self, key: _Key) -> Tensor:
        self._read.append(key)
        return self._held[key]

    def free_read(self) -> None:
        """Let go of what was read since the last call."""
        for key in self._read:
            self._held.pop(key, None)
        self._read.clear()


def backpropagate(root: Node, gradient: Tensor, saved: SavedTensors) -> None:
    """Run the backward pass from the node of a loss, in the order and with the lifetimes of autograd's engine.

    Gradients are added to `.grad` of the leaves.

    Args:
        root: the node.
        gradient: of its result.
        saved: holds what the graph saved.
    """
    waiting = _count_edges(root)
    arrived: dict[Node, dict[int, Tensor]] = {root: {0: gradient}}
    ready = [root]
    del gradient
    # A decorator for `no_grad` would keep the gradient. In the group, a checkpoint computes a layer again only once.
    with torch.no_grad(), GraphExecGroup():
        while ready:
            ready.sort(key=lambda node: node._sequence_nr())
            _run(ready.pop(), arrived, waiting, ready, saved)


def _count_edges(root: Node) -> dict[Node, int]:
    """Return for each node how many edges lead to it."""
    counts: dict[Node, int] = {}
    nodes = [root]
    while nodes:
        for node, _ in nodes.pop().next_functions:
            if node is not None:
                if node not in counts:
                    nodes.append(node)
                counts[node] = counts.get(node, 0) + 1
    return counts


def _run(
    node: Node,
    arrived: dict[Node, dict[int, Tensor]],
    waiting: dict[Node, int],
    ready: list[Node],
    saved: SavedTensors,
) -> None:
    """Run a node and hand its results to the next ones; those that wait for no other become ready."""
    gradients, leaf = arrived.pop(node, {}), getattr(node, "variable", None)
    if leaf is not None:
        if gradients:
            leaf.grad = gradients[0] if leaf.grad is None else leaf.grad.add_(gradients[0])
        return
    edges, outputs = node.next_functions, _results(node, gradients)
    saved.free_read()
    gradients.clear()
    for number, (target, place) in enumerate(edges):
        if target is None:
            continue
        gradient, outputs[number] = outputs[number], None
        if gradient is not None:
            _add(arrived, target, place, gradient)
        del gradient
        waiting[target] -= 1
        if not waiting[target]:
            del waiting[target]
            ready.append(target)


def _results(node: Node, gradients: dict[int, Tensor]) -> list[Tensor | None]:
    """Return the gradients of a node's inputs; without any gradient of its outputs there are none."""
    if not gradients:
        return [None] * len(node.next_functions)
    given = [gradients.get(number) for number in range(len(node._input_metadata))]
    gradients.clear()
    function: Any = node.apply if isinstance(node, BackwardCFunction) else node
    found = function(*given)
    return list(found) if isinstance(found, tuple) else [found]


def _add(arrived: dict[Node, dict[int, Tensor]], target: Node, place: int, gradient: Tensor) -> None:
    """Add a gradient to those that wait for a node, in place if nobody else holds them."""
    leaf = getattr(target, "variable", None)
    expected = target._input_metadata[place] if leaf is None else leaf
    gradient = gradient.sum_to_size(tuple(expected.shape)).to(expected.dtype)
    slot = arrived.setdefault(target, {})
    if place not in slot:
        slot[place] = gradient
    elif _is_shared(arrived, slot[place]):
        slot[place] = slot[place] + gradient
    else:
        slot[place].add_(gradient)


def _is_shared(arrived: dict[Node, dict[int, Tensor]], gradient: Tensor) -> bool:
    address = gradient.untyped_storage()._cdata
    held = (one.untyped_storage()._cdata for slot in arrived.values() for one in slot.values())
    return list(held).count(address) > 1
