"""AugMix against PIL, image by image and operation by operation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from PIL import Image, ImageOps
from scipy import stats
from torch import Tensor

from mixfast.data.augmix import OPERATIONS, AugMixDraws, apply_augmix, augmix, draw_augmix

MEAN, STD = (0.49, 0.48, 0.45), (0.2, 0.25, 0.3)
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
# Operations whose 8-bit result does not depend on how the arithmetic rounds.
EXACT = ("equalize", "posterize", "solarize", "translate_x", "translate_y")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def pil_operation(image: Image.Image, name: str, level: float, sign: int) -> Image.Image:
    """One operation on one 8-bit grey image, by the rules of the published AugMix code."""
    width, height = image.size

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)

    match name:
        case "equalize":
            return ImageOps.equalize(image)
        case "posterize":
            return ImageOps.posterize(image, 4 - int(4 * level / 10))
        case "solarize":
            return ImageOps.solarize(image, 256 - int(256 * level / 10))
        case "rotate":
            return image.rotate(sign * int(30 * level / 10), resample=Image.Resampling.BILINEAR)
        case "shear_x":
            return affine(1, sign * 0.3 * level / 10, 0, 0, 1, 0)
        case "shear_y":
            return affine(1, 0, 0, sign * 0.3 * level / 10, 1, 0)
        case "translate_x":
            return affine(1, 0, sign * int(width / 3 * level / 10), 0, 1, 0)
        case "translate_y":
            return affine(1, 0, 0, 0, 1, sign * int(height / 3 * level / 10))
    raise AssertionError(name)


def reference_chain(image_cHW: np.ndarray, codes: ArrayLike, levels: ArrayLike, signs: ArrayLike) -> np.ndarray:
    channels = [Image.fromarray(channel) for channel in image_cHW]
    for code, level, sign in zip(codes, levels, signs, strict=True):
        channels = [pil_operation(channel, OPERATIONS[code], float(level), int(sign)) for channel in channels]
    return np.stack([np.asarray(channel) for channel in channels])


def reference_augmix(images: Tensor, draws: AugMixDraws, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """The formula of the module's docstring in float64, one image and one chain at a time, normalising first."""
    mean_c11, std_c11 = np.array(mean)[:, None, None], np.array(std)[:, None, None]
    results = []
    for b, image in enumerate(images.cpu().numpy()):
        mix = np.zeros(image.shape)
        for i, weight in enumerate(draws.weights[:, b].tolist()):
            parameters = (draws.operations, draws.levels.cpu().numpy(), draws.signs.cpu().numpy())
            chain = reference_chain(image, *(values[:, i, b] for values in parameters))
            mix += weight * (chain / 255 - mean_c11) / std_c11
        m = draws.strength[b].item()
        results.append((1 - m) * (image / 255 - mean_c11) / std_c11 + m * mix)
    return np.stack(results)


def random_images(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Noise of a different range for each image and channel, so that equalisation has something to do."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(0, 256, (2, *shape[:2], 1, 1)), axis=0)
    return torch.from_numpy(rng.integers(low, high + 1, shape).astype(np.uint8)).to(device)


def random_draws(
    batch: int, *, names: tuple[str, ...], severity: float = 3, seed: int = 0, device: str = "cpu"
) -> AugMixDraws:
    generator = torch.Generator(device).manual_seed(seed)
    rng = np.random.default_rng(seed)
    draws = draw_augmix(batch, severity=severity, width=3, depth=4, host_rng=rng, generator=generator)
    codes = np.array([OPERATIONS.index(name) for name in names])
    return replace(draws, operations=rng.choice(codes, draws.operations.shape))


def one_operation(name: str, levels: list[float], signs: list[int]) -> AugMixDraws:
    """Draws that apply `name` to every image and nothing else: the result is the operation's."""
    batch = len(levels)
    return AugMixDraws(
        operations=np.full((1, 1, batch), OPERATIONS.index(name)),
        levels=torch.tensor(levels).reshape(1, 1, batch),
        signs=torch.tensor(signs, dtype=torch.float32).reshape(1, 1, batch),
        weights=torch.ones(1, batch),
        strength=torch.ones(batch),
    )


def apply_to_pixels(images: Tensor, draws: AugMixDraws) -> np.ndarray:
    """The 8-bit pixels themselves, given draws of one chain with weight 1: mean 0 and std 1/255 normalise to 0..255."""
    channels = images.shape[1]
    pixels = apply_augmix(images, draws, mean=(0.0,) * channels, std=(1 / 255,) * channels).numpy()
    assert np.abs(pixels - pixels.round()).max() < 1e-3
    return pixels.round().astype(np.int64)


def call(images: Tensor, host_seed: int = 0, device_seed: int = 0, **changes: object) -> Tensor:
    arguments = {
        "host_rng": np.random.default_rng(host_seed),
        "generator": torch.Generator(images.device).manual_seed(device_seed),
        "mean": MEAN,
        "std": STD,
    }
    return augmix(images, **(arguments | changes))


@pytest.mark.parametrize("name", ["equalize", "posterize", "solarize"])
def test_pointwise_operations_equal_pil(name: str) -> None:
    levels = np.linspace(0.1, 9.99, 41, dtype=np.float32)  # every posterisation; Pillow refuses level 10's 0 bits
    images = random_images(len(levels), 3, 17, 23)
    images[0] = 77  # one value only: PIL leaves it as it is
    images[1, :, 1:] = 0  # too few values besides the last for a step
    expected = [
        reference_chain(image, [OPERATIONS.index(name)], [level], [1])
        for image, level in zip(images.numpy(), levels, strict=True)
    ]
    actual = apply_to_pixels(images, one_operation(name, levels.tolist(), [1] * len(levels)))
    np.testing.assert_array_equal(actual, np.stack(expected))


# Odd thousandths keep pixels from lying exactly on the border and amounts from lying exactly on a whole number, where
# float32 and float64 may decide differently.
LEVELS = st.integers(100, 9999).map(lambda n: float(np.float32(n / 1000 + 0.00037)))


@pytest.mark.parametrize("name", GEOMETRIC)
@settings(max_examples=25, deadline=None)
@given(
    level=LEVELS,
    sign=st.sampled_from([-1, 1]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_geometric_operations_follow_pil(
    name: str, level: float, sign: int, height: int, width: int, seed: int
) -> None:
    """All pixels, borders too, within one grey level: PIL interpolates in float64 and truncates, we in float32."""
    move = {"translate_x": width, "translate_y": height}.get(name, 0) / 30 * level
    assume(move < 0.5 or abs(move - round(move)) > 1e-4)
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, 1, height, width), dtype=np.uint8))
    actual = apply_to_pixels(images, one_operation(name, [level], [sign]))[0]
    expected = reference_chain(images[0].numpy(), [OPERATIONS.index(name)], [level], [sign])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0 if name.startswith("translate") else 1)


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y"])
def test_nearly_all_resampled_pixels_equal_pil(name: str) -> None:
    """Truncated, not rounded, which would differ in half of them; pixels of a whole level are float32's only doubt."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 1, 32, 32), dtype=np.uint8))
    levels, signs = np.linspace(0.4, 9.9, 40, dtype=np.float32).tolist(), [-1, 1] * 20
    expected = [
        reference_chain(image, [OPERATIONS.index(name)], [level], [sign])
        for image, level, sign in zip(images.numpy(), levels, signs, strict=True)
    ]
    different = apply_to_pixels(images, one_operation(name, levels, signs)) != np.stack(expected)
    assert different.mean() < 0.01


@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_whole_pixel_moves_are_exact_at_imagenet_size(name: str) -> None:
    images = random_images(2, 1, 224, 224)
    expected = [reference_chain(image, [OPERATIONS.index(name)], [3.1], [1]) for image in images.numpy()]
    np.testing.assert_array_equal(apply_to_pixels(images, one_operation(name, [3.1, 3.1], [1, 1])), np.stack(expected))


@pytest.mark.parametrize("name", GEOMETRIC)
def test_uncovered_pixels_are_black_and_covered_ones_are_not(name: str) -> None:
    white = torch.full((2, 1, 32, 32), 255, dtype=torch.uint8)
    pixels = apply_to_pixels(white, one_operation(name, [9.9, 9.9], [-1, 1]))
    for image, sign in zip(pixels, (-1, 1), strict=True):
        expected = reference_chain(white[0].numpy(), [OPERATIONS.index(name)], [9.9], [sign])
        assert set(np.unique(image)) == {0, 255}
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("severity", [3, 10])
def test_whole_pipeline_equals_the_naive_reference(severity: float, device: str) -> None:
    """Groups, order, weights and interpolation, with operations that leave no room for rounding."""
    images = random_images(40, 3, 20, 28, device=device)
    draws = random_draws(40, names=EXACT, severity=severity, device=device)
    actual = apply_augmix(images, draws, mean=MEAN, std=STD)
    np.testing.assert_allclose(actual.cpu().numpy(), reference_augmix(images, draws, MEAN, STD), atol=3e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_whole_pipeline_with_all_operations_is_close_to_the_naive_reference(device: str) -> None:
    """A resampling's off-by-one pixels may be amplified by what follows, so this is about nearly all pixels."""
    images = random_images(40, 3, 32, 32, device=device)
    draws = random_draws(40, names=OPERATIONS, device=device)
    actual = apply_augmix(images, draws, mean=MEAN, std=STD).cpu().numpy()
    difference = np.abs(actual - reference_augmix(images, draws, MEAN, STD))
    assert np.quantile(difference, 0.95) < 1e-5
    assert (difference > 0.02).mean() < 2e-3  # 0.02 is one grey level


def test_strength_zero_recovers_the_clean_image() -> None:
    images = random_images(8, 3, 16, 16)
    draws = random_draws(8, names=OPERATIONS, severity=10)
    actual = apply_augmix(images, replace(draws, strength=torch.zeros(8)), mean=MEAN, std=STD)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(actual.double(), (images.double() / 255 - mean) / std, atol=2e-6, rtol=0)


def test_result_depends_on_nothing_but_the_two_generators() -> None:
    images = random_images(16, 3, 16, 16)
    assert torch.equal(call(images, 1, 2), call(images, 1, 2))
    assert not torch.equal(call(images, 1, 2), call(images, 3, 2))
    assert not torch.equal(call(images, 1, 2), call(images, 1, 3))
    assert not torch.equal(call(images, 1, 2, severity=1), call(images, 1, 2))


def test_generators_divide_the_work() -> None:
    draws = random_draws(64, names=OPERATIONS, seed=5)
    other = draw_augmix(
        64, severity=3, width=3, depth=4, host_rng=np.random.default_rng(6), generator=torch.Generator().manual_seed(5)
    )
    assert not np.array_equal(draws.operations, other.operations)
    for name in ("levels", "signs", "weights", "strength"):
        assert torch.equal(getattr(draws, name), getattr(other, name))


def test_draws_have_the_published_distributions() -> None:
    width, batch = 3, 6000
    draws = draw_augmix(
        batch,
        severity=3,
        width=width,
        depth=4,
        host_rng=np.random.default_rng(0),
        generator=torch.Generator().manual_seed(0),
    )
    assert draws.operations.shape == draws.levels.shape == draws.signs.shape == (4, width, batch)
    levels, signs, m = (values.double().numpy().ravel() for values in (draws.levels, draws.signs, draws.strength))

    p_values = {
        "operations": stats.chisquare(np.bincount(draws.operations.ravel(), minlength=8)).pvalue,
        "levels": stats.kstest(levels, stats.uniform(0.1, 2.9).cdf).pvalue,
        "signs": stats.binomtest(int((signs > 0).sum()), signs.size).pvalue,
        "strength, Beta(1, 1)": stats.kstest(m, stats.beta(1, 1).cdf).pvalue,
    }
    for i, weights in enumerate(draws.weights.double().numpy()):
        # The marginal of Dirichlet(1, .., 1) of W numbers.
        p_values[f"weight {i}"] = stats.kstest(weights, stats.beta(1, width - 1).cdf).pvalue
    assert min(p_values.values()) > 1e-3, p_values
    assert set(np.unique(signs)) == {-1, 1}
    torch.testing.assert_close(draws.weights.sum(0), torch.ones(batch))
    # Of a uniform Dirichlet, any two weights correlate by -1 / (W - 1).
    assert math.isclose(np.corrcoef(draws.weights.numpy())[0, 1], -1 / (width - 1), abs_tol=0.05)


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (2, 5)])
def test_width_and_depth_are_honoured(width: int, depth: int) -> None:
    images = random_images(6, 3, 12, 12)
    draws = draw_augmix(
        6,
        severity=3,
        width=width,
        depth=depth,
        host_rng=np.random.default_rng(0),
        generator=torch.Generator().manual_seed(0),
    )
    actual = call(images, width=width, depth=depth)
    assert draws.operations.shape == (depth, width, 6)
    assert torch.equal(actual, apply_augmix(images, draws, mean=MEAN, std=STD))


def test_layout_of_the_input_does_not_matter_and_it_is_left_alone() -> None:
    images = random_images(5, 3, 14, 10)
    expected = call(images)
    strided = random_images(10, 3, 14, 20)
    strided[::2, :, :, ::2] = images
    for variant in (images.contiguous(memory_format=torch.channels_last), strided[::2, :, :, ::2]):
        before = variant.clone()
        assert torch.equal(call(variant), expected)
        assert torch.equal(variant, before)
    one = images[:1].expand(5, -1, -1, -1)
    assert torch.equal(call(one), call(one.clone()))
    assert expected.dtype == torch.float32
    assert expected.is_contiguous(memory_format=torch.channels_last)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    images = random_images(6, 3, 16, 16)
    draws = random_draws(6, names=OPERATIONS)
    together = apply_augmix(images, draws, mean=MEAN, std=STD)
    changed = images.clone()
    changed[1:] = 255 - changed[1:]
    torch.testing.assert_close(apply_augmix(changed, draws, mean=MEAN, std=STD)[0], together[0], atol=0, rtol=0)


def test_empty_batch() -> None:
    assert call(torch.empty(0, 3, 8, 8, dtype=torch.uint8)).shape == (0, 3, 8, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
def test_host_never_waits_for_the_device() -> None:
    images = random_images(64, 3, 32, 32, device="cuda")
    call(images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


IMAGES = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "changes", "error", "message"),
    [
        (np.zeros((2, 3, 4, 4)), {}, TypeError, "images must be a torch.Tensor, got ndarray"),
        (IMAGES.float(), {}, TypeError, "images must be uint8 .*got torch.float32"),
        (IMAGES[0], {}, ValueError, r"images must have shape \[B, c, H, W\].*got \(3, 4, 4\)"),
        (IMAGES[..., :0], {}, ValueError, r"at least one pixel, got \(2, 3, 4, 0\)"),
        (IMAGES, {"severity": 11}, ValueError, "severity must be between 0.1 and 10.0, got 11"),
        (IMAGES, {"severity": float("nan")}, ValueError, "severity .*got nan"),
        (IMAGES, {"severity": "3"}, TypeError, "severity must be a number, got str"),
        (IMAGES, {"width": 0}, ValueError, "width must be at least 1, got 0"),
        (IMAGES, {"depth": -1}, ValueError, "depth must be at least 1, got -1"),
        (IMAGES, {"depth": 1.5}, TypeError, "depth must be an int, got float"),
        (IMAGES, {"host_rng": 0}, TypeError, "host_rng must be a numpy.random.Generator, got int"),
        (IMAGES, {"generator": None}, TypeError, "generator must be a torch.Generator, got NoneType"),
        (
            IMAGES.to("meta"),
            {"generator": torch.Generator()},
            ValueError,
            "generator must be on the images' device meta",
        ),
        (IMAGES, {"mean": (0.5,)}, ValueError, "mean must have one number for each of the 3 channels, got 1"),
        (IMAGES, {"std": torch.ones(3)}, TypeError, "std must be a tuple or list of numbers, got Tensor"),
        (IMAGES, {"std": (0.2, 0.0, 0.2)}, ValueError, r"std must be positive, got \(0.2, 0.0, 0.2\)"),
    ],
)
def test_errors_name_the_argument_and_come_before_any_draw(
    images: object, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = {
        "host_rng": np.random.default_rng(0),
        "generator": torch.Generator(),
        "mean": MEAN,
        "std": STD,
    } | changes
    generator, host_rng = arguments["generator"], arguments["host_rng"]
    before = (
        generator.get_state() if isinstance(generator, torch.Generator) else None,
        host_rng.bit_generator.state if isinstance(host_rng, np.random.Generator) else None,
    )
    with pytest.raises(error, match=message):
        augmix(images, **arguments)
    if before[0] is not None:
        assert torch.equal(generator.get_state(), before[0])
    if before[1] is not None:
        assert host_rng.bit_generator.state == before[1]


def test_draws_for_another_batch_size_are_refused() -> None:
    with pytest.raises(ValueError, match="draws must be for 2 images, as images has, got draws for 3"):
        apply_augmix(IMAGES, random_draws(3, names=OPERATIONS), mean=MEAN, std=STD)
