"""MixViT's masks: decided patch by patch, against counting pixels one by one (thesis A.1.5)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing

from mixfast.mixing import MASKS, majority, patch_cut_mixing


def counted(pixels: np.ndarray, patch: int, ties_inside: bool) -> np.ndarray:
    """``[H', W']`` bool: the vote of each patch's pixels."""
    height, width = (side // patch for side in pixels.shape)
    votes = np.zeros((height, width), dtype=bool)
    for i in range(height):
        for j in range(width):
            inside = int(pixels[i * patch : (i + 1) * patch, j * patch : (j + 1) * patch].sum())
            votes[i, j] = ties_inside if 2 * inside == patch * patch else 2 * inside > patch * patch
    return votes


@settings(max_examples=200, deadline=None)
@given(
    patch=st.integers(1, 7),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    is_box=st.booleans(),
    ties_inside=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_majority_counts_pixels(patch, rows, columns, is_box, ties_inside, seed):
    rng = np.random.default_rng(seed)
    size = (rows * patch, columns * patch)
    weights = torch.rand(3, 2)
    if is_box:
        top, bottom = np.sort(rng.integers(0, size[0] + 1, (2, 3)), axis=0)
        left, right = np.sort(rng.integers(0, size[1] + 1, (2, 3)), axis=0)
        zone = {"box": torch.tensor(np.stack((top, left, bottom, right), 1), dtype=torch.int32)}
        pixels = np.zeros((3, *size), dtype=bool)
        for b in range(3):
            pixels[b, top[b] : bottom[b], left[b] : right[b]] = True
    else:
        pixels = rng.random((3, *size)) < 0.5
        zone = {"bitmap": torch.from_numpy(pixels)}
    voted = majority(Mixing(weights, 1 - weights, size, **zone), (rows, columns), ties_inside=torch.tensor(ties_inside))
    assert voted.grid == (rows, columns) and voted.bitmap.dtype == torch.bool
    for b in range(3):
        assert np.array_equal(voted.bitmap[b].numpy(), counted(pixels[b], patch, ties_inside))
    assert torch.equal(voted.inside, weights) and torch.equal(voted.outside, 1 - weights)


def test_a_mix_without_a_zone_lies_outside_whatever_ties_do():
    mixing = Mixing(torch.ones(2, 2), torch.ones(2, 2), (4, 4))
    assert not majority(mixing, (2, 2), ties_inside=torch.tensor(True)).bitmap.any()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("num_inputs", [2, 3, 4])
def test_every_patch_shows_one_input(mask, num_inputs, generator):
    mixing = patch_cut_mixing(
        64, num_inputs, (4, 6), patch_size=4, alpha=0.5, probability=1, mask=mask, generator=generator(), device="cpu"
    )
    weights = mixing.weights()
    assert ((weights == 0) | (weights == 1)).all() and (weights.sum(1) == 1).all()
    assert (mixing.inside.sum(1) == 1).all() and (mixing.outside.sum(1) == 1).all()
    assert (mixing.inside != mixing.outside).any(1).all()  # two different inputs in every sample
    assert (mixing.ratios().sum(0) > 0).all()  # and each input somewhere in the batch


def test_lambda_is_the_area_asked_for(generator):
    """Over many samples the shares have Beta(alpha, alpha)'s mean, and with alpha = 0.5 most lie at the ends."""
    shares = patch_cut_mixing(
        4000, 2, (8, 8), patch_size=4, alpha=0.5, probability=1, generator=generator(), device="cpu"
    ).ratios()[:, 0]
    assert abs(shares.mean() - 0.5) < 0.02
    assert ((shares < 0.2) | (shares > 0.8)).float().mean() > ((shares > 0.4) & (shares < 0.6)).float().mean()


def test_the_end_of_the_training_takes_all_patches_from_one_input(generator):
    source = generator()
    mixings = [
        patch_cut_mixing(8, 2, (4, 4), patch_size=4, alpha=0.5, probability=p, generator=source, device="cpu")
        for p in [0.25] * 400
    ]
    whole = [not mixing.bitmap.any() and ((mixing.ratios() == 0) | (mixing.ratios() == 1)).all() for mixing in mixings]
    assert 0.68 < np.mean(whole) < 0.82
    chosen = torch.cat([mixing.ratios() for mixing, one in zip(mixings, whole, strict=True) if one])
    assert 0.45 < chosen[:, 0].mean() < 0.55


def test_ties_go_to_one_input_a_batch_and_to_either_in_time(generator):
    """One of two pixel rows is half a patch: with a mask of one row every patch is a tie."""
    source, seen = generator(), set()
    for _ in range(30):
        mixing = patch_cut_mixing(
            40, 2, (1, 3), patch_size=2, alpha=50.0, probability=1, mask="vertical", generator=source, device="cpu"
        )
        tied = mixing.bitmap.flatten(1).all(1) | ~mixing.bitmap.flatten(1).any(1)
        seen |= {bool(value) for value in mixing.bitmap[tied].any((1, 2))}
    assert seen == {True, False}


def test_outcomes_have_the_same_tensors_and_a_seed_the_same_draw(generator):
    draws = [
        patch_cut_mixing(5, 3, (2, 2), patch_size=2, alpha=1.0, probability=p, generator=generator(1), device="cpu")
        for p in (0.0, 1.0, 1.0)
    ]
    assert torch.equal(draws[0].inside, draws[1].inside) and draws[0].bitmap.dtype == draws[1].bitmap.dtype
    assert torch.equal(draws[1].bitmap, draws[2].bitmap) and torch.equal(draws[1].outside, draws[2].outside)
    assert torch.equal(draws[0].outside, draws[0].inside)


def test_nothing_waits_for_the_device():
    """On the meta device reading a value would raise."""
    mixing = patch_cut_mixing(4, 2, (4, 4), patch_size=4, alpha=0.5, probability=0.5, generator=None, device="meta")
    assert mixing.bitmap.is_meta and mixing.bitmap.shape == (4, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inputs": 1}, "num_inputs must be at least 2, got 1"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be greater than 0, got 0"),
        ({"probability": 1.5}, "probability must lie in 0..1, got 1.5"),
        ({"mask": "recangle"}, "did you mean 'rectangle'"),
        ({"grid": (0, 3)}, r"grid must be \(height, width\)"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {
        **{"batch": 2, "num_inputs": 2, "grid": (2, 2), "patch_size": 2, "alpha": 0.5, "probability": 1.0},
        **change,
    }
    with pytest.raises(ValueError, match=message):
        patch_cut_mixing(
            arguments.pop("batch"),
            arguments.pop("num_inputs"),
            arguments.pop("grid"),
            **arguments,
            generator=None,
            device="cpu",
        )


def test_a_grid_that_does_not_divide_the_pixels_is_refused():
    with pytest.raises(ValueError, match=r"grid must divide the mix's grid \(5, 4\), got \(2, 2\)"):
        majority(Mixing(torch.ones(1, 2), torch.ones(1, 2), (5, 4)), (2, 2), ties_inside=torch.tensor(True))
