"""AutoAugment against torchvision's, image by image: its policies, every operation, and whole sub-policies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from mixfast.data.autoaugment import AutoAugment
from mixfast.data.policies import POLICIES, SIGNED
from mixfast.data.policy_operations import Operation

CPU = torch.device("cpu")
TORCHVISION = {
    "cifar": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "imagenet": v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
}
OUR_NAME = {
    **{name: name.lower() for name in ("Rotate", "Brightness", "Color", "Contrast", "Sharpness", "Posterize")},
    **{name: name.lower() for name in ("Solarize", "AutoContrast", "Equalize", "Invert")},
    **{"ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x", "TranslateY": "translate_y"},
}
THEIR_NAME = {ours: theirs for theirs, ours in OUR_NAME.items()}
# Operations that add two products, in which devices and vector units round differently.
BLENDS = {"color", "contrast", "sharpness"}
OPERATIONS = [
    pytest.param(policy, operation, id=f"{policy}-{operation.name}-{operation.magnitude}-{operation.sign:+}")
    for policy in POLICIES
    for operation in AutoAugment(policy, (8, 8), CPU).operations[1:]
]


def random_images(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Noise of a different range for each image and channel; some are of one value."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 256, (2, *shape[:2], 1, 1)), axis=0)
    return torch.from_numpy(rng.integers(low, high + 1, shape).astype(np.uint8)).to(device)


def torchvision_operation(image: Tensor, operation: Operation) -> Tensor:
    """One operation on one image by torchvision's own transform, at the magnitude that it gives that step."""
    if operation.name == "none":
        return image
    transform, name = TORCHVISION["cifar"], THEIR_NAME[operation.name]
    magnitudes_of, signed = transform._AUGMENTATION_SPACE[name]
    assert signed == (operation.name in SIGNED)
    magnitudes = magnitudes_of(10, *image.shape[-2:])
    magnitude = 0.0 if magnitudes is None else operation.sign * float(magnitudes[operation.magnitude])
    return transform._apply_image_or_video_transform(
        image, name, magnitude, interpolation=transform.interpolation, fill=transform._fill
    )


def torchvision_chain(image: Tensor, operations: list[Operation]) -> Tensor:
    for operation in operations:
        image = torchvision_operation(image, operation)
    return image


def assert_pixels(actual: Tensor, expected: Tensor, is_blend: bool) -> None:
    assert actual.shape == expected.shape and actual.dtype == torch.uint8
    difference = (actual.cpu().int() - expected.int()).abs()
    assert difference.max() <= (1 if is_blend else 0)
    assert (difference > 0).double().mean() < 0.03


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_torchvisions(policy: str) -> None:
    theirs = [
        tuple((OUR_NAME[name], probability, magnitude) for name, probability, magnitude in sub_policy)
        for sub_policy in TORCHVISION[policy]._policies
    ]
    assert [tuple(map(tuple, sub_policy)) for sub_policy in POLICIES[policy]] == theirs
    assert len(theirs) == 25


@pytest.mark.parametrize(("policy", "operation"), OPERATIONS)
def test_every_operation_equals_torchvisions(policy: str, operation: Operation) -> None:
    """To the bit; but blends within one grey level, in few pixels, where the machine's arithmetic is another."""
    for shape in ((3, 32, 32), (1, 32, 32), (3, 33, 20), (1, 9, 64)):
        augment = AutoAugment(policy, shape[1:], CPU)
        images = random_images(24, *shape)
        images[0] = 93
        codes = np.full((1, 24), augment.operations.index(operation))
        expected = torch.stack([torchvision_operation(image, operation) for image in images])
        assert_pixels(augment.apply(images, codes), expected, operation.name in BLENDS)
        assert not torch.equal(expected, images) or operation.name == "color" or operation.magnitude == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_operation_on_a_gpu_equals_the_cpu(policy: str) -> None:
    images = random_images(24, 3, 33, 20)
    there, here = (AutoAugment(policy, (33, 20), device) for device in ("cuda", "cpu"))
    for code, operation in enumerate(here.operations):
        codes = np.full((1, 24), code)
        assert_pixels(there.apply(images.cuda(), codes), here.apply(images, codes), operation.name in BLENDS)


def forced(values: list[float]) -> Callable[..., Tensor]:
    """A stand-in for torch.rand that gives these numbers one after the other."""
    remaining = iter(values)
    return lambda size: torch.tensor(next(remaining))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("number", range(25))
def test_every_sub_policy_runs_as_torchvision_runs_it(policy: str, number: int, monkeypatch) -> None:
    """torchvision's own transform, forced to draw a sub-policy, which of its operations to apply, and directions."""
    images = random_images(4, 3, 19, 22, seed=number)
    augment = AutoAugment(policy, (19, 22), CPU)
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor(number))
    for applied in ((True, True), (True, False), (False, True), (False, False)):
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            coins, operations = [], []
            for choice, is_applied, sign in zip(POLICIES[policy][number], applied, signs, strict=True):
                is_signed = choice.name in SIGNED
                coins += [
                    0.0 if is_applied else 2.0,
                    *([0.75 if sign > 0 else 0.25] if is_applied and is_signed else []),
                ]
                operation = Operation(choice.name, choice.magnitude, sign if is_signed else 1)
                operations.append(operation if is_applied else augment.operations[0])
            expected = []
            for image in images:
                with monkeypatch.context() as patch:
                    patch.setattr(torch, "rand", forced(coins))
                    expected.append(TORCHVISION[policy](image))
            codes = np.tile([[augment.operations.index(operation)] for operation in operations], 4)
            actual = augment.apply(images, codes)
            # What follows a blend may amplify a level's difference, so there only nearly all pixels are compared.
            different = (actual != torch.stack(expected)).double().mean().item()
            assert different <= (0.05 if BLENDS & {operation.name for operation in operations} else 0)


def code_of(augment: AutoAugment, choice, sign: int) -> int:
    return augment.operations.index(Operation(choice.name, choice.magnitude, sign if choice.name in SIGNED else 1))


@pytest.mark.parametrize("policy", POLICIES)
def test_pairs_of_operations_are_drawn_with_the_policys_probabilities(policy: str) -> None:
    augment, batch = AutoAugment(policy, (8, 8), CPU), 200_000
    expected: Counter[tuple[int, int]] = Counter()
    for first, second in POLICIES[policy]:
        for sign, other_sign in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            for code, p in ((code_of(augment, first, sign), first.probability), (0, 1 - first.probability)):
                for other, q in (
                    (code_of(augment, second, other_sign), second.probability),
                    (0, 1 - second.probability),
                ):
                    expected[code, other] += p * q / 100
    assert math.isclose(sum(expected.values()), 1)
    codes = augment.draw(batch, np.random.default_rng(0))
    assert codes.shape == (2, batch)
    drawn = Counter(zip(*codes.tolist(), strict=True))
    possible = sorted(pair for pair, p in expected.items() if p > 0)
    assert set(drawn) <= set(possible)
    counts = np.array([drawn[pair] for pair in possible])
    assert stats.chisquare(counts, batch * np.array([expected[pair] for pair in possible])).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(sorted(POLICIES)),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    batch=st.integers(0, 12),
    seed=st.integers(0, 10_000),
)
def test_any_shape_equals_torchvision(
    policy: str, channels: int, height: int, width: int, batch: int, seed: int
) -> None:
    images = random_images(batch, channels, height, width, seed=seed)
    augment = AutoAugment(policy, (height, width), CPU)
    codes = augment.draw(batch, np.random.default_rng(seed))
    actual = augment(images, host_rng=np.random.default_rng(seed))
    assert actual.shape == images.shape and actual.dtype == torch.uint8
    for b in range(batch):
        operations = [augment.operations[code] for code in codes[:, b]]
        expected = torchvision_chain(images[b], operations)
        if not BLENDS & {operation.name for operation in operations}:
            assert torch.equal(actual[b], expected), operations
        elif operations[1].name == "none":
            assert (actual[b].int() - expected.int()).abs().max() <= 1, operations


def test_what_moves_out_leaves_black() -> None:
    augment = AutoAugment("cifar", (32, 32), CPU)
    white = torch.full((1, 1, 32, 32), 255, dtype=torch.uint8)
    code = augment.operations.index(Operation("translate_x", 9, 1))
    expected = white.clone()
    expected[..., :14] = 0  # 150 / 331 of 32 pixels are 14.5
    assert torch.equal(augment.apply(white, np.array([[code]])), expected)


def test_result_depends_on_nothing_but_images_and_generator() -> None:
    images = random_images(16, 3, 16, 16)

    def call(seed: int) -> Tensor:
        return AutoAugment("cifar", (16, 16), CPU)(images, host_rng=np.random.default_rng(seed))

    assert torch.equal(call(1), call(1))
    assert not torch.equal(call(1), call(2))


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    images, augment = random_images(12, 3, 16, 16), AutoAugment("imagenet", (16, 16), CPU)
    codes = augment.draw(12, np.random.default_rng(0))
    together = augment.apply(images, codes)
    for b in range(12):
        assert torch.equal(augment.apply(images[b : b + 1], codes[:, b : b + 1])[0], together[b])


def test_layout_of_the_input_does_not_matter_and_it_is_left_alone() -> None:
    images, augment = random_images(16, 3, 14, 10), AutoAugment("cifar", (14, 10), CPU)
    codes = augment.draw(16, np.random.default_rng(0))
    codes[:, 0] = 0
    expected = augment.apply(images, codes)
    strided = random_images(32, 3, 14, 20)
    strided[::2, :, :, ::2] = images
    for variant in (images.contiguous(memory_format=torch.channels_last), strided[::2, :, :, ::2]):
        before = variant.clone()
        actual = augment.apply(variant, codes)
        assert torch.equal(actual, expected)
        actual.zero_()
        assert torch.equal(variant, before)
    one = images[:1].expand(16, -1, -1, -1)
    assert torch.equal(augment.apply(one, codes), augment.apply(one.clone(), codes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
def test_host_never_waits_for_the_device() -> None:
    images, augment = random_images(256, 3, 32, 32, device="cuda"), AutoAugment("cifar", (32, 32), "cuda")
    rng = np.random.default_rng(0)
    augment(images, host_rng=rng)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images, host_rng=rng)
    finally:
        torch.cuda.set_sync_debug_mode("default")


IMAGES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "host_rng", "error", "message"),
    [
        (np.zeros((2, 3, 8, 8)), None, TypeError, "images must be a torch.Tensor, got ndarray"),
        (IMAGES.float(), None, TypeError, r"images must be uint8 \(AutoAugment .*got torch.float32"),
        (IMAGES[0], None, ValueError, r"images must have shape \[B, c, H, W\].*got \(3, 8, 8\)"),
        (IMAGES[:, :2], None, ValueError, r"images must have shape \[B, 1 or 3, 8, 8\], got \(2, 2, 8, 8\)"),
        (IMAGES[..., :7], None, ValueError, r"images must have shape \[B, 1 or 3, 8, 8\], got \(2, 3, 8, 7\)"),
        (IMAGES.to("meta"), None, ValueError, "images must be on cpu, where the tables are, got meta"),
        (IMAGES, 0, TypeError, "host_rng must be a numpy.random.Generator, got int"),
    ],
)
def test_errors_name_the_argument_and_come_before_any_draw(images, host_rng, error, message) -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with pytest.raises(error, match=message):
        AutoAugment("cifar", (8, 8), CPU)(images, host_rng=rng if host_rng is None else host_rng)
    assert rng.bit_generator.state == before


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="policy must be one of cifar, imagenet, got 'svhn'"):
        AutoAugment("svhn", (8, 8), CPU)
    with pytest.raises(ValueError, match=r"size must be \(height, width\), both at least 1, got \(0, 8\)"):
        AutoAugment("cifar", (0, 8), CPU)
    with pytest.raises(ValueError, match=r"codes must have shape \[D, 2\], as images has, got \(2, 3\)"):
        AutoAugment("cifar", (8, 8), CPU).apply(IMAGES, np.zeros((2, 3), dtype=np.int64))
