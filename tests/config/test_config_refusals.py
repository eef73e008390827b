"""What a configuration refuses, and how it says so."""

from __future__ import annotations

import functools
import operator

import pytest
import yaml
from configs import SMALLEST, config, mixmo

from mixfast.config import Config, ConfigError
from mixfast.config.consistency import METHOD_KEYS
from mixfast.config.layers import Layer, build
from mixfast.methods.registry import METHODS

CROPPED = ["data.crop_area=[0.08, 1]"]
FROM_FILES = ["data.regions=files", "data.image_size=64"]


def refusal(*overrides: str) -> str:
    """The message with which these overrides of a Cut-MixMo configuration are refused."""
    with pytest.raises(ConfigError) as refused:
        mixmo(*overrides)
    return str(refused.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "optimizer.lrr=1",
            ["override 'optimizer.lrr=1'", "unknown key 'optimizer.lrr'", "did you mean 'optimizer.lr'?"],
        ),
        ("optimiser.lr=1", ["unknown key 'optimiser.lr'", "did you mean 'optimizer.lr'?"]),
        ("lr=1", ["unknown key 'lr'", "did you mean 'optimizer.lr'?", "top level has"]),
        ("modle.name=x", ["did you mean 'model.name'?"]),
        ("data.momentum=0", ["did you mean 'optimizer.momentum'?", "section data has name, dir"]),
        ("schedule.epoch=3", ["did you mean 'schedule.epochs'?"]),
        ("sed=3", ["did you mean 'seed'?"]),
        ("seed.x=3", ["unknown key 'seed.x'"]),
        ("data.pad.x=3", ["data.pad is {'x': 3}, expected a whole number"]),
        ("optimizer=sgd", ["optimizer is a section, expected one of its keys: optimizer.name, optimizer.lr"]),
        ("ensemble=3", ["ensemble is a section, expected one of its keys: ensemble.members"]),
        ("seed", ["override 'seed': expected key=value"]),
        ("=3", ["expected key=value"]),
        ("schedule.decay_epochs=[1, 2", ["override 'schedule.decay_epochs=[1, 2'", "line 1"]),
        ("schedule.epochs=ten", ["schedule.epochs is 'ten', expected a whole number (override 'schedule.epochs=ten')"]),
        ("schedule.epochs=1.5", ["schedule.epochs is 1.5, expected a whole number"]),
        ("schedule.epochs=true", ["schedule.epochs is True, expected a whole number"]),
        ("schedule.epochs=0", ["schedule.epochs is 0, expected a number of at least 1"]),
        ("schedule.decay_epochs=5", ["schedule.decay_epochs is 5, expected a list"]),
        ("schedule.decay_epochs=[1, x]", ["schedule.decay_epochs.1 is 'x', expected a whole number"]),
        ("optimizer.lr=0", ["optimizer.lr is 0, expected a number above 0"]),
        ("optimizer.lr='1e-3'", ["optimizer.lr is '1e-3', expected a number"]),
        ("optimizer.lr=null", ["optimizer.lr is None, expected a number"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas"]),
        ("optimizer.momentum=1", ["optimizer.momentum is 1, expected a number below 1"]),
        ("data.flip=yes", ["data.flip is 'yes', expected true or false"]),
        ("data.validation=2", ["data.validation is 2, expected a number of at most 0.9"]),
        ("data.random_erasing=-0.1", ["data.random_erasing is -0.1, expected a number of at least 0"]),
        ("data.autoaugment=svhn", ["data.autoaugment is 'svhn', expected one of none, cifar, imagenet"]),
        ("msda.kind=cutmix_mixup", ["did you mean 'cutmix-mixup'?"]),
        ("msda.mixup_alpha=0", ["msda.mixup_alpha is 0, expected a number above 0"]),
        ("data.input_repetition=1.5", ["expected a number of at most 1"]),
        ("data.name=", ["data.name is None, expected text"]),
        ("data.name=''", ["data.name is '', expected text that is not empty"]),
        ("data.name=3", ["data.name is 3, expected text"]),
        ("method.probability=1.2", ["method.probability is 1.2, expected a number of at most 1"]),
        (
            "method.name=cutmixmo",
            ["method.name is 'cutmixmo', expected one of single, mimo", "did you mean 'cut-mixmo'?"],
        ),
        ("training.compile=true", ["training.compile is True, expected one of auto, on, off"]),
        ("training.ema_decay=1", ["training.ema_decay is 1, expected a number below 1"]),
        ("training.ema_decay=0", ["training.ema_decay is 0, expected a number above 0"]),
        ("ensemble.members=0", ["ensemble.members is 0, expected a number of at least 1"]),
        ("about.reported=0.9", ["about.reported is 0.9, expected a mapping"]),
        ("about.reported.top1=.nan", ["about.reported.top1 is '.nan', expected a number"]),
    ],
)
def test_a_wrong_override_is_refused(override, expected):
    message = refusal(override)
    for part in expected:
        assert part in message


def test_all_problems_are_told_at_once():
    message = refusal("schedule.epochs=0", "optimizer.lr=fast", "training.batch_size=-1")
    assert [line.split(" is ")[0] for line in message.splitlines()] == [
        "optimizer.lr",
        "schedule.epochs",
        "training.batch_size",
    ]


def test_missing_keys_are_named():
    with pytest.raises(ConfigError) as refused:
        build(
            Config, [Layer("mine.yaml", {"data": {"pad": 4}, "model": {"name": "wrn10-1"}, "optimizer": {"lr": 1.0}})]
        )
    assert str(refused.value).splitlines() == [
        "data.name is missing (in mine.yaml)",
        "schedule.epochs is missing (in mine.yaml)",
        "training.batch_size is missing (in mine.yaml)",
    ]


def test_the_layer_that_a_wrong_value_comes_from_is_named():
    layers = [Layer("base.yaml", {**SMALLEST, "data": {"name": "digits", "pad": -1}}), Layer("top.yaml", {"seed": -1})]
    with pytest.raises(ConfigError) as refused:
        build(Config, layers)
    assert str(refused.value).splitlines() == [
        "seed is -1, expected a number of at least 0 (top.yaml)",
        "data.pad is -1, expected a number of at least 0 (base.yaml)",
    ]


def test_a_section_must_be_a_mapping():
    for value in (None, "cifar100", ["cifar100"]):
        with pytest.raises(
            ConfigError, match=r"mine.yaml: data is a section, expected keys below it such as data.name"
        ):
            build(Config, [Layer("mine.yaml", {"data": value})])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.repetition=3"], ["batch_size is 64 and data.repetition is 3", "nearest batch size is 63 or 66"]),
        (["data.repetition=7", "training.batch_size=5"], ["nearest batch size is 7"]),
        (["method.num_inputs=1"], ["method.name is cut-mixmo and method.num_inputs is 1", "method.num_inputs=2"]),
        (["method.name=mimo", "method.num_inputs=1"], ["method.name is mimo and method.num_inputs is 1"]),
        (["method.name=linear-mixmo", "method.num_inputs=1"], ["method.name is linear-mixmo"]),
        (["method.name=mixshare", "method.num_inputs=1", "method.probability=1"], ["method.name is mixshare"]),
        (["method.name=single"], ["method.name is single and method.num_inputs is 2", "set method.num_inputs=1"]),
        (["method.mask=cowmask", "method.num_inputs=3"], ["method.mask is cowmask", "method.mask=rectangle"]),
        (["method.heads=random", "method.num_inputs=3"], ["method.heads is random", "two inputs"]),
        (["method.heads=by-ratio", "method.num_inputs=3"], ["method.heads is by-ratio", "two inputs"]),
        (["method.heads=by-ratio", "method.name=mimo"], ["method.heads is by-ratio", "with method.name=mimo"]),
        (["method.heads=shared", "method.root=2"], ["method.root is 2.0", "leave it at 3.0"]),
        (["method.encoders=shared", "method.encoder_init=same"], ["method.encoder_init is same"]),
        (["method.unmix_fraction=0.25"], ["method.unmix_fraction is 0.25", "no effect with method.name=cut-mixmo"]),
        (["method.fade_epochs=5"], ["method.fade_epochs is 5", "no effect with method.name=cut-mixmo"]),
        (["method.name=linear-mixmo", "method.mask=fmix"], ["method.mask is fmix", "method.name=linear-mixmo"]),
        (["method.name=mixshare"], ["method.probability is 0.5", "set method.probability=1"]),
        (["method.name=mixshare", "method.probability=1", "method.heads=shared"], ["set method.heads=per-input"]),
        (["method.name=mixshare", "method.probability=1", "method.fade_epochs=11"], ["at most 10"]),
        (["msda.kind=manifold-mixup"], ["msda.kind is manifold-mixup and method.name is cut-mixmo", "mixup or cutmix"]),
        (["msda.alpha=2"], ["msda.alpha is 2.0", "with msda.kind=none"]),
        (["msda.mixup_alpha=1"], ["msda.mixup_alpha is 1.0", "with msda.kind=none"]),
        (["msda.kind=mixup", "msda.mixup_alpha=1"], ["msda.mixup_alpha is 1.0", "with msda.kind=mixup"]),
        (["data.augmix=true", "data.autoaugment=cifar"], ["data.augmix is true", "data.autoaugment is cifar"]),
        (
            ["data.randaugment=2", "data.autoaugment=cifar"],
            ["data.autoaugment is cifar and data.randaugment is 2", "=0"],
        ),
        (["data.randaugment_magnitude=5"], ["data.randaugment_magnitude is 5", "no effect with data.randaugment=0"]),
        (["optimizer.betas=[0.8, 0.9]"], ["optimizer.betas is (0.8, 0.9)", "with optimizer.name=sgd"]),
        (["optimizer.name=adamw", "optimizer.momentum=0.8"], ["optimizer.momentum is 0.8"]),
        (["optimizer.name=adamw", "optimizer.betas=[0.9, 1]"], ["optimizer.betas is [0.9, 1.0]"]),
        (["optimizer.momentum=0"], ["optimizer.nesterov=false"]),
        (["optimizer.lr_batch=256"], ["optimizer.lr_batch is 256", "with optimizer.lr_scaling=none"]),
        (["optimizer.implementation=apex", "training.device=cpu"], ["CUDA kernels only"]),
        (["schedule.warmup_epochs=10.5"], ["schedule.warmup_epochs to at most 10"]),
        (["schedule.decay_epochs=[5, 3]"], ["[5, 3], expected increasing"]),
        (["schedule.decay_epochs=[5, 5]"], ["[5, 5], expected increasing"]),
        (["schedule.decay_epochs=[100, 200, 225]"], ["schedule.epochs is 10", "schedule.decay_epochs=[3, 7, 8] or []"]),
        (["schedule.decay_epochs=[10]"], ["schedule.decay_epochs is [10] and schedule.epochs is 10"]),
        (["schedule.decay_epochs=[0, 5]"], ["schedule.decay_epochs is [0, 5]"]),
        (["schedule.decay=0.2"], ["schedule.decay is 0.2", "without schedule.decay_epochs"]),
        (["training.device=gpu"], ["training.device is 'gpu', expected auto, cpu, cuda"]),
        (["training.device=cuda:x"], ["training.device is 'cuda:x'"]),
        (["data.validation=0"], ["evaluation.select is validation and data.validation is 0", "evaluation.select=last"]),
        (["baseline=true", "ensemble.members=2"], ["baseline is true and ensemble.members is 2"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_a_remedy(overrides, expected):
    message = refusal(*overrides)
    for part in expected:
        assert part in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.crop_area=[0, 1]"], "data.crop_area is [0.0, 1.0], expected two shares"),
        (["data.crop_area=[0.5, 1.1]"], "data.crop_area is [0.5, 1.1], expected two shares"),
        (["data.crop_area=[0.9, 0.3]"], "the smaller one first"),
        (["data.crop_area=[0.08, 1]", "data.pad=4"], "each crops by itself; set data.pad=0"),
        (["data.stored_size=64"], "data.stored_size is 64, which has no effect without data.crop_area"),
        (["data.regions=files"], "data.regions is files, which has no effect without data.crop_area"),
        ([*CROPPED, "data.image_size=64", "data.stored_size=63"], "data.stored_size is 63 and data.image_size is 64"),
        ([*CROPPED, "data.stored_size=64"], "data.stored_size is 64 and data.image_size is null"),
        (
            [*CROPPED, *FROM_FILES, "data.stored_size=64"],
            "data.stored_size is 64, which has no effect with data.regions=files",
        ),
        ([*CROPPED, *FROM_FILES, "data.source=resident"], "set data.regions=images, or data.source=dali or torch"),
        ([*CROPPED, "data.regions=files"], "data.regions is files and data.image_size is null"),
    ],
)
def test_random_resized_crop_that_cannot_be(overrides, expected):
    message = refusal(*overrides)
    assert expected in message and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.input_repetition=0.1"], "data.input_repetition is 0.1 and method.num_inputs is 1"),
        (["data.views=shared"], "data.views is shared"),
        (["baseline=true"], "baseline is true and method.num_inputs is 1"),
        (["method.alpha=1"], "method.alpha is 1.0, which has no effect with method.name=single"),
    ],
)
def test_a_plain_network_has_nothing_to_mix(overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        config(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.amp=float16", "training.device=cpu"],
        ["training.device=cuda:1", "optimizer.implementation=apex"],
        ["schedule.warmup_epochs=10"],
        ["schedule.decay_epochs=[1, 9]"],
        ["method.probability=0"],
        ["method.num_inputs=3"],
        ["method.heads=random"],
        ["msda.kind=cutmix", "msda.alpha=0.2"],
        ["msda.kind=cutmix-mixup", "msda.mixup_alpha=0.2", "data.autoaugment=imagenet", "data.random_erasing=1"],
        ["data.augmix=true", "data.random_erasing=0.25"],
        ["data.repetition=64"],
        ["data.views=shared", "data.input_repetition=1"],
        ["data.validation=0", "evaluation.select=test"],
        ["optimizer.name=adamw", "optimizer.betas=[0, 0.99]"],
        ["optimizer.momentum=0", "optimizer.nesterov=false"],
        ["baseline=true"],
        CROPPED,
        [*CROPPED, *FROM_FILES, "data.source=dali"],
        [*CROPPED, "data.image_size=32", "data.stored_size=32", "data.regions=images"],
    ],
)
def test_what_makes_sense_is_accepted(overrides):
    config = mixmo(*overrides).model_dump(mode="json")
    for override in overrides:
        *sections, key = override.partition("=")[0].split(".")
        section = functools.reduce(operator.getitem, sections, config)
        assert section[key] == yaml.safe_load(override.partition("=")[2]), override


# Fields that are inherited and fixed by the method, or come from the backbone.
NO_SETTINGS = {
    "mixshare": {"inference", "anneal"},
    "mixvit-embedding": {"patch_size"},
    "mixvit-encoding": {"patch_size"},
    "mixvit-unattributed": {"patch_size", "place"},
}


def test_the_keys_of_each_method_are_those_its_class_reads():
    for name, method in METHODS.items():
        fields = set(method.setting_names()) - {"num_inputs"}
        assert NO_SETTINGS.get(name, set()) <= fields
        assert METHOD_KEYS[name] == fields - NO_SETTINGS.get(name, set())
    assert set(METHOD_KEYS) == set(METHODS)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method.inference=single"], "method.inference is single and method.name is cut-mixmo"),
        (["method.inference=alternating"], "set method.inference=sum or separate"),
        (["method.name=mixvit-embedding", "method.root=1"], "method.root is 1.0, which has no effect"),
        (["method.name=mixvit-unattributed", "method.place=early"], "method.place is early, which has no effect"),
        (
            ["method.name=mixvit-embedding", "method.tokens=all", "method.inference=sum"],
            "method.inference is sum and method.tokens is all",
        ),
        (
            ["method.name=mixvit-embedding", "method.tokens=all", "method.alpha=1"],
            "method.alpha is 1.0, which has no effect",
        ),
        (["method.name=mixshare", "method.probability=1", "method.inference=separate"], "method.inference is separate"),
        (["method.name=mixshare", "method.probability=1", "method.anneal=false"], "method.anneal is False"),
    ],
)
def test_transformers_settings_that_contradict_each_other(overrides, expected):
    assert expected in refusal(*overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.repetition=4", "data.groups=3"], "data.groups is 3 and a batch holds 16 distinct images"),
        (["training.accumulation=3"], "training.accumulation is 3 and training.batch_size is 64"),
        (["method.name=single", "method.num_inputs=1", "data.groups=2"], "data.groups is 2, which has no effect"),
    ],
)
def test_parts_of_a_batch_that_cannot_be(overrides, expected):
    assert expected in refusal("training.batch_size=64", *overrides)


def test_partners_in_features_are_in_one_part():
    manifold = ["method.name=single", "method.num_inputs=1", "msda.kind=manifold-mixup", "training.accumulation=2"]
    assert "set data.groups to a multiple of training.accumulation" in refusal(*manifold, "training.batch_size=64")


def test_masks_for_more_than_two_inputs_are_defined_where_a_sample_shows_two():
    method = mixmo("method.name=mixvit-embedding", "method.num_inputs=3", "method.mask=fmix").method
    assert (method.name, method.num_inputs, method.mask) == ("mixvit-embedding", 3, "fmix")
