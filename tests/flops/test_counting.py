"""Counting by part: the whole is torch's own count, kept bytes are those of a network written out, and nothing is missed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import mixed_cross_entropy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mixfast
from mixfast.data import DataShape, data_set_names, data_shape
from mixfast.data.errors import DataError
from mixfast.data.registry import is_of_your_own
from mixfast.flops import count, inference_flops, training_flops
from mixfast.flops.meter import Meter
from mixfast.methods import METHODS, Moment, create_method
from mixfast.mixing import sum_mixing

FLOAT = 4


def network_of(backbone, method="single", **settings):
    sizes = {"image_size": 16, "patch_size": 4} if backbone.startswith(("convit", "cait")) else {}
    return mixfast.create_model(backbone, num_classes=5, method=method, **sizes, **settings)


@pytest.mark.parametrize("backbone", ["wrn10-2", "convit64-2"])
@pytest.mark.parametrize("method", ["single", "mimo", "mixvit-encoding"])
def test_the_whole_is_what_torch_counts(backbone, method):
    if backbone.startswith("wrn") and method == "mixvit-encoding":
        method = "mixshare"
    inputs = 1 if method == "single" else 2
    network = network_of(backbone, method, num_inputs=inputs)
    visible = inputs  # all that a mix may show, as the operators' formulas have it
    ours = training_flops(network, visible, (16, 16), 3), inference_flops(network, (16, 16), 3)
    few, many = (flops_by_torch(network, inputs, batch_size) for batch_size in (2, 5))
    # What three samples add: products of weights with weights do not grow with the batch, and are not counted.
    assert ours == tuple(more - less for more, less in zip(many, few, strict=True))


def flops_by_torch(network, inputs, batch_size):
    """Of a step and of inference."""
    network = copy.deepcopy(network).to("meta")  # torch's counter fails on some transformers elsewhere
    images = torch.empty(batch_size, 3, 16, 16, device="meta")
    index = torch.zeros(batch_size, inputs, dtype=torch.int64, device="meta")
    mixing = sum_mixing(batch_size, inputs, network.core.stem.grid((16, 16)), "meta")
    with FlopCounterMode(display=False) as step:
        network.train()(images, mixing, index).sum().backward()
    with FlopCounterMode(display=False) as inference:
        network.eval().requires_grad_(False).predict(images)
    return step.get_total_flops(), inference.get_total_flops()


def test_only_what_is_seen_costs_a_product():
    network = network_of("convit64-2", "mixvit-encoding", num_inputs=3)
    tokens, width, patch = 16, 64, 3 * 4 * 4
    dense, cut = (training_flops(network, visible, (16, 16), 1) for visible in (3, 1))
    # Of encodings the forward product and two backward, of the patches one each way: there is one encoder for all.
    assert dense - cut == 2 * 2 * tokens * (3 * width**2 + 2 * width * patch)


def test_a_count_does_not_depend_on_the_batch():
    network = network_of("convit64-2", "mixvit-embedding", num_inputs=2)
    few, many = (count(network, 1, (16, 16), batch_size) for batch_size in (1, 7))
    assert (few.forward, few.backward, few.inference) == (many.forward, many.backward, many.inference)
    assert few.activations.total < many.activations.total


def test_counting_changes_nothing():
    network = network_of("wrn10-1", "mixshare", num_inputs=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count(network, 1, (16, 16), 2)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training and all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_every_parameter_belongs_to_one_part():
    for backbone, method in (("wrn10-1", "mimo"), ("resnet18-1", "mimo"), ("convit64-2", "mixvit-encoding")):
        network = network_of(backbone, method, num_inputs=2)
        cost = count(network, 2, (16, 16), 2)
        assert cost.parameters.total == sum(parameter.numel() for parameter in network.parameters())
        assert set(cost.inference.parts) <= set(cost.parameters.parts)


def test_kept_bytes_of_a_wide_resnet():
    """Each norm keeps what it reads and, a channel, mean and deviation; each ReLU what it gives, which the convolution behind it
    reads; a projection what the block reads, which the norm keeps already. Then the last ReLU, pooled features, and the loss."""
    batch, side, widths = 3, 16, (16, 32, 64)
    floats, before, grid = 0, 16, side
    for stage, width in enumerate(widths):
        floats += 2 * batch * before * grid**2 + 2 * before  # norm, ReLU
        floats += batch * width * grid**2 + 2 * width  # norm of what the first convolution gives
        floats += batch * width * grid**2  # ReLU
        if stage:
            # The second convolution halves the grid and reads a padded copy of the ReLU's result.
            floats += batch * width * (grid + 1) ** 2
            grid //= 2
        before = width
    floats += 2 * batch * 64 * grid**2 + 2 * 64
    cost = count(network_of("wrn10-1"), 1, (side, side), batch)
    without_loss = cost.activations.total - cost.activations.parts["loss"]
    assert without_loss == FLOAT * (floats + batch * 64)


def test_kept_bytes_are_those_of_a_step_on_the_cpu():
    """Of the network on real memory, weights and batch left out."""
    network = network_of("convit64-2", "mixvit-encoding", num_inputs=2).train()
    images, index = torch.randn(4, 3, 16, 16), torch.randint(4, (2, 2))
    mixing, target, weight = sum_mixing(2, 2, (4, 4), "cpu"), torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 2)
    known = (images, index, mixing.inside, mixing.outside, target, weight, *network.parameters())
    seen = {tensor.untyped_storage().data_ptr(): 0 for tensor in known}
    kept = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if seen.setdefault(storage.data_ptr(), storage.nbytes()) and all(storage is not other for other in kept):
            kept.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mixed_cross_entropy(network(images, mixing, index), target, weight)
    assert count(network, 1, (16, 16), 2).activations.total == sum(seen.values())


class Scaled(nn.Module):
    """A part whose weight the network uses by itself, scaled and transposed first, beside one that runs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4, bias=False), nn.Linear(4, 5)

    def forward(self, x):
        matrix = (2 * self.first.weight).T
        return self.second(x @ matrix)


def test_products_belong_to_the_part_that_runs_or_whose_weights_they_take():
    network = Scaled().to("meta")
    x = torch.empty(2, 3, device="meta", requires_grad=True)
    with Meter(network, dict(network.named_children()), 1).counting() as meter:
        network(x).sum().backward()
    forward = {"first": 2 * 3 * 4, "second": 2 * 4 * 5}
    assert meter.forward == forward
    assert meter.backward == {part: 2 * products for part, products in forward.items()}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "single"])
@given(inputs=st.integers(2, 4), epoch=st.integers(1, 12), seed=st.integers(0, 1000), cut_only=st.booleans())
@settings(max_examples=20, deadline=None)
def test_no_drawn_mix_shows_more_inputs_than_the_method_says(method, inputs, epoch, seed, cut_only):
    changes = {"probability": 1.0, "anneal": False} if method == "cut-mixmo" and cut_only else {}
    made = create_method(method, num_inputs=inputs, **changes)
    mixing = made.draw(
        4, (8, 8), Moment(epoch, 12), generator=torch.Generator().manual_seed(seed), device=torch.device("cpu")
    )
    assert (mixing.weights() > 0).sum(1).max() <= made.visible_inputs() <= inputs


def test_shapes_of_data_sets():
    assert data_shape("cifar100") == DataShape(3, (32, 32), 100)
    assert data_shape("tiny-imagenet", image_size=48, num_classes=20) == DataShape(3, (48, 48), 20)
    for name in data_set_names():
        if not is_of_your_own(name):
            assert data_shape(name, image_size=64).num_classes >= 10


def test_the_shape_of_digits_is_that_of_its_images():
    from mixfast.data import load_split

    images = load_split("digits", "test")
    assert data_shape("digits") == DataShape(images.channels, images.image_shape, images.num_classes)


def test_a_folder_says_its_classes(tmp_path):
    for name in ("ant", "bee", "cat"):
        (tmp_path / "photos" / "train" / name).mkdir(parents=True)
        (tmp_path / "photos" / "train" / name / "1.jpg").touch()
        (tmp_path / "photos" / "test" / name).mkdir(parents=True)
    assert data_shape("folder:photos", root=str(tmp_path), image_size=32) == DataShape(3, (32, 32), 3)
    with pytest.raises(DataError, match="image_size is null"):
        data_shape("folder:photos", root=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("cifar1000", {}, "did you mean 'cifar10"), ("cifar10", {"num_classes": 1}, "num_classes is 1")],
)
def test_refused_shapes(name, options, message):
    with pytest.raises(DataError, match=message):
        data_shape(name, **options)
