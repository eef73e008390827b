"""Every recipe can be built and fed: its network at full size without memory, its batches at its own settings."""

from __future__ import annotations

import re

import numpy as np
import pytest
import restatement
import torch
from pairs import recipe_with
from view_search import MEAN, STD

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.methods import METHODS, Method, Moment, create_model
from mixfast.models import build_backbone, is_transformer
from mixfast.recipes import recipe_names
from mixfast.training.feed import Feed
from mixfast.training.session import build_network
from mixfast.training.trainer import batch_loss

NUM_CLASSES = {
    "cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "imagenet": 1000, "imagenet100": 100,
}  # fmt: skip
SIDES = {"digits": 8, "tiny-imagenet": 64, "imagenet": 224, "imagenet100": 224}

# Millions as printed, for one input and for two: tables A.17 (WRN, CIFAR-100) and 3.5 (PreActResNet, Tiny ImageNet).
# Table 3.5 prints one number for all methods; that of w = 2 is the one with two inputs.
PRINTED = {
    "wrn28-2": {1: "1.48", 2: "1.49"},
    "wrn28-3": {1: "3.31", 2: "3.33"},
    "wrn28-4": {1: "5.87", 2: "5.89"},
    "wrn28-5": {1: "9.16", 2: "9.19"},
    "wrn28-7": {1: "17.92", 2: "17.97"},
    "wrn28-10": {1: "36.53", 2: "36.60"},
    "wrn28-14": {1: "71.55", 2: "71.64"},
    "preact-resnet18-1": {1: "11.2"},
    "preact-resnet18-2": {2: "44.9"},
    "preact-resnet18-3": {1: "100.5"},
}
# Tables 4.3 and 4.5 and METHODS 3, in millions, for data sets of 10 to 200 classes; CaiT-XXS-24 is CaiT's own figure, with 1000.
PRINTED_TRANSFORMERS = {"convit": 12, "cait-xxs24": 12, "cait-xs24": 26, "convit96-3": 0.6, "convit128-3": 1.0}
# METHODS 7, to the last one.
EXACT = {
    ("wrn28-2", 1): 1_479_220,
    ("wrn28-2", 2): 1_492_552,
    ("wrn28-5", 1): 9_161_524,
    ("wrn28-5", 2): 9_194_056,
    ("wrn28-10", 1): 36_536_884,
    ("wrn28-10", 2): 36_601_416,
    ("preact-resnet18-1", 1): 11_268_616,
    ("preact-resnet18-1", 2): 11_372_944,
    ("preact-resnet18-3", 1): 100_537_864,
    ("preact-resnet18-3", 2): 100_846_992,
}
RECIPES = {name: recipe_with(name) for name in recipe_names()}


def blank_set(config: Config) -> ImageSet:
    """One blank image, with the data set's channels and classes."""
    channels = 1 if config.data.name == "digits" else 3
    side = SIDES.get(config.data.name, 32)
    pixels = torch.zeros(1, side, side, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
    classes = tuple(map(str, range(NUM_CLASSES.get(config.data.name, 10))))
    statistics = (0.5,) * channels
    return ImageSet(pixels, torch.zeros(1, dtype=torch.int64), classes, statistics, statistics, "blank", "train")


def network_of(config: Config) -> str:
    """All that decides on a network's parameters."""
    method = config.method
    return f"{config.model.name} {config.data.name} {method.name} {method.num_inputs} {method.encoders} {method.heads}"


NETWORKS = {network_of(config): config for config in RECIPES.values()}


def restated_count(config: Config, num_classes: int) -> int:
    """Parameters of the restated network."""
    model, method = config.model.name, config.method
    sizes = (
        1 if method.encoders == "shared" else method.num_inputs,
        1 if method.heads == "shared" else method.num_inputs,
        num_classes,
    )
    *depth, width = (int(number) for number in re.findall(r"\d+", model.removeprefix("preact-resnet18")))
    with torch.device("meta"):
        if depth:
            twin = restatement.PublishedWideResNet(depth[0], width, sizes)
        else:
            twin = restatement.PublishedPreActResNet18([64 * width, 128 * width, 256 * width, 512 * width], sizes)
    return sum(parameter.numel() for parameter in twin.parameters())


@pytest.mark.parametrize("key", NETWORKS)
def test_parameters(key):
    config = NETWORKS[key]
    model, method, data = config.model.name, config.method, blank_set(config)
    with torch.device("meta"):
        network, _ = build_network(config, data)
    assert all(parameter.is_meta for parameter in network.parameters())
    count = sum(parameter.numel() for parameter in network.parameters())
    if model.startswith(("wrn", "preact")) and data.channels == 3:
        assert count == restated_count(config, data.num_classes)
    if is_transformer(model):
        assert abs(count / 1e6 - PRINTED_TRANSFORMERS[model]) < 1.2  # patches, classes and sources differ
    is_of_table = config.data.name in ("cifar100", "tiny-imagenet") and not is_transformer(model)
    one_each = "shared" not in (method.encoders, method.heads)
    if is_of_table and one_each and method.num_inputs in PRINTED[model]:
        printed = PRINTED[model][method.num_inputs]
        last_digit = 10 ** -len(printed.partition(".")[2])
        assert abs(count / 1e6 - float(printed)) < last_digit  # some are rounded there, some cut off
    if is_of_table and one_each and (model, method.num_inputs) in EXACT:
        assert count == EXACT[model, method.num_inputs]


def test_every_network_of_the_tables_was_counted():
    counted = {config.model.name for config in NETWORKS.values() if config.data.name == "cifar100"}
    assert counted == {"convit"} | {model for model in PRINTED if model.startswith("wrn")}
    assert {model for config in NETWORKS.values() if is_transformer(model := config.model.name)} == set(
        PRINTED_TRANSFORMERS
    )
    assert set(PRINTED) <= {config.model.name for config in NETWORKS.values()}


def feed_settings(config: Config) -> str:
    """All that a batch depends on, the images aside."""
    keys = {"repetition", "views", "input_repetition", "pad", "flip", "augmix", "autoaugment", "random_erasing"}
    data = config.data.model_dump(include=keys)
    return f"{is_transformer(config.model.name)} {config.method} {config.msda} {data} {config.training.batch_size}"


FED = {feed_settings(config): name for name, config in RECIPES.items()}


def random_set(count: int) -> ImageSet:
    rng = np.random.default_rng(1)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(rng.integers(0, 4, count))
    return ImageSet(pixels, labels, tuple("abcd"), MEAN, STD, "random", "train")


def check_batch(config: Config, method: Method, feed: Feed) -> None:
    batch_size, num_inputs = config.training.batch_size, config.method.num_inputs
    transformer = is_transformer(config.model.name)
    moment = Moment(1, config.schedule.epochs)
    plan = feed.plan(1)
    batch = feed.batch(plan, 0, moment)
    labels = feed.data.labels[plan.images[0][plan.slots[0]]]
    assert batch.images.shape[1:] == (3, 8, 8) and torch.isfinite(batch.images).all()
    assert batch.index.shape == (batch_size, num_inputs)
    assert torch.equal(batch.target.sort(1).values, labels.sort(1).values)  # in whatever order heads learn them
    # Eq. 4.4 has no factor M.
    mass = 1 if config.method.heads == "shared" or config.method.name.startswith("mixvit") else num_inputs
    torch.testing.assert_close(batch.weight.sum(1), torch.full((batch_size,), float(mass)))
    has_two_labels = config.msda.kind != "none"
    assert (batch.other is not None) == (batch.share is not None) == has_two_labels
    backbone = {"name": "convit32-1", "image_size": 8, "patch_size": 4} if transformer else {"name": "wrn10-1"}
    network = create_model(**backbone, num_classes=4, method=method, generator=torch.Generator().manual_seed(0))
    method.begin_epoch(network, moment)
    loss = batch_loss(network, batch, config.training.label_smoothing)
    # An untrained head knows nothing: log 4 for every unit of weight, give or take its random features.
    assert 0.3 < loss.item() / (mass * np.log(4)) < 3


@pytest.mark.parametrize("name", FED.values())
def test_a_batch_at_the_recipes_settings(name):
    config = RECIPES[name]
    method = METHODS[config.method.name].from_settings(config.method.model_dump())
    distinct = config.training.batch_size // config.data.repetition
    data, grid = random_set(2 * distinct), (8, 8)
    if is_transformer(config.model.name):
        method, grid = method.fitted_to(build_backbone("convit32-1", image_size=8, patch_size=4)), (2, 2)
    check_batch(config, method, Feed(data, method, config, grid))
