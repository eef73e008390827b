"""Every operator: values and gradients against ``naive``, and its behaviour under torch's machinery."""

from __future__ import annotations

import functools

import mixfast_kernels as mk
import naive
import numpy as np
import pytest
import torch
from drawing import draw_mixing
from mixfast_kernels import Mixing
from torch.utils.flop_counter import FlopCounterMode

DOUBLE = torch.float64


def randn(*shape, seed=1, dtype=DOUBLE, grad=True):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return values.to(dtype).requires_grad_(grad)


def randint(high, *shape, seed=2):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def with_gradients(mixing):
    return mixing.inside.requires_grad_(), mixing.outside.requires_grad_()


class Encode:
    """mask_mix_encode on a small case: ``call`` takes the differentiable tensors, in their order."""

    def __init__(self, zone="box", inputs=2, encoders=None, stride=1, padding=1, kernel=3, extras=True, dtype=DOUBLE):
        self.unique, self.batch, self.stride, self.padding = 4, 3, stride, padding
        grid = tuple((side + 2 * padding - kernel) // stride + 1 for side in (5, 6))
        self.mixing = draw_mixing(zone, self.batch, inputs, grid, dtype=torch.float32 if dtype != DOUBLE else DOUBLE)
        encoders = encoders or inputs
        self.index = randint(self.unique, self.batch, inputs)
        images = randn(self.unique, 2, 5, 6, seed=3, dtype=dtype)
        weight = randn(encoders, 3, 2, kernel, kernel, seed=4, dtype=dtype)
        bias = randn(encoders, 3, seed=5, dtype=dtype) if extras else None
        position = randn(3, *grid, seed=6, dtype=dtype) if extras else None
        self.statistics = {"mean": (0.3, 0.6), "std": (0.2, 0.4)} if extras else {}
        self.inputs = (images, weight, *with_gradients(self.mixing), bias, position)

    def call(self, images, weight, inside, outside, bias, position):
        mixing = Mixing(inside, outside, self.mixing.grid, self.mixing.box, self.mixing.bitmap)
        return mk.mask_mix_encode(
            images, weight, mixing, index=self.index, bias=bias, position=position, stride=self.stride,
            padding=self.padding, scale=1.5, **self.statistics,
        )  # fmt: skip

    def expected(self):
        images, weight, inside, outside, bias, position = (
            None if value is None else value.detach().double().numpy() for value in self.inputs
        )
        if self.statistics:
            mean, std = (np.asarray(self.statistics[key])[:, None, None] for key in ("mean", "std"))
            images = (images - mean) / std
        mixing = self.mixing
        weights = naive.zone_weights(inside, outside, mixing.grid, mixing.box, mixing.bitmap)
        return naive.mask_mix_encode(
            images, weight, weights, self.index.numpy(), bias, position, self.stride, self.padding, 1.5
        )


class Pool:
    def __init__(self, zone="box", inputs=2, channels=None, affine=True, fade=0.0, dtype=DOUBLE):
        self.mixing = draw_mixing(zone, 3, inputs, (3, 4), dtype=torch.float32 if dtype != DOUBLE else DOUBLE)
        self.channels, self.fade = channels, fade
        scale, shift = (randn(5, seed=4, dtype=dtype), randn(5, seed=5, dtype=dtype)) if affine else (None, None)
        self.inputs = (randn(3, 5, 3, 4, seed=3, dtype=dtype), *with_gradients(self.mixing), scale, shift)

    def call(self, features, inside, outside, scale, shift):
        mixing = Mixing(inside, outside, self.mixing.grid, self.mixing.box, self.mixing.bitmap)
        affine = None if scale is None else (scale, shift)
        return mk.unmix_pool(features, mixing, fade=self.fade, channels=self.channels, affine=affine)

    def expected(self):
        features, inside, outside, scale, shift = (
            None if value is None else value.detach().double().numpy() for value in self.inputs
        )
        weights = naive.zone_weights(inside, outside, self.mixing.grid, self.mixing.box, self.mixing.bitmap)
        affine = None if scale is None else (scale, shift)
        channels = features.shape[1] if self.channels is None else self.channels
        return naive.unmix_pool(features, weights, self.fade, channels, affine)


class Attribute:
    def __init__(self, zone="box", inputs=2, encoding=True, dtype=DOUBLE):
        self.mixing = draw_mixing(zone, 3, inputs, (2, 3), dtype=torch.float32 if dtype != DOUBLE else DOUBLE)
        weight = randn(inputs, 4, 4, seed=5, dtype=dtype) if encoding else None
        tokens, bias = randn(3, 6, 4, seed=3, dtype=dtype), randn(inputs, 4, seed=4, dtype=dtype)
        self.inputs = (tokens, *with_gradients(self.mixing), bias, weight)

    def call(self, tokens, inside, outside, bias, weight):
        mixing = Mixing(inside, outside, self.mixing.grid, self.mixing.box, self.mixing.bitmap)
        return mk.source_attribution(tokens, mixing, bias, weight)

    def expected(self):
        tokens, inside, outside, bias, weight = (
            None if value is None else value.detach().double().numpy() for value in self.inputs
        )
        weights = naive.zone_weights(inside, outside, self.mixing.grid, self.mixing.box, self.mixing.bitmap)
        return naive.source_attribution(tokens, weights, bias, weight)


class Loss:
    def __init__(self, inputs=2, two_labels=True, smoothing=0.1, dtype=DOUBLE):
        self.target, self.smoothing = randint(5, 3, inputs), smoothing
        self.other = randint(5, 3, inputs, seed=7) if two_labels else None
        share = randn(3, inputs, seed=5, grad=False).sigmoid().requires_grad_() if two_labels else None
        weight = randn(3, inputs, seed=4, grad=False).exp().requires_grad_()
        self.inputs = (randn(3, inputs, 5, seed=3, dtype=dtype), weight, share)

    def call(self, logits, weight, share):
        return mk.mixed_cross_entropy(
            logits, self.target, weight, other=self.other, share=share, smoothing=self.smoothing
        )

    def expected(self):
        logits, weight, share = (None if v is None else v.detach().double().numpy() for v in self.inputs)
        other = None if self.other is None else self.other.numpy()
        return naive.mixed_cross_entropy(logits, self.target.numpy(), weight, other, share, self.smoothing)


ZONES = ("none", "box", "bitmap", "coverage")
CASES = {
    **{f"encode-{zone}": functools.partial(Encode, zone) for zone in ZONES},
    **{f"encode-M{m}": functools.partial(Encode, inputs=m) for m in (1, 3, 4)},
    "encode-shared": functools.partial(Encode, encoders=1),
    "encode-stride": functools.partial(Encode, stride=2),
    "encode-patch": functools.partial(Encode, kernel=2, stride=2, padding=0),
    "encode-bare": functools.partial(Encode, extras=False),
    **{f"pool-{zone}": functools.partial(Pool, zone) for zone in ZONES},
    **{f"pool-M{m}": functools.partial(Pool, inputs=m) for m in (1, 3, 4)},
    "pool-plain": functools.partial(Pool, affine=False),
    "pool-partial": functools.partial(Pool, channels=2),
    "pool-none": functools.partial(Pool, channels=0, affine=False),
    "pool-fade": functools.partial(Pool, fade=0.3),
    **{f"attribute-{zone}": functools.partial(Attribute, zone) for zone in ZONES},
    **{f"attribute-M{m}": functools.partial(Attribute, inputs=m) for m in (1, 3, 4)},
    "attribute-embedding": functools.partial(Attribute, encoding=False),
    "loss": Loss,
    "loss-one-label": functools.partial(Loss, two_labels=False),
    "loss-hard": functools.partial(Loss, two_labels=False, smoothing=0.0),
    "loss-M3": functools.partial(Loss, inputs=3),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def present(case):
    """The case's function of the tensors it has, and those tensors."""
    held = [position for position, value in enumerate(case.inputs) if value is not None]

    def function(*tensors):
        arguments = [None] * len(case.inputs)
        for position, tensor in zip(held, tensors, strict=True):
            arguments[position] = tensor
        return case.call(*arguments)

    return function, tuple(case.inputs[position] for position in held)


def test_values_are_those_of_the_naive_form(case):
    np.testing.assert_allclose(case.call(*case.inputs).detach(), case.expected(), rtol=1e-10, atol=1e-10)


def test_gradients_and_their_gradients_are_those_of_finite_differences(case):
    function, tensors = present(case)
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("name", ["encode-box", "pool-bitmap", "attribute-box", "loss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_within_twice_the_rounding_of_its_inputs(name, dtype):
    """The bar: no more error against the exact result of the rounded inputs than a few roundings of the result."""
    options = {"dtype": dtype}
    case = {"encode-box": Encode, "pool-bitmap": Pool, "attribute-box": Attribute, "loss": Loss}[name](**options)
    result = case.call(*case.inputs)
    expected = torch.as_tensor(case.expected())
    scale = expected.abs().max()
    assert (result.detach().double() - expected).abs().max() <= 8 * torch.finfo(dtype).eps * scale
    result.sum().backward()
    assert all(value.grad.dtype == value.dtype for value in case.inputs if value is not None)


def test_compiles_into_one_graph_with_the_same_values_and_gradients(case):
    function, tensors = present(case)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    cotangent = torch.randn_like(function(*tensors))
    expected = torch.autograd.grad(function(*tensors), tensors, cotangent)
    torch.testing.assert_close(compiled(*tensors), function(*tensors))
    torch.testing.assert_close(torch.autograd.grad(compiled(*tensors), tensors, cotangent), expected)


@pytest.mark.parametrize("name", ["encode-box", "encode-bare", "pool-box", "pool-plain", "attribute-box", "loss"])
def test_opcheck(name, monkeypatch):
    """torch's own checks of schema, fake implementation and autograd registration, on the calls a case makes."""
    case = CASES[name]()
    for overload, arguments in recorded_calls(case):
        torch.library.opcheck(overload, arguments)


def recorded_calls(case):
    """The package's operators that a forward and backward pass of the case call, with their arguments."""
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == "mixfast":
                calls.append((func, tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args)))
            return func(*args, **(kwargs or {}))

    function, tensors = present(case)
    with Recorder():
        function(*tensors).sum().backward()
    assert len(calls) == 2
    return calls


@pytest.mark.parametrize("name", ["encode-box", "pool-box", "attribute-box", "loss"])
def test_vmap_equals_a_loop(name):
    function, tensors = present(CASES[name]())
    stacked = torch.stack([tensors[0].detach(), 2 * tensors[0].detach()])
    rest = tuple(tensor.detach() for tensor in tensors[1:])
    result = torch.vmap(lambda first: function(first, *rest))(stacked)
    torch.testing.assert_close(result, torch.stack([function(first, *rest) for first in stacked]))


@pytest.mark.parametrize("name", ["encode-box", "pool-box", "attribute-box", "loss"])
def test_strided_and_expanded_inputs_and_gradients(name):
    function, tensors = present(CASES[name]())
    expected = function(*tensors)
    strided = tuple(torch.stack((t.detach(), t.detach()), -1)[..., 0].requires_grad_() for t in tensors)
    result = function(*strided)
    torch.testing.assert_close(result, expected)
    expanded = torch.ones((), dtype=result.dtype).expand_as(result)
    contiguous = expanded.contiguous()
    for got, want in zip(
        torch.autograd.grad(result, strided, expanded), torch.autograd.grad(expected, tensors, contiguous), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_autocast_computes_in_its_dtype_and_the_loss_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        encode, pool, attribute, loss = (kind(dtype=torch.float32) for kind in (Encode, Pool, Attribute, Loss))
        assert encode.call(*encode.inputs).dtype == torch.bfloat16
        assert attribute.call(*attribute.inputs).dtype == torch.bfloat16
        assert pool.call(*pool.inputs).dtype == torch.float32
        low = loss.inputs[0].detach().bfloat16()
        result = mk.mixed_cross_entropy(low, loss.target, loss.inputs[1].detach().float())
    assert result.dtype == torch.float32
    expected = naive.mixed_cross_entropy(
        low.double().numpy(), loss.target.numpy(), loss.inputs[1].detach().numpy(), None, None, 0.0
    )
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-5)


def test_empty_batches():
    none = Mixing(torch.empty(0, 2), torch.empty(0, 2), (4, 4))
    weight = torch.randn(2, 3, 2, 3, 3, requires_grad=True)
    encoded = mk.mask_mix_encode(torch.empty(0, 2, 4, 4), weight, none)
    pooled = mk.unmix_pool(encoded, none)
    bias = torch.randn(2, 3, requires_grad=True)
    tokens = mk.source_attribution(encoded.flatten(2).transpose(1, 2), none, bias)
    loss = mk.mixed_cross_entropy(pooled, torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 2))
    (loss + tokens.sum()).backward()
    assert encoded.shape == (0, 3, 4, 4) and pooled.shape == (0, 2, 3) and tokens.shape == (0, 16, 3)
    assert loss == 0 and weight.grad.abs().sum() == 0 and bias.grad.abs().sum() == 0


def test_encoding_output_is_channels_last_and_uint8_images_are_normalised():
    images = randint(256, 3, 2, 5, 5).to(torch.uint8)
    weight = torch.randn(1, 4, 2, 3, 3, dtype=DOUBLE)
    mixing = Mixing(torch.ones(3, 1, dtype=DOUBLE), torch.ones(3, 1, dtype=DOUBLE), (5, 5))
    mean, std = (0.4, 0.5), (0.25, 0.2)
    result = mk.mask_mix_encode(images, weight, mixing, mean=mean, std=torch.tensor(std, dtype=DOUBLE))
    assert result.is_contiguous(memory_format=torch.channels_last)
    normalised = (images.double() / 255 - torch.tensor(mean)[:, None, None].double()) / torch.tensor(std).double()[
        :, None, None
    ]
    torch.testing.assert_close(
        result, torch.nn.functional.conv2d(normalised, weight[0], padding=1), rtol=1e-6, atol=1e-6
    )


def test_pooling_resamples_a_mix_from_another_grid(mixing_of):
    mixing, features = mixing_of("box", 2, 2, (8, 6)), torch.randn(2, 3, 4, 3)
    torch.testing.assert_close(mk.unmix_pool(features, mixing), mk.unmix_pool(features, mixing.resized((4, 3))))


def test_flops_count_the_multiply_adds():
    case = Encode(dtype=torch.float32)
    function, tensors = present(case)
    counter = FlopCounterMode(display=False)
    with counter:
        function(*(tensor.detach() for tensor in tensors))
    batch, inputs, out_channels, taps, positions = 3, 2, 3, 2 * 9, 30
    assert counter.get_total_flops() == 2 * batch * inputs * out_channels * taps * positions


def flops_of_both_passes(function, *tensors):
    """Of the forward and of the backward pass."""
    with FlopCounterMode(display=False) as forward:
        result = function(*tensors)
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("zones", [False, True])
def test_flops_of_unmixing_are_those_of_the_unmixed_channels(zones):
    mixing = draw_mixing("box", 3, 2, (4, 5))
    mixing.inside.requires_grad_(zones)
    forward, backward = flops_of_both_passes(lambda x: mk.unmix_pool(x, mixing, channels=6), randn(3, 8, 4, 5))
    assert forward == 2 * 3 * 2 * 6 * 20
    assert backward == (1 + zones) * forward


@pytest.mark.parametrize("zones", [False, True])
def test_flops_of_source_attribution_count_each_gradient_once(zones):
    batch, inputs, width, mixing = 3, 2, 5, draw_mixing("bitmap", 3, 2, (2, 3))
    mixing.inside.requires_grad_(zones)
    tokens, bias, weight = randn(batch, 6, width), randn(inputs, width), randn(inputs, width, width)
    once = 2 * batch * 6 * inputs * width
    embedding = flops_of_both_passes(lambda t, b: mk.source_attribution(t, mixing, b), tokens, bias)
    # The tokens' gradient is the gradient itself.
    assert embedding == (once, (1 + zones) * once)
    encoding = flops_of_both_passes(lambda t, b, w: mk.source_attribution(t, mixing, b, w), tokens, bias, weight)
    assert encoding == (width * once, (2 + zones) * width * once)


@pytest.mark.parametrize("sources", [1, 2, 3])
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("pad", "out_size"), [(2, (6, 5)), (0, (6, 5)), (1, (4, 7)), (0, (3, 2))])
def test_augment_is_that_of_the_naive_form(sources, zone, pad, out_size):
    images = randint(256, 5, 3, 6, 5).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    batch = 4
    index = randint(5, batch, sources, seed=3)
    crop = torch.stack(
        [randint(side + 2 * pad - out + 1, batch, sources, seed=4) for side, out in zip((6, 5), out_size, strict=True)],
        -1,
    )
    flip = randint(2, batch, sources, seed=5).bool()
    mixing = draw_mixing(zone, batch, sources, out_size) if sources > 1 else None
    mean, std = (0.2, 0.4, 0.6), (0.3, 0.2, 0.1)
    result = mk.augment(
        images, index=index, crop=crop, flip=flip, pad=pad, mixing=mixing, mean=mean, std=std, out_size=out_size
    )
    weights = None
    if mixing is not None:
        weights = naive.zone_weights(mixing.inside, mixing.outside, out_size, mixing.box, mixing.bitmap)[:, :, None]
    arrays = (value.numpy() for value in (images, index, crop, flip))
    expected = naive.augment(*arrays, pad, weights, mean, std, out_size)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_augment_defaults_give_the_images_back_exactly():
    images = randint(256, 4, 3, 5, 6).to(torch.uint8)
    torch.testing.assert_close(mk.augment(images, dtype=torch.uint8), images)
    torch.testing.assert_close(mk.augment(images, dtype=DOUBLE), images.double() / 255)
    cropped = mk.augment(images, out_size=(3, 4), dtype=torch.uint8)
    torch.testing.assert_close(cropped, images[:, :, 1:4, 1:5].contiguous(memory_format=torch.channels_last))


def test_augment_of_an_empty_batch_and_opcheck():
    images = randint(256, 4, 1, 5, 6).to(torch.uint8)
    assert mk.augment(images, index=torch.empty(0, dtype=torch.int64)).shape == (0, 1, 5, 6)
    crop = torch.zeros(4, 1, 2, dtype=torch.int64)
    arguments = (images, torch.arange(4)[:, None], crop, None, None, None, None, None, 0, None, None)
    torch.library.opcheck(torch.ops.mixfast.augment.default, (*arguments, torch.float32, [5, 6]))


MIX = draw_mixing("box", 3, 2, (4, 4))
IMAGES, KERNEL = torch.randn(3, 2, 4, 4), torch.randn(2, 5, 2, 3, 3)
PIXELS = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
LOGITS, LABELS, WEIGHTS = torch.randn(3, 2, 5), torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mk.mask_mix_encode(IMAGES[0], KERNEL, MIX), ValueError, "images"),
        (lambda: mk.mask_mix_encode(IMAGES.int(), KERNEL, MIX), TypeError, "images"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL[:, :, :1], MIX), ValueError, "weight"),
        (lambda: mk.mask_mix_encode(IMAGES, torch.randn(3, 5, 2, 3, 3), MIX), ValueError, "encoders"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL, MIX, padding=0), ValueError, "grid"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL, MIX, stride=0), ValueError, "stride"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL, (1, 2)), TypeError, "mixing"),
        (lambda: mk.mask_mix_encode(IMAGES[:2], KERNEL, MIX), ValueError, "without index"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL, MIX, index=LABELS.int()), TypeError, "index"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL, MIX, bias=torch.ones(5)), ValueError, "bias"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL, MIX, mean=(0, 0)), ValueError, "together"),
        (lambda: mk.mask_mix_encode(IMAGES, KERNEL, MIX, mean=(0, 0), std=(1, 0)), ValueError, "std"),
        (lambda: mk.unmix_pool(IMAGES.long(), MIX), TypeError, "features"),
        (lambda: mk.unmix_pool(IMAGES[:1], MIX), ValueError, "mixing"),
        (lambda: mk.unmix_pool(IMAGES, MIX, channels=3), ValueError, "channels"),
        (lambda: mk.unmix_pool(IMAGES, MIX, fade=1.5), ValueError, "fade"),
        (lambda: mk.unmix_pool(IMAGES, MIX, affine=(torch.ones(2), torch.ones(3))), ValueError, r"affine\[1\]"),
        (lambda: mk.unmix_pool(IMAGES, MIX.to("meta")), ValueError, "mixing must be on cpu"),
        (lambda: mk.source_attribution(torch.randn(3, 15, 2), MIX, torch.randn(2, 2)), ValueError, "as many positions"),
        (lambda: mk.source_attribution(torch.randn(3, 16, 2), MIX, torch.randn(3, 2)), ValueError, "bias"),
        (lambda: mk.source_attribution(torch.randn(3, 16, 2), MIX, torch.randn(2, 2), torch.ones(2)), ValueError, "weight"),
        (lambda: mk.mixed_cross_entropy(LOGITS, LABELS.int(), WEIGHTS), TypeError, "target"),
        (lambda: mk.mixed_cross_entropy(LOGITS, LABELS, WEIGHTS[:2]), ValueError, "weight"),
        (lambda: mk.mixed_cross_entropy(LOGITS, LABELS, WEIGHTS, other=LABELS), ValueError, "together"),
        (lambda: mk.mixed_cross_entropy(LOGITS, LABELS, WEIGHTS, smoothing=-0.1), ValueError, "smoothing"),
        (lambda: mk.augment(IMAGES), TypeError, "images"),
        (lambda: mk.augment(PIXELS, out_size=(9, 9)), ValueError, "out_size"),
        (lambda: mk.augment(PIXELS, dtype=torch.int32), TypeError, "dtype"),
        (lambda: mk.augment(PIXELS, mean=(0,), std=(1,), dtype=torch.uint8), ValueError, "mean"),
        (lambda: mk.augment(PIXELS, index=torch.zeros(3, 2, dtype=torch.int64)), ValueError, "sources"),
        (lambda: mk.augment(PIXELS, mixing=MIX), ValueError, "mixing must have 1 inputs"),
        (lambda: mk.augment(PIXELS, flip=torch.zeros(2, dtype=torch.bool)), ValueError, "flip"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_augment_refuses_a_mix_that_requires_gradients():
    mixing = Mixing(torch.ones(3, 1, requires_grad=True), torch.ones(3, 1), (4, 4))
    with pytest.raises(ValueError, match="no gradient"):
        mk.augment(PIXELS, mixing=mixing)
