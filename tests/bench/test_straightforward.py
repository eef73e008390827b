"""The opponent computes what mixfast computes: the same loss and gradients for the same draws, and draws like it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixfast_bench.cases import Batches, synthetic_images, training_config
from mixfast_bench.data import BatchStream
from mixfast_bench.registry import CUT_MIXMO
from mixfast_bench.straightforward import PlainBatch, PlainCutMixMo, PlainLoader, PlainStep, plain_loss
from mixfast_kernels import Mixing, augment

from mixfast.mixing import loss_weights
from mixfast.training.feed import Feed
from mixfast.training.session import build_network
from mixfast.training.trainer import batch_loss


@pytest.fixture
def config(small_batches, cpu):
    return training_config(CUT_MIXMO, small_batches, device=cpu, backbone="wrn10-1")


@pytest.fixture
def loader(config, few_images):
    return PlainLoader(config, few_images, (16, 16))


def written_out(batch, num_classes):
    """A batch of mixfast's in the straightforward form."""
    first, second = (batch.images[batch.index[:, slot]].contiguous() for slot in (0, 1))
    one_hot = torch.eye(num_classes)
    targets = tuple(one_hot[batch.target[:, slot]] for slot in (0, 1))
    return PlainBatch(first, second, batch.mixing.weights()[:, :1], targets, tuple(batch.weight.unbind(1)))


def with_weights_of(network, backbone, num_classes):
    """The straightforward network with the parameters of mixfast's."""
    plain = PlainCutMixMo(backbone, num_classes, 3)
    plain.core.load_state_dict(network.core.state_dict())
    with torch.no_grad():
        for slot in (0, 1):
            plain.encoders[slot].weight.copy_(network.encoder.weight[slot])
            plain.heads[slot].weight.copy_(network.heads.weight[slot])
            plain.heads[slot].bias.copy_(network.heads.bias[slot])
    return plain


def assert_same_gradients(plain, network):
    """Within float32's rounding: sums run in another order."""
    pairs = [*zip(plain.core.parameters(), network.core.parameters(), strict=True)]
    for theirs, ours in [(theirs.grad, ours.grad) for theirs, ours in pairs] + [
        (plain.encoders[0].weight.grad, network.encoder.weight.grad[0]),
        (plain.encoders[1].weight.grad, network.encoder.weight.grad[1]),
        (plain.heads[0].weight.grad, network.heads.weight.grad[0]),
        (plain.heads[1].weight.grad, network.heads.weight.grad[1]),
        (plain.heads[1].bias.grad, network.heads.bias.grad[1]),
    ]:
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("backbone", "batches"), [("wrn10-1", 6), ("preact-resnet18-1", 1)])
def test_same_loss_and_gradients_for_the_same_batch(backbone, batches, small_batches, few_images, cpu):
    """On two mixing grids: that of the image, and half of it."""
    config = training_config(CUT_MIXMO, small_batches, device=cpu, backbone=backbone)
    network, method = build_network(config, few_images)
    plain = with_weights_of(network, backbone, 10)
    stream = BatchStream(Feed(few_images, method, config, network.core.stem.grid((16, 16))), 300)
    kinds = set()
    for _ in range(batches):
        batch = stream.next()
        kinds.add("linear" if int(batch.mixing.box.sum()) == 0 else "patch")
        network.zero_grad()
        plain.zero_grad()
        ours, theirs = batch_loss(network, batch, 0.0), plain_loss(plain, written_out(batch, 10))
        torch.testing.assert_close(theirs, ours)
        ours.backward()
        theirs.backward()
        assert_same_gradients(plain, network)
    assert len(kinds) == min(batches, 2)  # both, given time


def test_steps_end_at_the_same_weights(config, few_images, cpu):
    """The optimiser, too, does the same thing: three steps on mixfast's batches."""
    network, method = build_network(config, few_images)
    step = PlainStep("straightforward", config, few_images)
    plain = with_weights_of(network, "wrn10-1", 10)
    step._network.load_state_dict(plain.state_dict())
    stream = BatchStream(Feed(few_images, method, config, (16, 16)), 300)
    batches = [stream.next() for _ in range(3)]
    written = iter([written_out(batch, 10) for batch in batches])
    step._loader.next = lambda: next(written)

    settings = config.optimizer
    velocities = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for batch in batches:
        step.run(lambda phase: None)
        network.zero_grad()
        batch_loss(network, batch, 0.0).backward()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                gradient = parameter.grad + settings.weight_decay * parameter
                velocities[name] = settings.momentum * velocities[name] + gradient
                parameter -= config.learning_rate() * (gradient + settings.momentum * velocities[name])
    torch.testing.assert_close(step._network.heads[1].weight, network.heads.weight[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(step._network.encoders[0].weight, network.encoder.weight[0], rtol=1e-3, atol=1e-4)


class Drawn:
    """Stands for a random generator: gives the numbers it was made with."""

    def __init__(self, *, integers=(), randoms=()):
        self._integers, self._randoms = iter(integers), iter(randoms)

    def integers(self, *_, size=None):
        return next(self._integers) if size is None else np.array([next(self._integers) for _ in range(size)])

    def random(self):
        return next(self._randoms)


def test_augmentation_is_one_of_the_operators(loader, few_images):
    """Whatever torchvision draws, the result is the operator's for one of the 9 x 9 crops and two flips."""
    crops = torch.cartesian_prod(torch.arange(9), torch.arange(9)).repeat(2, 1)
    flips = torch.arange(2).repeat_interleave(81).bool()
    index = torch.full((162,), 5)
    options = {"pad": 4, "mean": few_images.mean, "std": few_images.std}
    legal = augment(few_images.images, index=index, crop=crops, flip=flips, **options)
    for _ in range(5):
        distance = (legal - loader.augmented(5)).abs().amax((1, 2, 3))
        assert distance.min() < 1e-5


@pytest.mark.parametrize(
    ("row", "column", "kappa"), [(0, 0, 0.5), (15, 3, 0.9), (8, 8, 0.3), (7, 9, 0.001), (5, 5, 1.0)]
)
def test_rectangles_are_those_of_the_published_method(loader, row, column, kappa):
    loader.rng = Drawn(integers=[row, column])
    half = int(16 * kappa**0.5) // 2
    expected = [[float(-half <= r - row < half and -half <= c - column < half) for c in range(16)] for r in range(16)]
    np.testing.assert_array_equal(loader.rectangle(kappa), np.array(expected, dtype=np.float32))


def test_drawn_batches_fit_together(loader):
    """Masks, labels and loss weights of one batch agree with mixfast's own rules, for both kinds of batches."""
    kinds = set()
    for _ in range(20):
        batch = loader.next()
        binary = bool(((batch.mask == 0) | (batch.mask == 1)).all())
        kinds.add(binary)
        only_first, only_second = torch.eye(2)[:, None].expand(2, 8, 2)
        mixing = Mixing(only_first, only_second, (16, 16), bitmap=batch.mask[:, 0])
        expected = loss_weights(mixing.ratios(), 3.0)
        torch.testing.assert_close(torch.stack(batch.weights, 1), expected, rtol=1e-4, atol=1e-4)
        assert all(torch.equal(target.sum(1), torch.ones(8)) for target in batch.targets)
    assert kinds == {True, False}


def test_every_image_stands_b_times_in_each_slot(loader):
    epoch = []
    for _ in range(3):  # 12 images, 4 distinct ones a batch
        first, second = loader.indices()
        numbers, counts = np.unique(first, return_counts=True)
        assert list(counts) == [2, 2, 2, 2]
        np.testing.assert_array_equal(np.sort(first), np.sort(second))
        epoch.extend(numbers)
    assert sorted(epoch) == list(range(12))


def test_labels_belong_to_their_images(cpu):
    """With images as constant as their labels, every pixel that is not padding tells the label."""
    data = synthetic_images(8, 10, cpu, count=40)
    data.images.copy_((20 * data.labels + 20).view(-1, 1, 1, 1).expand_as(data.images))
    config = training_config(CUT_MIXMO, Batches(8, 2), device=cpu, backbone="wrn10-1")
    batch = PlainLoader(config, data, (8, 8)).next()
    for images, target in zip((batch.first, batch.second), batch.targets, strict=True):
        brightest = ((images * 0.25 + 0.5) * 255).amax((1, 2, 3))
        torch.testing.assert_close(brightest, 20.0 * target.argmax(1) + 20, rtol=0, atol=0.01)
