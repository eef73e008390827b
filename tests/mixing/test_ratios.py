"""Mixing ratios against the Dirichlet's moments, loss weights against the formula written as a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mixfast.mixing import draw_ratios, loss_weights


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("num_inputs", [2, 3, 5])
def test_ratios_have_the_moments_of_a_dirichlet(generator, alpha, num_inputs):
    batch = 40_000
    ratios = draw_ratios(batch, num_inputs, alpha, generator=generator(3), device="cpu").double().numpy()
    variance = (num_inputs - 1) / (num_inputs**2 * (num_inputs * alpha + 1))
    np.testing.assert_allclose(ratios.mean(0), 1 / num_inputs, atol=4 * math.sqrt(variance / batch))
    squares = (ratios - 1 / num_inputs) ** 2
    standard_errors = squares.std(0) / math.sqrt(batch)
    assert (np.abs(squares.mean(0) - variance) < 4 * standard_errors).all()
    covariance = np.cov(ratios.T)[0, 1]
    assert covariance == pytest.approx(-variance / (num_inputs - 1), rel=0.1)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_two_inputs_follow_the_beta_distribution(generator, alpha):
    first = draw_ratios(20_000, 2, alpha, generator=generator(1), device="cpu")[:, 0].double().numpy()
    assert stats.kstest(first, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_tiny_alpha_picks_one_input_and_never_underflows_to_nan(generator):
    ratios = draw_ratios(20_000, 3, 1e-3, generator=generator(), device="cpu")
    assert torch.isfinite(ratios).all()
    assert (ratios.amax(1) > 0.99).float().mean() > 0.98
    wins = torch.bincount(ratios.argmax(1), minlength=3).double() / len(ratios)
    assert (wins - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / len(ratios))


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 6), st.floats(1e-4, 1e4), st.integers(0, 2**31))
def test_rows_sum_to_one(batch, num_inputs, alpha, seed):
    ratios = draw_ratios(batch, num_inputs, alpha, generator=torch.Generator().manual_seed(seed), device="cpu")
    assert ratios.shape == (batch, num_inputs) and ratios.dtype == torch.float32
    assert (ratios >= 0).all()
    torch.testing.assert_close(ratios.sum(1), torch.ones(batch), rtol=0, atol=1e-6)


def test_one_seed_gives_one_draw(generator):
    first, again, other = (draw_ratios(8, 2, 2.0, generator=generator(s), device="cpu") for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_ratios_draw_without_reading_values_on_the_host():
    assert draw_ratios(4, 2, 2.0, generator=None, device="meta").device.type == "meta"


@pytest.mark.parametrize("root", [1.0, 2.0, 3.0, 10.0, math.inf])
@pytest.mark.parametrize("num_inputs", [1, 2, 3])
def test_loss_weights_equal_the_formula(generator, root, num_inputs):
    ratios = draw_ratios(16, num_inputs, 1.0, generator=generator(), device="cpu").double()
    expected = np.empty((16, num_inputs))
    for b in range(16):
        powers = [math.exp(math.log(k) / root) for k in ratios[b].tolist()]
        expected[b] = [num_inputs * power / sum(powers) for power in powers]
    np.testing.assert_allclose(loss_weights(ratios, root).numpy(), expected, rtol=1e-12)


def test_root_one_is_m_times_kappa_and_root_three_is_equation_3_3():
    kappa = torch.tensor([[0.125, 0.875]], dtype=torch.float64)
    torch.testing.assert_close(loss_weights(kappa, 1), 2 * kappa)
    expected = 2 * 0.5 / (0.5 + 0.875 ** (1 / 3))
    assert loss_weights(kappa, 3)[0, 0].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("root", [1.0, 3.0, math.inf])
def test_an_invisible_input_has_no_loss(root):
    assert loss_weights(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), root).tolist() == [[0.0, 2.0], [2.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_weights_keep_the_dtype(dtype):
    weights = loss_weights(torch.tensor([[0.25, 0.75]], dtype=dtype), 3)
    assert weights.dtype == dtype
    assert weights.float().sum().item() == pytest.approx(2, abs=2e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": -1}, "batch must be at least 0, got -1"),
        ({"num_inputs": 0}, "num_inputs must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be greater than 0, got 0.0"),
        ({"alpha": math.nan}, "alpha must be greater than 0, got nan"),
        ({"alpha": math.inf}, "alpha must be finite, got inf"),
        ({"device": "meta"}, "generator must live on meta"),
    ],
)
def test_bad_draws_are_refused(generator, change, message):
    arguments = {"batch": 2, "num_inputs": 2, "alpha": 1.0, "generator": generator(), "device": "cpu"} | change
    with pytest.raises(ValueError, match=message):
        draw_ratios(**arguments)


def test_bad_loss_weights_are_refused():
    with pytest.raises(ValueError, match="root must be greater than 0, got -3"):
        loss_weights(torch.full((1, 2), 0.5), -3)
    with pytest.raises(ValueError, match=r"ratios must have the shape \[B, M\], got \(2,\)"):
        loss_weights(torch.full((2,), 0.5), 3)
