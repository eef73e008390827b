"""Counts the products that a network's parts do, forward and backward, and the bytes that they keep in between.

A product belongs to the part that is running. Where the network itself does it (a stem convolution whose encoders are summed
first, a source attribution), it belongs to the part whose weights it multiplies, however these were transformed before. A
product of the backward pass belongs to the part that owns the forward product it is the derivative of. A product of weights with
weights is none here: it is done once, however many images there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# These look only at inputs that a position shows, which the formulas, made of shapes alone, cannot know.
_ZONED = (
    "mask_mix_encode",
    "mask_mix_encode_backward",
    "source_attribution",
    "source_attribution_backward",
)
# Of a tensor made of no other one, such as an identity matrix: it leaves weights what they are. And of a product that does not
# grow with the batch.
_CONSTANT = ""


class Meter(TorchDispatchMode):
    """Counts what runs inside ``counting()``; the network must be on the meta device.

    Args:
        network: whose weights and buffers are no activations.
        parts: the modules that are told apart, outer before inner ones; a weight belongs to the innermost it is in.
        visible: the most inputs that a position of a mix shows.
        ignored: tensors whose bytes are not the network's: the batch. Parameters and buffers never are.

    Attributes:
        forward, backward: multiply-adds by part.
        work: multiply-adds and bytes of each operator that ran, in order: what it reads and what it writes. A view is no work.
        kept: bytes by part that autograd saves for the backward pass; tensors that share memory count once, for the first
            that saves them.
    """

    def __init__(
        self, network: nn.Module, parts: Mapping[str, nn.Module], visible: int, ignored: Sequence[Tensor] = ()
    ) -> None:
        super().__init__()
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self.work: list[tuple[int, int]] = []
        self._visible = visible
        self._parts = parts
        self._running: list[str] = []
        self._owner_of_node: dict[int, str] = {}
        # Both keep the memory alive that they know, so that no other tensor can be taken for it.
        self._weights: dict[int, tuple[Any, str]] = {}
        self._saved: dict[int, tuple[Any, int, str]] = {}
        for part, module in parts.items():
            for parameter in module.parameters():
                self._weights[_memory(parameter)] = (parameter.untyped_storage(), part)
        foreign = (*network.parameters(), *network.buffers(), *ignored)
        self._ignored = {_memory(tensor): tensor.untyped_storage() for tensor in foreign}

    @property
    def kept(self) -> Counter[str]:
        result: Counter[str] = Counter()
        for storage, node, part in self._saved.values():
            result[self._owner_of_node.get(node) or part] += storage.nbytes()
        return result

    @contextmanager
    def counting(self) -> Iterator[Meter]:
        """Counts what runs inside; parts are known by hooks, which are gone afterwards."""
        hooks = []
        for part, module in self._parts.items():
            hooks.append(module.register_forward_pre_hook(lambda *_, part=part: self._running.append(part)))
            hooks.append(module.register_forward_hook(lambda *_: self._leave()))
        try:
            with self, torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield self
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside belongs to ``name``: for what is no module."""
        self._running.append(name)
        yield
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        node = torch._C._current_autograd_node()
        origins = self._origins(args)
        of_weights = node is None and None not in origins
        if of_weights:
            self._inherit(result, origins)
        products = self._products(func, args, kwargs or {}, result)
        if not func.is_view:
            self.work.append((products, sum(map(_moved, _tensors((args, result))))))
        if not products:
            return result
        if node is not None:
            owner = self._owner_of_node.get(node._sequence_nr(), func._overloadpacket.__name__)
            if owner != _CONSTANT:
                self.backward[owner] += products
            return result
        owner = _CONSTANT
        if not of_weights:
            owner = self._running[-1] if self._running else _first_part(origins) or func._overloadpacket.__name__
            self.forward[owner] += products
        # Autograd has made this product's node by now: it has the last number that was given.
        self._owner_of_node[torch._C._autograd._get_sequence_nr() - 1] = owner
        return result

    def _products(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            return 0
        products = formula(*args, **kwargs, out_val=result) // 2
        if func._overloadpacket.__name__ in _ZONED:
            names = (argument.name for argument in func._schema.arguments)
            inputs = dict(zip(names, args, strict=False))["inside"].shape[1]
            products = products // inputs * min(inputs, self._visible)
        return products

    def _origins(self, args: Any) -> list[str | None]:
        """For each tensor among the arguments the part whose weights it is made of; None: it depends on the images."""
        return [self._weights.get(_memory(tensor), (None, None))[1] for tensor in _tensors(args)]

    def _inherit(self, result: Any, origins: list[str | None]) -> None:
        part = _first_part(origins) or _CONSTANT
        for tensor in _tensors(result):
            self._weights.setdefault(_memory(tensor), (tensor.untyped_storage(), part))

    def _keep(self, tensor: Tensor) -> Tensor:
        memory = _memory(tensor)
        if memory not in self._ignored and memory not in self._saved:
            part = self._running[-1] if self._running else "between parts"
            node = torch._C._autograd._get_sequence_nr() - 1
            self._saved[memory] = (tensor.untyped_storage(), node, part)
        return tensor

    def _leave(self) -> None:
        self._running.pop()


def _first_part(origins: list[str | None]) -> str | None:
    return next((part for part in origins if part), None)


def _memory(tensor: Tensor) -> int:
    """Names the memory of a tensor, which on the meta device has no address."""
    return tensor.untyped_storage()._cdata


def _moved(tensor: Tensor) -> int:
    """Bytes, each read once: an expanded tensor holds fewer than it shows."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
