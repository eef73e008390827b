"""Mixed cross-entropy in Triton: one reading of the logits forward, one backward, and no one-hot tensor.

A program takes a few whole rows, a row being one head of one sample, and walks over their classes in blocks (all of them
at once up to ``MAX_CLASSES``). Weighted row losses go to a buffer that one program adds up in a fixed order.

A label outside 0..K-1 is not read: it makes its row's loss NaN, as refusing it would wait for the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixfast_kernels._triton.aot import Case, meta, nbytes
from mixfast_kernels._triton.interpreter import repair
from mixfast_kernels._triton.precision import sums_of
from mixfast_kernels.mixed_cross_entropy import mixed_cross_entropy_backward_reference, mixed_cross_entropy_reference

repair()

# Logits a program holds when a row is short: 8 a thread of 4 warps, so that a batch of a few hundred short rows still
# makes a program for most multiprocessors.
TILE = 1024
# Classes held at once: 16 a thread of 8 warps, in registers with room to spare, also in float64.
MAX_CLASSES = 4096
# Row losses that the adding program takes at a time.
SUM_BLOCK = 1024


@triton.jit
def _logit_of(logits_ptr, label, rows, seen, K: tl.constexpr, ACC: tl.constexpr):
    """Each row's logit of its label, in the dtype ACC; NaN for a label that is none."""
    known = seen & (label >= 0) & (label < K)
    return tl.load(logits_ptr + rows * K + label, mask=known, other=float("nan")).to(ACC)


@triton.jit
def _share_of(share_ptr, rows, seen, ACC: tl.constexpr):
    """Each row's share, in ACC or a wider dtype of its own."""
    share = tl.load(share_ptr + rows, mask=seen, other=0)
    if share.dtype.primitive_bitwidth < 32:
        share = share.to(ACC)
    return share


@triton.jit
def _head_losses(
    target_logit, other_logit, share, log_normaliser, total, K: tl.constexpr, TWO: tl.constexpr, SMOOTHING: tl.constexpr
):
    """Each row's cross-entropy from the logits of its labels and the ``total`` of all its logits."""
    losses = log_normaliser - target_logit
    if TWO:
        losses = share * losses + (1 - share) * (log_normaliser - other_logit)
    if SMOOTHING > 0:
        losses = (1 - SMOOTHING) * losses + SMOOTHING * (log_normaliser - total / K)
    return losses


@triton.jit
def _labels_of(label_ptr, logits_ptr, rows, seen, K: tl.constexpr, ACC: tl.constexpr):
    label = tl.load(label_ptr + rows, mask=seen, other=0)
    return label, _logit_of(logits_ptr, label, rows, seen, K, ACC)


@triton.jit(do_not_specialize=["num_rows"])
def _forward_kernel(
    logits_ptr,
    target_ptr,
    weight_ptr,
    other_ptr,
    share_ptr,
    losses_ptr,
    normaliser_ptr,
    num_rows,
    K: tl.constexpr,
    TWO: tl.constexpr,
    SMOOTHING: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Writes each row's log-normaliser and weighted loss."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    seen = rows < num_rows
    highest = tl.full([BLOCK_R], float("-inf"), ACC)
    mass = tl.zeros([BLOCK_R], ACC)  # the sum of exp(logit - highest)
    total = tl.zeros([BLOCK_R], ACC)
    shift = tl.zeros([BLOCK_R], ACC)
    for start in range(0, K, BLOCK_K):
        classes = start + tl.arange(0, BLOCK_K)
        valid = seen[:, None] & (classes < K)[None, :]
        pointers = logits_ptr + rows[:, None] * K + classes[None, :]
        logits = tl.load(pointers, mask=valid, other=float("-inf")).to(ACC)
        raised = tl.maximum(highest, tl.max(logits, 1))
        # An infinite maximum is not subtracted, as torch.logsumexp does: inf - inf would be NaN.
        shift = tl.where(tl.abs(raised) == float("inf"), 0.0, raised).to(ACC)
        mass = mass * tl.exp(highest - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
        highest = raised
        if SMOOTHING > 0:
            total += tl.sum(tl.where(valid, logits, 0.0), 1)
    log_normaliser = shift + tl.log(mass)
    _, target_logit = _labels_of(target_ptr, logits_ptr, rows, seen, K, ACC)
    other_logit, share = target_logit, target_logit
    if TWO:
        _, other_logit = _labels_of(other_ptr, logits_ptr, rows, seen, K, ACC)
        share = _share_of(share_ptr, rows, seen, ACC)
    losses = _head_losses(target_logit, other_logit, share, log_normaliser, total, K, TWO, SMOOTHING)
    weight = tl.load(weight_ptr + rows, mask=seen, other=0)
    tl.store(losses_ptr + rows, weight * losses, mask=seen)
    tl.store(normaliser_ptr + rows, log_normaliser, mask=seen)


@triton.jit(do_not_specialize=["num_rows", "batch"])
def _sum_kernel(losses_ptr, loss_ptr, num_rows, batch, BLOCK: tl.constexpr):
    """The loss from the rows' losses: one program, always in the same order."""
    sums = tl.zeros([BLOCK], losses_ptr.dtype.element_ty)
    for start in range(0, num_rows, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        sums += tl.load(losses_ptr + rows, mask=rows < num_rows, other=0)
    tl.store(loss_ptr, tl.sum(sums, 0).to(loss_ptr.dtype.element_ty) / batch)


@triton.jit(do_not_specialize=["num_rows", "batch"])
def _backward_kernel(
    grad_ptr,
    logits_ptr,
    normaliser_ptr,
    target_ptr,
    weight_ptr,
    other_ptr,
    share_ptr,
    grad_logits_ptr,
    grad_weight_ptr,
    grad_share_ptr,
    num_rows,
    batch,
    K: tl.constexpr,
    TWO: tl.constexpr,
    SMOOTHING: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """All three gradients of some rows."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    seen = rows < num_rows
    grad = tl.load(grad_ptr) / batch
    log_normaliser = tl.load(normaliser_ptr + rows, mask=seen, other=0)
    scale = (grad * tl.load(weight_ptr + rows, mask=seen, other=0)).to(ACC)
    target, target_logit = _labels_of(target_ptr, logits_ptr, rows, seen, K, ACC)
    other, other_logit, share = target, target_logit, target_logit
    kept = tl.full([BLOCK_R], 1 - SMOOTHING, ACC)
    first = kept
    if TWO:
        other, other_logit = _labels_of(other_ptr, logits_ptr, rows, seen, K, ACC)
        share = _share_of(share_ptr, rows, seen, ACC)
        first = kept * share.to(ACC)
        grad_share = scale * kept * (other_logit - target_logit)
        tl.store(grad_share_ptr + rows, grad_share.to(grad_share_ptr.dtype.element_ty), mask=seen)
    total = tl.zeros([BLOCK_R], ACC)
    for start in range(0, K, BLOCK_K):
        classes = start + tl.arange(0, BLOCK_K)[None, :]
        valid = seen[:, None] & (classes < K)
        offsets = rows[:, None] * K + classes
        logits = tl.load(logits_ptr + offsets, mask=valid, other=0).to(ACC)
        aim = SMOOTHING / K + tl.where(classes == target[:, None], first[:, None], 0.0)
        if TWO:
            aim += tl.where(classes == other[:, None], (kept - first)[:, None], 0.0)
        grad_logits = scale[:, None] * (tl.exp(logits - log_normaliser[:, None]) - aim)
        tl.store(grad_logits_ptr + offsets, grad_logits.to(grad_logits_ptr.dtype.element_ty), mask=valid)
        if SMOOTHING > 0:
            total += tl.sum(logits, 1)
    losses = _head_losses(target_logit, other_logit, share, log_normaliser, total, K, TWO, SMOOTHING)
    tl.store(grad_weight_ptr + rows, (grad * losses).to(grad_weight_ptr.dtype.element_ty), mask=seen)


def _blocks(classes: int) -> dict[str, int]:
    """How many rows and classes a program holds, and its warps."""
    block = min(triton.next_power_of_2(classes), MAX_CLASSES)
    return {"BLOCK_R": max(TILE // block, 1), "BLOCK_K": block, "num_warps": 4 if block <= TILE else 8}


def _takes(logits: Tensor, other: Tensor | None, share: Tensor | None) -> bool:
    return logits.numel() > 0 and (other is None) == (share is None)


def mixed_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor, other: Tensor | None, share: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """``mixfast::mixed_cross_entropy``: the loss and the log-normaliser ``[B, M]``.

    Empty logits, and a second label without a share or the other way round, are the reference's.
    """
    if not _takes(logits, other, share):
        return mixed_cross_entropy_reference(logits, target, weight, other, share, smoothing)
    batch, heads, classes = logits.shape
    num_rows = batch * heads
    full = torch.promote_types(logits.dtype, torch.float32)
    sums = torch.promote_types(full, weight.dtype)
    sums = sums if share is None else torch.promote_types(sums, share.dtype)
    loss, log_normaliser = logits.new_empty((), dtype=full), logits.new_empty((batch, heads), dtype=full)
    losses = logits.new_empty(num_rows, dtype=sums)
    labels = [None if tensor is None else tensor.contiguous() for tensor in (target, weight, other, share)]
    blocks = _blocks(classes)
    with torch.cuda.device_of(logits):
        _forward_kernel[(triton.cdiv(num_rows, blocks["BLOCK_R"]),)](
            logits.contiguous(),
            *labels,
            losses,
            log_normaliser,
            num_rows,
            K=classes,
            TWO=other is not None,
            SMOOTHING=smoothing,
            ACC=sums_of(full),
            **blocks,
        )
        _sum_kernel[(1,)](losses, loss, num_rows, batch, BLOCK=SUM_BLOCK, num_warps=4)
    return loss, log_normaliser


def mixed_cross_entropy_backward(
    grad: Tensor,
    logits: Tensor,
    log_normaliser: Tensor,
    target: Tensor,
    weight: Tensor,
    other: Tensor | None,
    share: Tensor | None,
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``mixfast::mixed_cross_entropy_backward``: gradients of logits, weight and share (empty without one).

    What the forward pass leaves to the reference is the reference's here too.
    """
    if not _takes(logits, other, share):
        return mixed_cross_entropy_backward_reference(
            grad, logits, log_normaliser, target, weight, other, share, smoothing
        )
    batch, heads, classes = logits.shape
    num_rows = batch * heads
    grad_logits, grad_weight = logits.new_empty(logits.shape), weight.new_empty(weight.shape)
    grad_share = logits.new_empty(0) if share is None else share.new_empty(share.shape)
    rows = [
        None if tensor is None else tensor.contiguous() for tensor in (log_normaliser, target, weight, other, share)
    ]
    blocks = _blocks(classes)
    with torch.cuda.device_of(logits):
        _backward_kernel[(triton.cdiv(num_rows, blocks["BLOCK_R"]),)](
            grad,
            logits.contiguous(),
            *rows,
            grad_logits,
            grad_weight,
            grad_share,
            num_rows,
            batch,
            K=classes,
            TWO=other is not None,
            SMOOTHING=smoothing,
            ACC=sums_of(log_normaliser.dtype),
            **blocks,
        )
    return grad_logits, grad_weight, grad_share


def aot_cases() -> list[Case]:
    """What ``tools/aot.py`` compiles and measures: CIFAR-100, ImageNet-100 and ImageNet heads, batch 128 to 1024."""
    shapes = {
        "float32, CIFAR-100": (torch.float32, (128, 2, 100), True),
        "bfloat16, ImageNet-100": (torch.bfloat16, (1024, 2, 100), True),
        "bfloat16, ImageNet": (torch.bfloat16, (1024, 4, 1000), False),
        "float32, 21841 classes": (torch.float32, (256, 2, 21841), True),
        "float64, CIFAR-10": (torch.float64, (128, 3, 10), True),
    }
    cases = []
    for name, (dtype, shape, two) in shapes.items():
        logits, full = meta(*shape, dtype=dtype), torch.promote_types(dtype, torch.float32)
        label, number = meta(*shape[:2], dtype=torch.int64), meta(*shape[:2], dtype=full)
        grad = meta(dtype=full)
        rest = (label, number, label if two else None, number if two else None)
        read = nbytes(logits, *rest)
        forward, backward = (logits, *rest, 0.1), (grad, logits, number, *rest, 0.1)
        cases += [
            Case(
                f"mixed_cross_entropy: forward, {name}",
                lambda arguments=forward: mixed_cross_entropy(*arguments),
                read + nbytes(number, grad),
            ),
            Case(
                f"mixed_cross_entropy: backward, {name}",
                lambda arguments=backward: mixed_cross_entropy_backward(*arguments),
                read + nbytes(number, grad) + nbytes(logits, number, number if two else None),
            ),
        ]
    return cases
