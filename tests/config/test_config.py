"""Merging layers, reading values, and what follows from a configuration."""

from __future__ import annotations

import math

import pytest
from configs import config, flat, mixmo
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfast.config import Config, ConfigError, differences, plain_baseline
from mixfast.config.keys import section_of
from mixfast.config.layers import deep_merge

LEAVES = st.integers() | st.lists(st.integers(), max_size=2)
TREES = st.fixed_dictionaries(
    {},
    optional={
        "seed": LEAVES,
        "data": st.dictionaries(st.sampled_from("abc"), LEAVES),
        "about": st.fixed_dictionaries({}, optional={"reported": st.dictionaries(st.sampled_from("xyz"), LEAVES)}),
    },
)


@given(TREES, TREES)
def test_merging_is_updating_the_dotted_keys(base, over):
    assert flat(deep_merge(base, over)) == {**flat(base), **flat(over)}


@given(TREES, TREES, TREES)
def test_merging_is_associative_and_changes_neither(a, b, c):
    before = repr((a, b, c))
    assert deep_merge(deep_merge(a, b), c) == deep_merge(a, deep_merge(b, c))
    assert repr((a, b, c)) == before


def test_lists_are_replaced_not_joined():
    assert deep_merge({"s": {"l": [1, 2]}}, {"s": {"l": [3]}}) == {"s": {"l": [3]}}


def test_overrides_reach_every_kind_of_value():
    changed = mixmo(
        "optimizer.lr=1e-3",
        "training.amp=off",
        "training.compile = on",
        "training.ema_decay=null",
        "schedule.decay_epochs=[3, 6]",
        "optimizer.lr=2e-3",
        "data.name=folder:my pets",
        "baseline=true",
        "method.num_inputs=3",
        "seed=7",
        "about.reported.top1=0.5",
        "about.title=a = b",
    )
    assert changed.optimizer.lr == 0.002  # the later override wins
    assert (changed.training.amp, changed.training.compile, changed.training.ema_decay) == ("off", "on", None)
    assert changed.schedule.decay_epochs == (3, 6)
    assert changed.data.name == "folder:my pets"
    assert (changed.baseline, changed.method.num_inputs, changed.seed) == (True, 3, 7)
    assert changed.about.reported == {"top1": 0.5}
    assert changed.about.title == "a = b"


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        config().seed = 1
    with pytest.raises(ValueError, match="frozen"):
        config().data.pad = 1


def test_every_key_is_described_and_every_number_bounded():
    for section in (section_of(Config, name) for name in Config.model_fields):
        for name, field in (section or Config).model_fields.items():
            if section is None and section_of(Config, name) is not None:
                continue
            assert field.description, name
            if field.annotation in (int, float, int | None, float | None):
                kinds = {type(limit).__name__ for limit in field.metadata}
                assert kinds & {"Ge", "Gt"}, name
                assert kinds & {"Le", "Lt"} or name == "max_steps", name


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        (["optimizer.lr=0.1"], 0.1),
        (["optimizer.lr=0.2", "data.repetition=4", "training.batch_size=100"], 0.05),
        (["optimizer.lr=0.2", "data.repetition=4", "optimizer.lr_per_repetition=false"], 0.2),
        (["optimizer.lr=0.1", "optimizer.lr_scaling=linear", "data.repetition=4"], 0.0125),
        (["optimizer.lr=0.1", "optimizer.lr_scaling=linear"], 0.05),
        (["optimizer.lr=1e-3", "optimizer.lr_scaling=sqrt", "training.batch_size=32"], 0.0005),
        (["optimizer.lr=0.1", "optimizer.lr_scaling=linear", "optimizer.lr_batch=256"], 0.025),
    ],
)
def test_learning_rate(overrides, rate):
    assert math.isclose(mixmo(*overrides).learning_rate(), rate, rel_tol=1e-12)


def test_differences():
    old = mixmo("about.reported.top1=0.5", "schedule.decay_epochs=[3]")
    new = mixmo("seed=3", "optimizer.lr=1e-3", "training.amp=bfloat16", "about.reported.nll=1.5")
    assert differences(old, old) == []
    assert differences(old, new) == [
        "about.reported.top1: 0.5 -> (absent)",
        "seed: 0 -> 3",
        "optimizer.lr: 0.1 -> 0.001",
        "schedule.decay_epochs: [3] -> []",
        "training.amp: off -> bfloat16",
        "about.reported.nll: (absent) -> 1.5",
    ]


def test_replacing_keys():
    old = mixmo("ensemble.members=3", "data.pad=2")
    new = old.replace(seed=5, ensemble={"members": 1}, data={"flip": True})
    assert differences(old, new) == ["seed: 0 -> 5", "data.flip: False -> True", "ensemble.members: 3 -> 1"]
    with pytest.raises(ConfigError, match="method.num_inputs is 1"):
        old.replace(method={"num_inputs": 1})
    with pytest.raises(ConfigError, match="unknown key 'sead'"):
        old.replace(sead=1)


def steps_taken(run: Config, images: int) -> int:
    """As METHODS 7 counts them: floor(N b / bs) an epoch, cut at max_steps."""
    per_epoch = images * run.data.repetition // run.training.batch_size
    return min(run.schedule.epochs * per_epoch, run.schedule.max_steps or math.inf)


@settings(deadline=None)
@given(
    images=st.integers(64, 5000),
    repetition=st.sampled_from([1, 2, 4, 8]),
    epochs=st.integers(1, 40),
    max_steps=st.none() | st.integers(1, 4000),
)
def test_the_plain_baseline_takes_exactly_as_many_steps(images, repetition, epochs, max_steps):
    own = mixmo(f"data.repetition={repetition}", f"schedule.epochs={epochs}", f"schedule.max_steps={max_steps or '~'}")
    total = steps_taken(own, images)
    assert steps_taken(plain_baseline(own, total), images) == total


def test_the_plain_baseline_changes_nothing_else():
    own = mixmo(
        "about.title=mine",
        "about.reported.top1=0.5",
        "data.repetition=4",
        "data.views=shared",
        "data.input_repetition=0.1",
        "msda.kind=cutmix",
        "method.root=2",
        "optimizer.lr_scaling=linear",
        "schedule.warmup_epochs=0.5",
        "schedule.decay_epochs=[3, 6]",
        "evaluation.every=2",
        "baseline=true",
    )
    plain = plain_baseline(own, 10 * 90)
    assert differences(own, plain) == [
        "about.title: mine -> Plain network beside: mine",
        "about.reported.top1: 0.5 -> (absent)",
        "data.repetition: 4 -> 1",
        "data.views: shared -> independent",
        "data.input_repetition: 0.1 -> 0.0",
        "method.name: cut-mixmo -> single",
        "method.num_inputs: 2 -> 1",
        "method.root: 2.0 -> 3.0",
        "schedule.epochs: 10 -> 41",
        "schedule.warmup_epochs: 0.5 -> 2.0",
        "schedule.decay_epochs: [3, 6] -> [12, 24]",
        "schedule.max_steps: None -> 900",
        "evaluation.every: 2 -> 8",
        "baseline: True -> False",
    ]
    assert own.learning_rate() == 0.0125
    assert plain.learning_rate() == 0.05


def test_a_plain_network_has_no_plain_baseline():
    with pytest.raises(ConfigError, match="expected a method with several inputs"):
        plain_baseline(config(), 10)
    with pytest.raises(ConfigError, match="total_steps is 0"):
        plain_baseline(mixmo(), 0)
