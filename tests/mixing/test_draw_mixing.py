"""Drawn mixings against the table in METHODS 1, cell by cell."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing

from mixfast.mixing import (
    MASKS,
    all_from,
    cut_mixing,
    draw_ratios,
    linear_mixing,
    patch_or_linear,
    single_mixing,
    sum_mixing,
)

GRID = (6, 9)


def inside_mask(mixing: Mixing) -> np.ndarray:
    """``[B, H, W]`` bool from the zone itself, by a loop over samples."""
    if mixing.bitmap is not None:
        return mixing.bitmap.numpy()
    mask = np.zeros((mixing.batch_size, *mixing.grid), dtype=bool)
    for b, (top, left, bottom, right) in enumerate(mixing.box.tolist()):
        mask[b, top:bottom, left:right] = True
    return mask


def signature(mixing: Mixing) -> dict[str, object]:
    """All that a compiled graph is specialised on: which tensors there are, their types, shapes and strides."""
    values = {field.name: getattr(mixing, field.name) for field in fields(mixing)}
    return {
        name: (value.dtype, value.shape, value.stride()) if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


def assert_same(left: Mixing, right: Mixing) -> None:
    assert signature(left) == signature(right)
    for field in fields(left):
        value = getattr(left, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(right, field.name)), field.name


@pytest.mark.parametrize("num_inputs", [1, 2, 3])
def test_sum_and_single_source_mixings(num_inputs):
    weights = sum_mixing(4, num_inputs, GRID, "cpu").weights()
    torch.testing.assert_close(weights, torch.full((4, num_inputs, *GRID), 1 / num_inputs))
    for index in range(num_inputs):
        weights = all_from(index, 4, num_inputs, GRID, "cpu").weights()
        assert (weights[:, index] == 1).all()
        assert weights.sum() == 4 * GRID[0] * GRID[1]


def test_single_mixing_is_one_input_everywhere():
    mixing = single_mixing(3, GRID, "cpu")
    assert mixing.box is None and mixing.bitmap is None
    assert torch.equal(mixing.weights(), torch.ones(3, 1, *GRID))


def test_linear_mixing_weighs_every_position_by_kappa(generator):
    kappa = draw_ratios(5, 3, 2.0, generator=generator(), device="cpu")
    mixing = linear_mixing(kappa, GRID)
    assert torch.equal(mixing.weights(), kappa[:, :, None, None].expand(5, 3, *GRID))
    assert torch.equal(mixing.ratios(), kappa)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("num_inputs", [2, 3, 4])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_cut_mixing_is_equation_a4(mask, num_inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    kappa = draw_ratios(5, num_inputs, 2.0, generator=generator, device="cpu").double()
    kappa /= kappa.sum(1, keepdim=True)  # in float32, 1 - kappa_k below would cancel
    mixing = cut_mixing(kappa, GRID, mask=mask, generator=generator)
    chosen = mixing.inside[0].argmax().item()
    inside, dense = inside_mask(mixing), mixing.weights().numpy()
    expected = np.zeros((5, num_inputs, *GRID))
    for b in range(5):
        for i in range(num_inputs):
            elsewhere = 0.0 if i == chosen else kappa[b, i].item() / (1 - kappa[b, chosen].item())
            expected[b, i] = np.where(inside[b], float(i == chosen), elsewhere)
    np.testing.assert_allclose(dense, expected, atol=1e-12)
    np.testing.assert_allclose(dense.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(mixing.ratios().numpy(), expected.mean((2, 3)), atol=1e-12)
    np.testing.assert_allclose(mixing.ratios().sum(1).numpy(), 1, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_two_inputs_share_the_grid_without_overlap(generator, mask):
    kappa = draw_ratios(16, 2, 2.0, generator=generator(), device="cpu")
    weights = cut_mixing(kappa, GRID, mask=mask, generator=generator(1)).weights()
    assert ((weights == 0) | (weights == 1)).all()
    assert (weights.sum(1) == 1).all()


def test_the_inside_zone_has_the_area_of_the_chosen_input(generator):
    kappa = torch.tensor([[0.04, 0.96]]).expand(64, 2)
    for seed in range(16):
        mixing = cut_mixing(kappa, (10, 10), mask="fmix", generator=generator(seed))
        chosen = mixing.inside[0].argmax().item()
        expected = torch.full((64,), kappa[0, chosen].item())
        torch.testing.assert_close(mixing.area(), expected)


@pytest.mark.parametrize("num_inputs", [2, 3])
def test_the_chosen_input_is_uniform_and_one_for_the_batch(generator, num_inputs):
    draw, batches = generator(11), 2_000
    kappa = torch.full((3, num_inputs), 1 / num_inputs)
    counts = torch.zeros(num_inputs)
    for _ in range(batches):
        inside = cut_mixing(kappa, (4, 4), generator=draw).inside
        assert (inside == inside[0]).all()
        counts += inside[0]
    deviation = math.sqrt((num_inputs - 1) / num_inputs**2 / batches)
    assert (counts / batches - 1 / num_inputs).abs().max() < 4 * deviation


@pytest.mark.parametrize("mask", ["rectangle", "horizontal", "fmix"])
def test_both_inputs_get_half_of_the_grid_on_average(generator, mask):
    draw, batches = generator(12), 500
    means = []
    for _ in range(batches):
        kappa = draw_ratios(4, 2, 2.0, generator=draw, device="cpu")
        means.append(cut_mixing(kappa, (8, 8), mask=mask, generator=draw).ratios()[:, 0].mean().item())
    assert abs(np.mean(means) - 0.5) < 4 * np.std(means) / math.sqrt(batches)


@pytest.mark.parametrize("num_inputs", [2, 3])
def test_extreme_ratios_never_give_nan(generator, num_inputs):
    kappa = torch.eye(num_inputs).repeat(8, 1)
    for seed in range(6):
        mixing = cut_mixing(kappa, GRID, generator=generator(seed))
        assert torch.isfinite(mixing.weights()).all()
        torch.testing.assert_close(mixing.ratios().sum(1), torch.ones(len(kappa)))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("num_inputs", [2, 3])
def test_patch_and_linear_have_one_structure_and_their_own_weights(generator, mask, num_inputs):
    kappa = draw_ratios(5, num_inputs, 2.0, generator=generator(), device="cpu")
    patch = patch_or_linear(kappa, GRID, probability=1.0, mask=mask, generator=generator(1))
    linear = patch_or_linear(kappa, GRID, probability=0.0, mask=mask, generator=generator(1))
    assert signature(patch) == signature(linear)
    torch.testing.assert_close(linear.weights(), linear_mixing(kappa, GRID).weights(), rtol=0, atol=0)
    assert torch.equal(linear.ratios(), kappa)
    assert not inside_mask(linear).any()
    redraw = generator(1)
    torch.rand((), generator=redraw)
    assert_same(patch, cut_mixing(kappa, GRID, mask=mask, generator=redraw))


def test_patch_or_linear_is_one_coin_for_the_batch(generator):
    draw, batches, probability = generator(13), 3_000, 0.3
    kappa = torch.full((4, 2), 0.5)
    patches = 0
    for _ in range(batches):
        is_patch = (patch_or_linear(kappa, (8, 8), probability=probability, generator=draw).outside != 0.5).any(1)
        assert is_patch.all() or not is_patch.any()
        patches += is_patch[0].item()
    deviation = math.sqrt(probability * (1 - probability) / batches)
    assert abs(patches / batches - probability) < 4 * deviation


def test_later_draws_do_not_depend_on_the_coin(generator):
    kappa = torch.full((4, 2), 0.5)
    after = []
    for probability in (0.0, 1.0):
        draw = generator(14)
        patch_or_linear(kappa, GRID, probability=probability, generator=draw)
        after.append(torch.rand(3, generator=draw))
    assert torch.equal(*after)


@pytest.mark.parametrize("mask", MASKS)
def test_one_seed_gives_one_mixing(generator, mask):
    kappa = draw_ratios(6, 3, 2.0, generator=generator(), device="cpu")
    first, again = (patch_or_linear(kappa, GRID, probability=0.5, mask=mask, generator=generator(3)) for _ in range(2))
    assert_same(first, again)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("num_inputs", [2, 3])
def test_mixings_draw_without_reading_values_on_the_host(mask, num_inputs):
    kappa = draw_ratios(4, num_inputs, 2.0, generator=None, device="meta")
    mixing = patch_or_linear(kappa, GRID, probability=0.5, mask=mask, generator=None)
    assert mixing.weights().shape == (4, num_inputs, *GRID)
    assert mixing.ratios().device.type == "meta"
    assert sum_mixing(4, num_inputs, GRID, "meta").ratios().device.type == "meta"


@pytest.mark.parametrize("mask", MASKS)
def test_an_empty_batch_draws(generator, mask):
    mixing = patch_or_linear(torch.empty(0, 2), GRID, probability=0.5, mask=mask, generator=generator())
    assert mixing.weights().shape == (0, 2, *GRID)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (
            lambda g: cut_mixing(torch.ones(2, 1), GRID, generator=g),
            ValueError,
            "number of inputs .* at least 2, got 1",
        ),
        (lambda g: cut_mixing(torch.ones(2), GRID, generator=g), ValueError, r"\[B, M\]; got shape \(2,\)"),
        (lambda g: cut_mixing(torch.ones(2, 2), (0, 1), generator=g), ValueError, "grid must be"),
        (lambda g: cut_mixing(torch.ones(2, 2), GRID, mask="fmx", generator=g), ValueError, "did you mean 'fmix'"),
        (lambda g: cut_mixing(torch.ones(2, 2, device="meta"), GRID, generator=g), ValueError, "must live on meta"),
        (
            lambda g: patch_or_linear(torch.ones(2, 2), GRID, probability=1.1, generator=g),
            ValueError,
            "probability must lie in 0..1, got 1.1",
        ),
        (lambda g: linear_mixing(torch.ones(2, 2).int(), GRID), TypeError, "kappa must be a floating-point tensor"),
        (lambda g: sum_mixing(2, 0, GRID, "cpu"), ValueError, "num_inputs must be at least 1"),
        (lambda g: sum_mixing(-1, 2, GRID, "cpu"), ValueError, "batch must be at least 0"),
        (lambda g: all_from(2, 1, 2, GRID, "cpu"), ValueError, r"index must name one of 2 inputs, 0..1; got 2"),
    ],
)
def test_bad_arguments_are_refused(generator, draw, error, message):
    with pytest.raises(error, match=message):
        draw(generator())
