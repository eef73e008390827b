"""The Triton operators over shapes, layouts, dtypes and zones that nobody chose: values and gradients against float64."""

from __future__ import annotations

import pytest
import test_triton_augment as augment
import test_triton_mask_mix_encode as encode
import test_triton_mixed_cross_entropy as loss
import test_triton_source_attribution as attribution
import test_triton_unmix_pool as pool
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_cases import needs_triton

pytestmark = needs_triton

DTYPES = st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16))
ZONES = st.sampled_from(("none", "box", "bitmap", "coverage"))
LAYOUTS = st.sampled_from(("contiguous", "channels_last", "strided", "expanded"))


@st.composite
def augmentations(draw):
    size, pad = draw(st.tuples(st.integers(1, 12), st.integers(1, 12))), draw(st.integers(0, 3))
    out_size = tuple(draw(st.integers(1, side + 2 * pad)) for side in size)
    zone = draw(st.none() | ZONES)
    sources = 1 if zone is None else draw(st.integers(1, 4))
    rest = {"layout": draw(LAYOUTS), "binary": draw(st.booleans()), "flips": draw(st.booleans())}
    values = augment.arguments(
        draw(st.integers(1, 5)), size, out_size, pad, sources, zone, draw(st.integers(1, 6)), **rest
    )
    return *values, draw(DTYPES | st.just(torch.uint8))


@st.composite
def encodings(draw):
    kernel, stride, padding = draw(st.sampled_from([(3, 1, 1), (3, 2, 1), (1, 1, 0), (2, 2, 0), (4, 4, 0), (5, 3, 2)]))
    sides = st.integers(max(1, kernel - 2 * padding), 9)
    inputs, dtype = draw(st.integers(1, 3)), draw(DTYPES)
    return encode.Case(
        batch=draw(st.integers(1, 5)),
        inputs=inputs,
        encoders=draw(st.sampled_from([1, inputs])),
        image=(draw(st.integers(1, 4)), draw(sides), draw(sides)),
        channels=draw(st.integers(1, 40)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        zone=draw(ZONES),
        binary=draw(st.booleans()),
        dtype=dtype,
        image_dtype=draw(st.sampled_from([torch.uint8, dtype, torch.float32])),
        layout=draw(LAYOUTS),
        extras=draw(st.booleans()),
        index=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


LOSSES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 40),
        "heads": st.integers(1, 4),
        "classes": st.integers(1, 300),
        "dtype": DTYPES,
        "numbers": st.sampled_from([None, torch.float32, torch.float64]),
        "two": st.booleans(),
        "smoothing": st.sampled_from([0.0, 0.1, 1.0]),
        "seed": st.integers(0, 1000),
    }
)
ATTRIBUTIONS = st.tuples(
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 70)),
    DTYPES,
    ZONES,
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
POOLS = st.tuples(
    st.tuples(st.integers(1, 5), st.integers(1, 80), st.integers(1, 9), st.integers(1, 9)),
    DTYPES,
    st.booleans(),
    ZONES,
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.4, 1.0]),
)


def encoded(case, programs):
    """Few programs take several blocks each, many one: which of the two small batches meet is not left to the constant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixfast_kernels._triton.encode_gradients.LEAST_PROGRAMS", programs)
        case.check()


# Operator: what is drawn, and what is held to the reference.
PROPERTIES = {
    "augment": (augmentations(), lambda drawn: augment.check(*drawn)),
    "mask_mix_encode": (st.tuples(encodings(), st.sampled_from([1, 256])), lambda drawn: encoded(*drawn)),
    "mixed_cross_entropy": (LOSSES, lambda drawn: loss.check(loss.arguments(**drawn))),
    "source_attribution": (ATTRIBUTIONS, lambda drawn: attribution.check(*attribution.arguments_of(*drawn))),
    "unmix_pool": (POOLS, lambda drawn: pool.check(*pool.arguments_of(*drawn), zones=True)),
}


def hold(operator, examples, **options):
    drawn, check = PROPERTIES[operator]
    settings(max_examples=examples, deadline=None, database=None, **options)(given(drawn)(check))()


@pytest.mark.parametrize("operator", PROPERTIES)
def test_any_shape(operator):
    hold(operator, 8, derandomize=True)


@pytest.mark.long
@pytest.mark.parametrize("operator", PROPERTIES)
def test_many_shapes(operator):
    hold(operator, 150)
