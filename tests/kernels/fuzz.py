"""Calls every operator with arguments that are random in shape, dtype, device, layout and value: ``fuzz.py SEED COUNT``.

A call either works, forward and backward, or is refused with an error that names an argument. Prints what happened as JSON;
anything else ends in a traceback, or in a crash that whoever started this process sees.
"""

from __future__ import annotations

import inspect
import json
import random
import sys
import warnings

import mixfast_kernels as mk
import torch
from mixfast_kernels import Mixing

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OTHERS = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]
REFUSALS = (TypeError, ValueError, IndexError)
OPERATORS = (
    "augment",
    "bias_gelu",
    "class_attention",
    "gated_positional_attention",
    "mask_mix_encode",
    "mixed_cross_entropy",
    "source_attribution",
    "talking_heads_attention",
    "unmix_pool",
)


class Fuzzer:
    """Arguments that mostly fit together, each of them spoilt now and then."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)
        self.batch, self.inputs = self.random.choice([0, 1, 2, 3]), self.random.choice([1, 2, 3, 4])
        self.channels, self.kernel = self.random.choice([1, 2, 3, 17]), self.random.choice([1, 2, 3, 4])
        self.height, self.width = self.random.randint(1, 9), self.random.randint(1, 9)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def tensor(self, *shape: int, dtype: torch.dtype | None = None, limit: int | None = None, grad: bool = True):
        """Of this shape, unless spoilt; floating point of any dtype, or integers below ``limit``."""
        if self.chance(0.03):
            return self.random.choice([None, 3, 1.5, "text", [1, 2], torch.tensor(1.0)])
        if self.chance(0.04):
            shape = tuple(side + self.random.choice([0, 1, -1]) if side else side for side in shape)
            shape = tuple(max(side, 0) for side in shape)
        if self.chance(0.03):
            shape = (*shape, 1) if self.chance(0.5) else shape[:-1]
        dtype = dtype or self.random.choice(FLOATS)
        if self.chance(0.03):
            dtype = self.random.choice(FLOATS + OTHERS)
        value = self.values(shape, dtype, limit)
        if value.is_floating_point() and value.numel() and self.chance(0.1):
            value.view(-1)[self.random.randrange(value.numel())] = self.random.choice(
                [torch.inf, -torch.inf, torch.nan]
            )
        value = self.layout(value)
        if self.chance(0.01):
            value = value.to("meta")
        return value.requires_grad_() if grad and value.is_floating_point() and self.chance(0.5) else value

    def values(self, shape: tuple[int, ...], dtype: torch.dtype, limit: int | None):
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(shape, generator=self.torch).to(dtype)
        limit = 2 if dtype == torch.bool else limit or 200
        return torch.randint(limit, shape, generator=self.torch).to(dtype)

    def layout(self, value: torch.Tensor) -> torch.Tensor:
        """The same values, in memory of another order or with gaps."""
        if value.dim() and self.chance(0.3):
            order = self.random.sample(range(value.dim()), value.dim())
            inverse = [order.index(i) for i in range(value.dim())]
            value = value.permute(order).contiguous().permute(inverse)
        if value.dim() and self.chance(0.2):
            value = torch.stack((value, value), -1)[..., 0]
        return value

    def index(self, limit: int, *shape: int):
        if self.chance(0.05):
            limit += 1
        return self.tensor(*shape, dtype=torch.int64, limit=max(limit, 1))

    def mixing(self, batch: int, inputs: int, grid: tuple[int, int]):
        if self.chance(0.02):
            return self.random.choice([None, 1.0, "mix"])
        inside = self.tensor(batch, inputs, dtype=torch.float32)
        outside = self.tensor(batch, inputs, dtype=torch.float32)
        zone = self.random.choice(["none", "box", "bits", "coverage"])
        box = self.tensor(batch, 4, dtype=torch.int32, limit=max(grid) + 2, grad=False) if zone == "box" else None
        bitmap = None
        if zone in ("bits", "coverage"):
            dtype = torch.bool if zone == "bits" else torch.float32
            bitmap = self.tensor(batch, *grid, dtype=dtype, grad=self.chance(0.02))
        return Mixing(inside, outside, grid, box=box, bitmap=bitmap)

    def augment(self):
        sources, pad = self.random.choice([1, self.inputs]), self.random.choice([0, 0, 0, 1, 1, 2, 3, 3, 4, -1])
        size = (
            max(1, self.height + self.random.choice([0, -1, 1])),
            max(1, self.width + self.random.choice([0, -1, 1])),
        )
        given = lambda value: value if self.chance(0.7) else None  # noqa: E731
        rows, columns = (
            max(1, side + 2 * pad - out + 1) for side, out in zip((self.height, self.width), size, strict=True)
        )
        crop = torch.stack(
            (torch.full((self.batch, sources), rows - 1), torch.full((self.batch, sources), columns - 1)), -1
        )
        statistic = given([0.5] * self.channels)
        return mk.augment(
            self.tensor(4, self.channels, self.height, self.width, dtype=torch.uint8),
            index=self.index(4, self.batch, sources),
            crop=given(crop + (1 if self.chance(0.05) else 0)),
            flip=given(self.tensor(self.batch, sources, dtype=torch.bool)),
            mixing=self.mixing(self.batch, sources, size) if sources > 1 or self.chance(0.1) else None,
            pad=pad, mean=statistic, std=statistic, out_size=size,
            dtype=self.random.choice([*FLOATS, torch.uint8, torch.int32]),
        )  # fmt: skip

    def bias_gelu(self):
        width = self.random.choice([1, 4, 33])
        return mk.bias_gelu(self.tensor(self.batch, self.height, width), self.tensor(width))

    def class_attention(self):
        heads = self.random.choice([1, 2, 3])
        width, dtype = heads * self.random.choice([1, 4, 11]), self.random.choice(FLOATS)
        mixed, given = self.chance(0.4), self.chance(0.7)
        sets = 1 if mixed else self.inputs if given else self.random.choice([1, 2])
        matrix = lambda: self.tensor(width, width)  # noqa: E731
        bias = lambda: self.tensor(width) if self.chance(0.7) else None  # noqa: E731
        return mk.class_attention(
            self.tensor(self.batch, self.height * self.width, width, dtype=dtype),
            self.tensor(self.batch, sets, width), self.tensor(width), self.tensor(width),
            matrix(), bias(), matrix(), matrix(), bias(), num_heads=self.random.choice([heads, heads, heads, 0, 5]),
            source=self.tensor(self.inputs, width) if mixed or given else None,
            mixing=self.mixing(self.batch, self.inputs, (self.height, self.width)) if mixed else None,
            eps=self.random.choice([1e-6, 1e-6, 1e-3, -1.0]),
        )  # fmt: skip

    def gated_positional_attention(self):
        heads, width = self.random.choice([1, 2, 5]), self.random.choice([1, 4, 33])
        count = self.height * self.width
        return mk.gated_positional_attention(
            self.tensor(self.batch, count, 3, heads, width), self.tensor(heads, count, count), self.tensor(heads),
            scale=self.random.choice([None, None, 0.5, 2, -1.0, float("inf"), "1"]),
        )  # fmt: skip

    def mask_mix_encode(self):
        stride, padding = self.random.choice([1, 2, self.kernel]), self.random.choice([0, 0, 0, 1, 1, 1, 1, 2, 2, -1])
        grid = tuple((side + 2 * padding - self.kernel) // stride + 1 for side in (self.height, self.width))
        grid = tuple(max(1, side) for side in grid)
        encoders, out = self.random.choice([1, self.inputs]), self.random.choice([1, 5, 16])
        dtype = self.random.choice(FLOATS)
        pixels = self.random.choice([dtype, dtype, torch.uint8])
        given = lambda value: value if self.chance(0.7) else None  # noqa: E731
        statistic = given([0.5] * self.channels)
        return mk.mask_mix_encode(
            self.tensor(4, self.channels, self.height, self.width, dtype=pixels),
            self.tensor(encoders, out, self.channels, self.kernel, self.kernel, dtype=dtype),
            self.mixing(self.batch, self.inputs, grid),
            index=given(self.index(4, self.batch, self.inputs)), bias=given(self.tensor(encoders, out)),
            position=given(self.tensor(out, *grid)), stride=stride, padding=padding, mean=statistic, std=statistic,
        )  # fmt: skip

    def mixed_cross_entropy(self):
        heads = (self.batch, self.inputs)
        classes = self.random.choice([1, 3, 20])
        two = self.chance(0.6)
        return mk.mixed_cross_entropy(
            self.tensor(*heads, classes), self.index(classes, *heads), self.tensor(*heads),
            other=self.index(classes, *heads) if two else None, share=self.tensor(*heads) if two or self.chance(0.05) else None,
            smoothing=self.random.choice([0.0, 0.1, 1.0, 1.5]),
        )  # fmt: skip

    def source_attribution(self):
        width, dtype = self.random.choice([1, 4, 33]), self.random.choice(FLOATS)
        tokens = self.tensor(self.batch, self.height * self.width, width, dtype=dtype)
        weight = self.tensor(self.inputs, width, width) if self.chance(0.5) else None
        mixing = self.mixing(self.batch, self.inputs, (self.height, self.width))
        return mk.source_attribution(tokens, mixing, self.tensor(self.inputs, width), weight)

    def talking_heads_attention(self):
        count, heads, width = self.random.choice([1, 7, 33]), self.inputs, self.random.choice([1, 5, 16])
        return mk.talking_heads_attention(
            self.tensor(self.batch, count, 3, heads, width), self.tensor(heads, heads), self.tensor(heads),
            self.tensor(heads, heads), self.tensor(heads), scale=self.random.choice([None, 0.0, -1.5]),
        )  # fmt: skip

    def unmix_pool(self):
        affine = (self.tensor(self.channels), self.tensor(self.channels)) if self.chance(0.4) else None
        grid = (self.height, self.width) if self.chance(0.7) else (self.random.randint(1, 9), self.random.randint(1, 9))
        return mk.unmix_pool(
            self.tensor(self.batch, self.channels, self.height, self.width), self.mixing(self.batch, self.inputs, grid),
            fade=self.random.choice([0.0, 0.3, 1.0, -0.5]), channels=self.random.choice([None, 0, 1, 99]), affine=affine,
        )  # fmt: skip


def names(operator: str) -> list[str]:
    return [
        *inspect.signature(getattr(mk, operator)).parameters,
        "inside",
        "outside",
        "grid",
        "box",
        "bitmap",
        "Mixing",
    ]


def attempt(operator: str, seed: int) -> str:
    """ "worked", or why it was refused; raises for a refusal that names no argument, or any other error."""
    try:
        result = getattr(Fuzzer(seed), operator)()
        if result.requires_grad:
            result.backward(torch.randn_like(result))
    except REFUSALS as error:
        if not any(name in str(error) for name in names(operator)):
            raise AssertionError(f"{operator}, seed {seed}: the error names no argument: {error!r}") from error
        return type(error).__name__
    except Exception as error:
        if "out of bounds" in str(error):
            # The plain form leaves the values of an index to torch's gather, which names none of our arguments.
            return "IndexError"
        raise AssertionError(f"{operator}, seed {seed}: {error!r}") from error
    return "worked"


def main(first: int, count: int) -> None:
    warnings.simplefilter("ignore")
    outcomes: dict[str, dict[str, int]] = {operator: {} for operator in OPERATORS}
    for operator in OPERATORS:
        for seed in range(first, first + count):
            outcome = attempt(operator, seed)
            outcomes[operator][outcome] = outcomes[operator].get(outcome, 0) + 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
