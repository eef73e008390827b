"""What changes over a training of the real recipes, against METHODS 7 and algorithm A.6, epoch by epoch."""

from __future__ import annotations

import pytest
import restatement
import torch
from pairs import recipe_with

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.methods import METHODS, Method, Moment, create_model
from mixfast.mixing import patch_probability
from mixfast.training.feed import Feed
from mixfast.training.optimisers import learning_rate_at
from mixfast.training.trainer import total_steps

# Recipe: base learning rate, training images, epochs at whose start the rate drops to a tenth, epochs.
CIFAR = ((101, 201, 226), 300)
SCHEDULES = {
    "cifar100-wrn28-10-vanilla": (0.1 * 64 / 128, 50_000, *CIFAR),
    "cifar100-wrn28-10-mimo-b2": (0.1 / 2 * 64 / 128, 50_000, *CIFAR),
    "cifar10-wrn28-10-cut-mixmo-cutmix-b4": (0.1 / 4 * 64 / 128, 50_000, *CIFAR),
    "cifar100-wrn28-2-mixshare-fadeout-b2": (0.1 / 2 * 64 / 128, 50_000, (76, 151, 226), 300),
    "tiny-imagenet-preact-resnet18-1-vanilla": (0.2, 100_000, (600, 900), 1200),
    "tiny-imagenet-preact-resnet18-3-cut-mixmo-b4": (0.2 / 4, 100_000, (600, 900), 1200),
}


def method_of(config: Config) -> Method:
    return METHODS[config.method.name].from_settings(config.method.model_dump())


def feed_of(config: Config, images: int) -> Feed:
    """A feed of that many images, of one pixel each."""
    pixels = torch.zeros(images, 1, 1, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    labels = torch.zeros(images, dtype=torch.int64)
    data = ImageSet(pixels, labels, ("only",), (0.5,) * 3, (0.5,) * 3, "blank", "train")
    return Feed(data, method_of(config), config, (1, 1))


@pytest.mark.parametrize("held_out", [0, 0.1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rate(name, held_out):
    base, images, drops, epochs = SCHEDULES[name]
    config = recipe_with(name)
    images -= int(held_out * images)
    repetition, batch_size = config.data.repetition, config.training.batch_size
    steps = images * repetition // batch_size
    assert feed_of(config, images).steps_per_epoch == steps
    assert total_steps(config, steps) == epochs * steps
    around = {1, 2, epochs, *(drop + offset for drop in drops for offset in (-1, 0, 1))}
    for epoch in sorted(around):
        for step in (1, 2, steps // 2, steps - 1, steps):
            wanted = restatement.learning_rate(base, epoch, step, steps, drops)
            assert learning_rate_at(config, (epoch - 1) * steps + step - 1, steps) == pytest.approx(wanted, rel=1e-12)


def test_steps_of_an_epoch_leave_out_the_rest():
    config = recipe_with("cifar100-wrn28-10-cut-mixmo-b4")
    for images in (16, 31, 32, 999):
        feed = feed_of(config, images)
        assert feed.steps_per_epoch == images * 4 // 64
        assert len(feed.plan(1)) == feed.steps_per_epoch


@pytest.mark.parametrize("epochs", [1, 7, 12, 300, 1200])
def test_probability_of_patches(epochs):
    for epoch in range(1, epochs + 1):
        wanted = restatement.patch_probability(0.5, epoch, epochs)
        assert patch_probability(0.5, epoch, epochs) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "epoch", "wanted"),
    [
        ("cifar100-wrn28-10-cut-mixmo-b4", 1, 0.5),
        ("cifar100-wrn28-10-cut-mixmo-b4", 275, 0.5),
        ("cifar100-wrn28-10-cut-mixmo-b4", 285, 0.3),
        ("cifar100-wrn28-10-cut-mixmo-b4", 295, 0.1),
        ("cifar100-wrn28-10-cut-mixmo-b4", 300, 0.0),
        ("tiny-imagenet-preact-resnet18-3-cut-mixmo-b4", 1150, 0.25),
        ("cifar100-wrn28-10-linear-mixmo-b4", 1, 0.0),
        ("cifar100-wrn28-2-mixshare-fadeout-b2", 1, 1.0),  # needs a mask in every batch (A.6.1)
        ("cifar100-wrn28-2-mixshare-fadeout-b2", 300, 1.0),
    ],
)
def test_share_of_batches_with_patches(name, epoch, wanted):
    config = recipe_with(name)
    method, moment = method_of(config), Moment(epoch, config.schedule.epochs)
    generator = torch.Generator().manual_seed(epoch)
    count = 800
    patches = 0
    for _ in range(count):
        mixing = method.draw(8, (32, 32), moment, generator=generator, device="cpu")
        patches += int(mixing.area().sum() > 0)
    five_sigma = 5 * (wanted * (1 - wanted) / count) ** 0.5
    assert abs(patches / count - wanted) <= five_sigma


@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize(
    ("variant", "fades", "share_unmixed"),
    [("mixshare-fadeout", True, 1.0), ("mixshare-partial", False, 0.25), ("unmix", False, 1.0)],
)
def test_unmixing_over_the_epochs(width, variant, fades, share_unmixed):
    config = recipe_with(f"cifar100-wrn28-{width}-{variant}-b2")
    method = method_of(config)
    network = create_model("wrn10-2", num_classes=2, method=method)
    assert network.unmixed_channels == share_unmixed * 128
    for epoch in (1, 2, 37, 99, 100, 101, 300):
        method.begin_epoch(network, Moment(epoch, config.schedule.epochs))
        assert network.fade.item() == pytest.approx(min(1, epoch / 100) if fades else 0, rel=1e-6)


def test_other_methods_never_unmix():
    config = recipe_with("cifar100-wrn28-10-cut-mixmo-b4")
    network = create_model("wrn10-1", num_classes=2, method=method_of(config))
    method_of(config).begin_epoch(network, Moment(1, 300))
    assert network.unmixed_channels == 0 and network.fade.item() == 0
