"""Active filters, feature sharing, and influence on intermediate maps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixfast.evaluation import (
    active_filters,
    classifier_feature_norms,
    classifier_sharing_rate,
    encoder_feature_norms,
    encoder_sharing_rate,
    feature_influence,
    sharing_rate,
)


def core() -> nn.Module:
    """Three convolutions of different shapes, one of them grouped, one nested, among layers that do not count."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=True),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4)),
        nn.Conv2d(12, 5, 1),
        nn.Linear(5, 3),
    )


def test_active_filters_equal_the_loop() -> None:
    network = core()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data *= torch.rand(len(module.weight), 1, 1, 1)
    result = active_filters(network)
    assert list(result) == [0.2, 0.3, 0.4, 0.5]
    for threshold, share in result.items():
        active = total = 0
        for module in (network[0], network[2][1], network[3]):
            norms = [np.abs(kernel).sum() for kernel in module.weight.detach().double().numpy()]
            active += sum(norm >= threshold * max(norms) for norm in norms)
            total += len(norms)
        assert total == 25
        assert share == active / total


def test_active_filters_by_hand() -> None:
    convolution = nn.Conv2d(1, 4, 1)
    convolution.weight.data = torch.tensor([8.0, -4.0, 2.0, 0.0]).reshape(4, 1, 1, 1)
    assert active_filters(convolution, (0.25, 0.5, 0.51)) == {0.25: 0.75, 0.5: 0.5, 0.51: 0.25}


def test_a_layer_of_zeros_has_no_active_filter() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
    network[0].weight.data.zero_()
    network[1].weight.data.fill_(1.0)
    assert active_filters(network, (0.4,)) == {0.4: 0.5}


def test_active_filters_refuse_bad_input() -> None:
    with pytest.raises(ValueError, match="core must contain convolutions, Linear has none"):
        active_filters(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"thresholds must lie in \(0, 1\], got 1.5"):
        active_filters(nn.Conv2d(1, 1, 1), (0.2, 1.5))
    broken = nn.Conv2d(1, 1, 1)
    broken.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="convolution weights must be finite"):
        active_filters(broken)


def naive_sharing(norms: np.ndarray) -> float:
    rates = []
    for a, b in itertools.combinations(range(len(norms)), 2):
        ratios = [min(x, y) / max(x, y) for x, y in zip(norms[a], norms[b], strict=True) if max(x, y) > 0]
        rates.append(sum(ratios) / len(ratios))
    return sum(rates) / len(rates)


@pytest.mark.parametrize("subnetworks", [2, 3, 4])
def test_encoder_sharing_equals_the_loop(subnetworks: int) -> None:
    weight = torch.randn(subnetworks, 16, 3, 3, 3)
    norms = np.array([[np.abs(kernel).sum() for kernel in encoder] for encoder in weight.double().numpy()])
    np.testing.assert_allclose(encoder_feature_norms(weight).numpy(), norms, rtol=1e-12)
    assert encoder_sharing_rate(weight) == pytest.approx(naive_sharing(norms), rel=1e-12)


@pytest.mark.parametrize("subnetworks", [2, 3])
def test_classifier_sharing_equals_the_loop(subnetworks: int) -> None:
    weight = torch.randn(subnetworks, 10, 24)
    norms = np.array([[sum(abs(head[k, f]) for k in range(10)) for f in range(24)] for head in weight.double().numpy()])
    np.testing.assert_allclose(classifier_feature_norms(weight).numpy(), norms, rtol=1e-12)
    assert classifier_sharing_rate(weight) == pytest.approx(naive_sharing(norms), rel=1e-12)


def test_sharing_by_hand() -> None:
    # Figure 3.11's first kernel, 7 against 1, a shared one, and one that nobody uses.
    assert sharing_rate(torch.tensor([[7.0, 2.0, 0.0], [1.0, 2.0, 0.0]])) == pytest.approx((1 / 7 + 1) / 2)


def test_sharing_extremes() -> None:
    weight = torch.randn(1, 8, 3, 3, 3)
    assert encoder_sharing_rate(torch.cat([weight, -weight])) == 1.0
    assert sharing_rate(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == 0.0
    assert encoder_sharing_rate(weight) is None
    assert sharing_rate(torch.zeros(2, 3)) is None


@settings(deadline=None, max_examples=40)
@given(
    norms=st.lists(st.lists(st.floats(0, 1e6), min_size=4, max_size=4), min_size=2, max_size=4),
    factor=st.floats(0.1, 9),
)
def test_sharing_is_a_fraction_that_neither_order_nor_scale_changes(norms: list[list[float]], factor: float) -> None:
    norms_MF = torch.tensor(norms, dtype=torch.float64)
    rate = sharing_rate(norms_MF)
    if rate is None:
        return
    assert 0 <= rate <= 1
    assert sharing_rate(norms_MF.flip(0).flip(1)) == pytest.approx(rate, abs=1e-12)
    assert sharing_rate((norms_MF + 1) * factor) == pytest.approx(sharing_rate(norms_MF + 1), abs=1e-12)


def test_sharing_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match=r"norms must have shape \[M, F\].*\[3\]"):
        sharing_rate(torch.ones(3))
    with pytest.raises(ValueError, match="norms must be finite and not negative"):
        sharing_rate(torch.tensor([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match=r"classifier weight must have shape \[M, K, F\], got \[10, 24\]"):
        classifier_feature_norms(torch.ones(10, 24))
    with pytest.raises(ValueError, match="encoder weight must have more than 2 dimensions"):
        encoder_feature_norms(torch.ones(2, 16))


@pytest.mark.parametrize("batch", [1, 7, 20])
@pytest.mark.parametrize("subnetworks", [1, 2, 3])
def test_influence_equals_the_variance_over_the_whole_set(subnetworks: int, batch: int) -> None:
    torch.manual_seed(3)
    images, fixed = torch.randn(20, 3, 6, 6), torch.randn(3, 6, 6)
    encoders = [nn.Conv2d(3, 5, 3).double() for _ in range(subnetworks)]

    def feature_map(*inputs: Tensor) -> Tensor:
        return sum(encoder(x.double()) for encoder, x in zip(encoders, inputs, strict=True)).tanh()

    result = feature_influence(feature_map, images.split(batch), fixed, subnetworks)
    for varied in range(subnetworks):
        rows = []
        for image in images:
            inputs = [image if i == varied else fixed for i in range(subnetworks)]
            rows.append(feature_map(*[x[None] for x in inputs])[0].detach().numpy())
        expected = np.var(np.stack(rows), axis=0, ddof=1).mean(axis=(1, 2))
        np.testing.assert_allclose(result[varied].numpy(), expected, rtol=1e-10)
    assert not result.requires_grad


def test_influence_by_hand() -> None:
    # Channel 0 sees the first input only, channel 1 twice the second only: variances 1 and 4 over {0, 1, 2}.
    images = torch.arange(3.0).reshape(3, 1, 1, 1)

    def feature_map(first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, 2 * second], dim=1)

    result = feature_influence(feature_map, [images[:2], images[2:]], torch.tensor([[[9.0]]]), 2)
    assert result.tolist() == [[1.0, 0.0], [0.0, 4.0]]


def test_influence_does_not_cancel_under_a_large_mean() -> None:
    images = 1e8 + torch.arange(6.0, dtype=torch.float64).reshape(6, 1)
    result = feature_influence(lambda x: x, images.split(2), images[0], 1)
    assert result.item() == pytest.approx(3.5, rel=1e-9)


def test_influence_accepts_a_generator_and_empty_batches() -> None:
    images = torch.randn(5, 2, 3, 3)
    batches = [images[:0], images[:3], images[3:]]
    result = feature_influence(lambda x: x, (batch for batch in batches), images[0], 1)
    expected = images.double().var(dim=0).mean(dim=(1, 2))
    torch.testing.assert_close(result[0], expected)


@pytest.mark.parametrize(
    ("feature_map", "images", "fixed", "message"),
    [
        (lambda x: x, torch.randn(1, 3, 4, 4), torch.randn(3, 4, 4), "at least two images.*got 1"),
        (lambda x: x, torch.randn(5, 3, 4, 4), torch.randn(3, 4, 5), r"fixed's shape \[3, 4, 5\], got \[3, 4, 4\]"),
        (lambda x: x.sum(0), torch.randn(5, 3, 4, 4), torch.randn(3, 4, 4), r"B = 5, got \[3, 4, 4\]"),
        (lambda x: x / 0, torch.randn(5, 3, 4, 4), torch.randn(3, 4, 4), "feature_map must return finite"),
    ],
)
def test_influence_refuses_bad_input(feature_map: object, images: Tensor, fixed: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_influence(feature_map, [images], fixed, 1)
    with pytest.raises(ValueError, match="num_inputs must be at least 1"):
        feature_influence(feature_map, [images], fixed, 0)
