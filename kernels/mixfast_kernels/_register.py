"""Registers an operator with torch: schema, reference, fake, autograd, autocast, vmap and FLOP formula.

The reference is the implementation for every device (``CompositeExplicitAutograd``). A faster one is registered
for a single device with ``library().impl(name, kernel, "CPU")`` and wins there; nothing above notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "mixfast"

_LIBRARY = torch.library.Library(NAMESPACE, "DEF")

_AUTOCAST_KEYS = {"cpu": torch._C.DispatchKey.AutocastCPU, "cuda": torch._C.DispatchKey.AutocastCUDA}


def library() -> torch.library.Library:
    """The library that holds this package's operators."""
    return _LIBRARY


def register_op(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    differentiable_reference: bool = False,
    autocast_inputs: Sequence[int] = (),
    autocast_to: torch.dtype | None = None,
    flops: Callable[..., int] | None = None,
) -> torch._ops.OpOverload:
    """Defines ``mixfast::<schema>`` and returns its overload.

    Args:
        schema: name and signature in torch's schema language.
        reference: plain PyTorch, same positional arguments as the schema.
        fake: returns empty tensors with the right shape, dtype, strides and device.
        setup_context, backward: as ``torch.library.register_autograd`` takes them.
        differentiable_reference: take the gradient through ``reference`` itself. For backward operators: their
            gradient is rarely needed, and plain PyTorch already knows it.
        autocast_inputs: positions of the arguments that autocast casts.
        autocast_to: the dtype they are cast to; by default autocast's own.
        flops: a FLOP formula on the arguments' shapes, for ``torch.utils.flop_counter``.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    op = getattr(getattr(torch.ops, NAMESPACE), name).default
    if differentiable_reference:
        setup_context, backward = _save_inputs, _gradient_through(reference)
    if backward is not None:
        _register_autograd(name, op, setup_context, backward)
    if autocast_inputs:
        _register_autocast(name, op, autocast_inputs, autocast_to)
    torch.library.register_vmap(qualified, _one_by_one(op), lib=_LIBRARY)
    if flops is not None:
        register_flop_formula(getattr(getattr(torch.ops, NAMESPACE), name))(flops)
    return op


def _register_autograd(
    name: str, op: torch._ops.OpOverload, setup_context: Callable[..., None] | None, backward: Callable[..., Any]
) -> None:
    """What ``torch.library.register_autograd`` does for an operator without keyword-only or default arguments, which it
    would look up in the schema at every call: half of the time that a small operator takes."""

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            *args, keyset = args
            with torch._C._AutoDispatchBelowAutograd():
                result = op.redispatch(keyset & torch._C._after_autograd_keyset, *args)
            setup_context(ctx, tuple(args), result)
            return result

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return *backward(ctx, *grads), None

    def call(keyset: Any, *args: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return Node.apply(*args, keyset)
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    _LIBRARY.impl(name, call, "Autograd", with_keyset=True)


def _register_autocast(
    name: str, op: torch._ops.OpOverload, positions: Sequence[int], fixed: torch.dtype | None
) -> None:
    """Casts the chosen floating-point arguments, then calls the operator with autocast switched off."""
    keys = torch._C.DispatchKeySet(_AUTOCAST_KEYS["cpu"]) | torch._C.DispatchKeySet(_AUTOCAST_KEYS["cuda"])

    def rule(device: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            dtype = fixed or torch.get_autocast_dtype(device)
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*(_cast(a, dtype) if i in positions else a for i, a in enumerate(args)))

        return call

    for device, key in _AUTOCAST_KEYS.items():
        _LIBRARY.impl(name, rule(device), key.name)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """As autocast does: float64 stays float64, integers stay integers."""
    castable = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(dtype) if castable else value


def _one_by_one(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """A vmap rule that runs the operator once per element and stacks: right for every argument, never fused."""

    def rule(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
        results = [
            op(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


def _save_inputs(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    ctx.positions = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
    ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*(inputs[i] for i in ctx.positions))


def _gradient_through(reference: Callable[..., Any]) -> Callable[..., Any]:
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            args = list(ctx.rest)
            for position, tensor in zip(ctx.positions, ctx.saved_tensors, strict=True):
                # A view is a node of its own: the gradient stops there, and a further derivative goes on.
                args[position] = tensor.view_as(tensor) if ctx.needs_input_grad[position] else tensor
            outputs = reference(*args)
            outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
            used = [(o, g) for o, g in zip(outputs, grad_outputs, strict=True) if o.requires_grad and g is not None]
        wanted = [i for i in ctx.positions if ctx.needs_input_grad[i]]
        grads: list[Tensor | None] = [None] * len(args)
        if used:
            found = torch.autograd.grad(
                [o for o, _ in used],
                [args[i] for i in wanted],
                [g for _, g in used],
                allow_unused=True,
                create_graph=torch.is_grad_enabled(),
            )
            for position, gradient in zip(wanted, found, strict=True):
                grads[position] = gradient
        return tuple(grads)

    return backward
