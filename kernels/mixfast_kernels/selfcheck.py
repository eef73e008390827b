"""Whether the operators of this process's backend are right on this machine: ``python -m mixfast_kernels.selfcheck``.

Every operator, forward and backward, in float32 on the device, against its reference in float64 on the CPU. It may err
twice as much as the float32 reference does, with the arguments as they are or a rounding off (one run alone may be near by
luck), and by a rounding of the largest value. ``MIXFAST_BACKEND`` chooses the backend, as always: a process has one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from mixfast_kernels._backends import backends
from mixfast_kernels.augment import augment, augment_reference
from mixfast_kernels.bias_gelu import bias_gelu, bias_gelu_reference
from mixfast_kernels.class_attention import class_attention, class_attention_reference, folded
from mixfast_kernels.gated_positional_attention import (
    gated_positional_attention,
    gated_positional_attention_reference,
)
from mixfast_kernels.mask_mix_encode import mask_mix_encode, mask_mix_encode_reference
from mixfast_kernels.mixed_cross_entropy import mixed_cross_entropy, mixed_cross_entropy_reference
from mixfast_kernels.mixing import Mixing
from mixfast_kernels.source_attribution import source_attribution, source_attribution_reference
from mixfast_kernels.talking_heads_attention import talking_heads_attention, talking_heads_attention_reference
from mixfast_kernels.unmix_pool import unmix_pool, unmix_pool_reference

BATCH, INPUTS = 6, 2
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]


@dataclass(frozen=True)
class Check:
    """One operator's result.

    Attributes:
        operator: its name and which case.
        error: the largest difference from float64, over what was allowed: right up to 1. None where it did not run.
        seconds: of the forward and backward pass, the first of this process.
        problem: why it did not run; empty where it did.
    """

    operator: str
    error: float | None
    seconds: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= 1


@dataclass(frozen=True)
class Case:
    """``call`` takes tensors as the public function does, ``reference`` as the plain form does: first ``leaves``, then the
    mixing's four tensors or Nones, then ``others``."""

    operator: str
    leaves: tuple[Tensor, ...]
    mixing: Mixing | None
    others: tuple[Tensor, ...]
    call: Callable[..., Tensor]
    reference: Callable[..., Tensor]


class Draw:
    """Small arguments, always the same ones."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self.index = self.integers(2 * BATCH, BATCH, INPUTS)
        self.pixels = self.integers(256, 2 * BATCH, 8, 8, 3).to(torch.uint8).permute(0, 3, 1, 2)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def integers(self, limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=self._generator)

    def boxes(self, grid: tuple[int, int]) -> Mixing:
        """Of one input a sample, around which the other one is seen."""
        inside = torch.nn.functional.one_hot(self.integers(INPUTS, BATCH), INPUTS).float()
        rows, columns = (self.integers(side + 1, BATCH, 2).sort(1).values for side in grid)
        box = torch.stack((rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]), 1).int()
        return Mixing(inside, 1 - inside, grid, box=box)


def cases() -> Iterator[Case]:
    """A few small cases that reach the fast paths of every operator."""
    draw = Draw()
    for family in (_encoders, _poolings_and_sources, _attentions, _pointwise):
        yield from family(draw)


def _encoders(draw: Draw) -> Iterator[Case]:
    images = draw.normal(2 * BATCH, 9, 8, 3).permute(0, 3, 1, 2)

    def stem(weight: Tensor, mixing: Mixing, images: Tensor, index: Tensor) -> Tensor:
        return mask_mix_encode(images, weight, mixing, index=index, scale=2.0)

    def plain_stem(weight: Tensor, *rest: Tensor) -> Tensor:
        *zone, images, index = rest
        return mask_mix_encode_reference(images, weight, *zone, index, None, None, [9, 8], 1, 1, 2.0, None, None)

    yield Case(
        "mask_mix_encode, 3x3 stem",
        (draw.normal(INPUTS, 16, 3, 3, 3),),
        draw.boxes((9, 8)),
        (images, draw.index),
        stem,
        plain_stem,
    )

    def patches(weight: Tensor, bias: Tensor, mixing: Mixing, pixels: Tensor, index: Tensor) -> Tensor:
        more = {"stride": 4, "padding": 0, "mean": MEAN, "std": STD}
        return mask_mix_encode(pixels, weight, mixing, index=index, bias=bias, **more)

    def plain_patches(weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
        *zone, pixels, index = rest
        return mask_mix_encode_reference(pixels, weight, *zone, index, bias, None, [2, 2], 4, 0, 1.0, MEAN, STD)

    leaves = (draw.normal(INPUTS, 24, 3, 4, 4), draw.normal(INPUTS, 24))
    yield Case(
        "mask_mix_encode, patches", leaves, draw.boxes((2, 2)), (draw.pixels, draw.index), patches, plain_patches
    )


def _poolings_and_sources(draw: Draw) -> Iterator[Case]:
    def pool(features: Tensor, scale: Tensor, shift: Tensor, mixing: Mixing) -> Tensor:
        return unmix_pool(features, mixing, affine=(scale, shift))

    def plain_pool(features: Tensor, scale: Tensor, shift: Tensor, *zone: Tensor) -> Tensor:
        return unmix_pool_reference(features, *zone, scale, shift, 40, [8, 8])

    features = draw.normal(BATCH, 4, 4, 40).permute(0, 3, 1, 2)
    yield Case("unmix_pool", (features, draw.normal(40), draw.normal(40)), draw.boxes((8, 8)), (), pool, plain_pool)

    def attribute(tokens: Tensor, bias: Tensor, *rest: Tensor | Mixing) -> Tensor:
        weight, mixing = (None, rest[0]) if len(rest) == 1 else rest
        return source_attribution(tokens, mixing, bias, weight)

    def plain_embedding(tokens: Tensor, bias: Tensor, *zone: Tensor) -> Tensor:
        return source_attribution_reference(tokens, *zone, bias, None, [4, 4])

    def plain_encoding(tokens: Tensor, bias: Tensor, weight: Tensor, *zone: Tensor) -> Tensor:
        return source_attribution_reference(tokens, *zone, bias, weight, [4, 4])

    leaves = (draw.normal(BATCH, 16, 32), draw.normal(INPUTS, 32))
    yield Case("source_attribution, embedding", leaves, draw.boxes((4, 4)), (), attribute, plain_embedding)
    leaves = (*leaves, draw.normal(INPUTS, 32, 32) / 6)
    yield Case("source_attribution, encoding", leaves, draw.boxes((4, 4)), (), attribute, plain_encoding)


def _attentions(draw: Draw) -> Iterator[Case]:
    def attend(qkv: Tensor, positional: Tensor, gate: Tensor, mixing: None) -> Tensor:
        return gated_positional_attention(qkv, positional, gate)

    def plain_attend(qkv: Tensor, positional: Tensor, gate: Tensor, *_: None) -> Tensor:
        return gated_positional_attention_reference(qkv, positional, gate, qkv.shape[4] ** -0.5)[0]

    # A head that a block holds, and one that takes several with a partial last one.
    for batch, count in ((BATCH, 16), (1, 70)):
        leaves = (
            draw.normal(batch, count, 3, 2, 20),
            draw.normal(2, count, count).softmax(2),
            draw.normal(2).sigmoid(),
        )
        yield Case(f"gated_positional_attention, {count} tokens", leaves, None, (), attend, plain_attend)

    def attend_class(*arguments: Tensor | Mixing) -> Tensor:
        *leaves, source, mixing = arguments
        return class_attention(*leaves, num_heads=4, source=source, mixing=mixing)

    def plain_class_attention(*arguments: Tensor) -> Tensor:
        *leaves, source, inside, outside, box, bitmap = arguments
        mixing = None if inside is None else Mixing(inside, outside, (4, 5), box, bitmap)
        return folded(class_attention_reference, *leaves, 4, source, mixing, 1e-6)

    vector, matrix = (32,), (32, 32)
    shapes = (vector, vector, matrix, vector, matrix, matrix, vector, (INPUTS, 32))
    for name, sets, mixing in (("mixed sources", 1, draw.boxes((4, 5))), ("a source a set", INPUTS, None)):
        tensors = (
            draw.normal(BATCH, 20, 32),
            draw.normal(BATCH, sets, 32),
            *(draw.normal(*shape) / len(shape) for shape in shapes),
        )
        yield Case(f"class_attention, {name}", tensors, mixing, (), attend_class, plain_class_attention)

    def talking_heads(qkv: Tensor, pre_weight: Tensor, post_weight: Tensor, post_bias: Tensor, *rest: Tensor) -> Tensor:
        return talking_heads_attention(qkv, pre_weight, rest[-1], post_weight, post_bias)

    def plain_talking_heads(
        qkv: Tensor, pre_weight: Tensor, post_weight: Tensor, post_bias: Tensor, *rest: Tensor
    ) -> Tensor:
        return talking_heads_attention_reference(qkv, pre_weight, rest[-1], post_weight, post_bias, 12**-0.5)[0]

    leaves = (draw.normal(2, 17, 3, 3, 12), draw.normal(3, 3) / 2, draw.normal(3, 3) / 2, draw.normal(3) / 2)
    yield Case("talking_heads_attention", leaves, None, (draw.normal(3),), talking_heads, plain_talking_heads)


def _pointwise(draw: Draw) -> Iterator[Case]:
    def loss(logits: Tensor, weight: Tensor, share: Tensor, mixing: None, target: Tensor, other: Tensor) -> Tensor:
        return mixed_cross_entropy(logits, target, weight, other=other, share=share, smoothing=0.1)

    def plain_loss(logits: Tensor, weight: Tensor, share: Tensor, *rest: Tensor) -> Tensor:
        target, other = rest[4:]
        return mixed_cross_entropy_reference(logits, target, weight, other, share, 0.1)[0]

    labels = (draw.integers(33, BATCH, INPUTS), draw.integers(33, BATCH, INPUTS))
    leaves = (
        3 * draw.normal(BATCH, INPUTS, 33),
        draw.normal(BATCH, INPUTS).exp(),
        draw.normal(BATCH, INPUTS).sigmoid(),
    )
    yield Case("mixed_cross_entropy", leaves, None, labels, loss, plain_loss)

    def gelu(x: Tensor, bias: Tensor, mixing: None) -> Tensor:
        return bias_gelu(x, bias)

    def plain_gelu(x: Tensor, bias: Tensor, *_: None) -> Tensor:
        return bias_gelu_reference(x, bias)

    yield Case("bias_gelu", (3 * draw.normal(BATCH, 37), draw.normal(37)), None, (), gelu, plain_gelu)

    def views(mixing: Mixing, pixels: Tensor, crop: Tensor, flip: Tensor, index: Tensor) -> Tensor:
        return augment(pixels, index=index, mixing=mixing, crop=crop, flip=flip, pad=2, mean=MEAN, std=STD)

    def plain_views(*arguments: Tensor) -> Tensor:
        *zone, pixels, crop, flip, index = arguments
        return augment_reference(pixels, index, crop, flip, *zone, 2, MEAN, STD, zone[0].dtype, [8, 8])

    others = (draw.pixels, draw.integers(5, BATCH, INPUTS, 2), draw.integers(2, BATCH, INPUTS) > 0, draw.index)
    yield Case("augment", (), draw.boxes((8, 8)), others, views, plain_views)


def run(device: torch.device) -> Iterator[Check]:
    """Checks each case on ``device``; an operator that raises is reported, not raised."""
    for case in cases():
        exact = _plain_results(case, torch.float64)
        rounded = [_plain_results(near, torch.float32) for near in (case, *_a_rounding_off(case))]
        start = time.perf_counter()
        try:
            got = [result.double().cpu() for result in _results(case, device)]
        except Exception as error:
            yield Check(case.operator, None, time.perf_counter() - start, f"{type(error).__name__}: {error}")
            continue
        seconds = time.perf_counter() - start
        errors = [_error(*values) for values in zip(got, exact, zip(*rounded, strict=True), strict=True)]
        yield Check(case.operator, max(errors), seconds)


def _a_rounding_off(case: Case, count: int = 3) -> Iterator[Case]:
    """The case with each leaf's elements one rounding up or down."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield replace(case, leaves=tuple(beside(leaf, generator) for leaf in case.leaves))


def beside(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Each element one rounding up or down, as it falls."""
    away = torch.where(torch.rand(tensor.shape, generator=generator) < 0.5, -torch.inf, torch.inf)
    return torch.nextafter(tensor, away)


def _error(got: Tensor, exact: Tensor, rounded: Iterable[Tensor]) -> float:
    if got.shape != exact.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    usual = max((plain.double() - exact).abs().max() for plain in rounded)
    allowed = 2 * usual + torch.finfo(torch.float32).eps * exact.abs().max()
    return float((got - exact).abs().max() / allowed)


def _results(case: Case, device: torch.device) -> list[Tensor]:
    leaves = [leaf.to(device).requires_grad_() for leaf in case.leaves]
    mixing = None if case.mixing is None else case.mixing.to(device)
    return _with_gradients(case.call(*leaves, mixing, *(other.to(device) for other in case.others)), leaves)


def _plain_results(case: Case, dtype: torch.dtype) -> list[Tensor]:
    def cast(value: Tensor | None) -> Tensor | None:
        return value.to(dtype) if value is not None and value.is_floating_point() else value

    leaves = [cast(leaf).requires_grad_() for leaf in case.leaves]
    mixing = case.mixing
    zone = (None,) * 4 if mixing is None else (mixing.inside, mixing.outside, mixing.box, mixing.bitmap)
    return _with_gradients(case.reference(*leaves, *map(cast, zone), *map(cast, case.others)), leaves)


def _with_gradients(result: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    if not leaves:
        return [result]
    # The same gradient everywhere: it depends on places alone.
    grad = torch.arange(result.numel(), dtype=torch.float64).cos().reshape(result.shape)
    grads = torch.autograd.grad(result, leaves, grad.to(result.device, result.dtype))
    return [result.detach(), *grads]


def main() -> int:
    """Prints a line of JSON for each operator; returns 1 if one is wrong."""
    parser = argparse.ArgumentParser(description="Check the operators on this machine against float64.")
    parser.add_argument("--device", default="cpu", help="where they run (default: %(default)s)")
    device = torch.device(parser.parse_args().device)
    backend = backends().get(device.type)
    right = True
    for check in run(device):
        right &= check.passed
        said = {"backend": backend.name if backend else "reference", **asdict(check), "passed": check.passed}
        print(json.dumps(said), flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
