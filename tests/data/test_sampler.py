"""plan_epoch: the published batch repetition, as properties."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixfast.data import EpochPlan, plan_epoch
from mixfast.data.randomness import random_keys
from mixfast.data.sampler import repeated_inputs


@st.composite
def arguments(draw: st.DrawFn) -> dict:
    repetition = draw(st.integers(1, 4))
    distinct = draw(st.integers(1, 6))
    return {
        "num_images": draw(st.integers(distinct, 40)),
        "batch_size": repetition * distinct,
        "num_inputs": draw(st.integers(1, 4)),
        "repetition": repetition,
        "input_repetition": draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "epoch": draw(st.integers(0, 1000)),
    }


def plan(**changes: object) -> EpochPlan:
    usual = {"num_images": 100, "batch_size": 16, "num_inputs": 2, "repetition": 2}
    return plan_epoch(**(usual | {"input_repetition": 0.0, "seed": 0, "epoch": 1} | changes))


@given(arguments())
def test_shapes_and_number_of_steps(args: dict) -> None:
    epoch = plan_epoch(**args)
    steps = args["num_images"] * args["repetition"] // args["batch_size"]
    assert len(epoch) == steps
    assert epoch.images.shape == (steps, args["batch_size"] // args["repetition"])
    assert epoch.slots.shape == (steps, args["batch_size"], args["num_inputs"])
    assert epoch.images.dtype == epoch.slots.dtype == torch.int64


@given(arguments())
def test_no_image_is_in_two_steps(args: dict) -> None:
    seen = plan_epoch(**args).images.flatten().tolist()
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(args["num_images"]))


@given(arguments())
def test_every_image_of_a_step_stands_exactly_b_times_in_every_slot(args: dict) -> None:
    epoch = plan_epoch(**args)
    for step, slot in itertools.product(range(len(epoch)), range(args["num_inputs"])):
        images = epoch.images[step][epoch.slots[step, :, slot]].tolist()
        assert Counter(images) == dict.fromkeys(epoch.images[step].tolist(), args["repetition"])


@given(arguments())
def test_the_first_samples_repeat_their_input(args: dict) -> None:
    epoch = plan_epoch(**args)
    pairs_alike = int(args["input_repetition"] * args["batch_size"] + 1e-9)
    repeated = epoch.slots[:, :pairs_alike]
    assert torch.equal(repeated, repeated[:, :, :1].expand_as(repeated))


@given(arguments())
def test_an_epoch_is_a_pure_function_of_its_arguments(args: dict) -> None:
    first, again = plan_epoch(**args), plan_epoch(**args)
    assert torch.equal(first.images, again.images) and torch.equal(first.slots, again.slots)


def test_all_epochs_and_seeds_differ_even_where_torch_generators_would_not() -> None:
    keys = [(seed, epoch) for seed in (0, 1, 2**32, 2**32 + 1, 2**63) for epoch in (0, 1, 2, 2**32, 2**32 + 1)]
    plans = {tuple(plan(seed=seed, epoch=epoch).slots.flatten().tolist()) for seed, epoch in keys}
    assert len(plans) == len(keys)


def test_the_plan_never_changes_between_versions() -> None:
    """Written down once; another result means that old runs can no longer be resumed or repeated."""
    assert random_keys((3,), seed=7, stream=5).tolist() == [
        449545590169594894,
        7479437727250208597,
        3167627746375035659,
    ]
    epoch = plan(num_images=5, batch_size=4, seed=7, epoch=5)
    assert epoch.images.tolist() == [[0, 4], [3, 2]]
    assert epoch.slots.tolist() == [[[0, 0], [1, 1], [0, 0], [1, 1]], [[1, 1], [0, 0], [0, 0], [1, 1]]]


def test_slots_are_uniform_and_independent() -> None:
    """The first sample's images in slots 0 and 1: each of the U * U pairs, self-pairs included, equally often."""
    counts: Counter = Counter()
    epoch = plan(num_images=36_000, batch_size=8, repetition=2, seed=3)  # 9,000 steps of U = 4
    counts.update(map(tuple, epoch.slots[:, 0].tolist()))
    assert len(counts) == 16
    # binomial(9000, 1/16): mean 562.5, deviation 23; five deviations
    assert all(abs(count - 562.5) < 115 for count in counts.values())


def test_samples_that_repeat_no_input_are_still_shuffled_against_each_other() -> None:
    epoch = plan(num_images=4_000, input_repetition=0.25)
    rest = epoch.slots[:, 4:]
    alike = (rest[..., 0] == rest[..., 1]).double().mean()
    assert alike < 0.25  # chance: about 1 / 8


@pytest.mark.parametrize(("share", "size", "expected"), [(0.1, 30, 3), (0.29, 100, 29), (0.1, 64, 6), (0.0, 8, 0)])
def test_repeated_inputs_rounds_down_but_forgives_floating_point(share: float, size: int, expected: int) -> None:
    assert repeated_inputs(size, share) == expected


@given(arguments())
def test_views_show_the_same_images_in_the_same_places(args: dict) -> None:
    epoch = plan_epoch(**args)
    shared, independent = epoch.batch(0, "shared"), epoch.batch(0, "independent")
    assert torch.equal(shared.images[shared.slots], independent.images[independent.slots])
    assert len(shared.images) == args["batch_size"] // args["repetition"]
    assert sorted(independent.slots.flatten().tolist()) == list(range(args["batch_size"] * args["num_inputs"]))


def test_unknown_views() -> None:
    with pytest.raises(ValueError, match="views is 'both', expected one of: independent, shared"):
        plan().batch(0, "both")


def test_to_moves_both() -> None:
    moved = plan().to("meta")
    assert moved.images.device.type == moved.slots.device.type == "meta"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 50, "repetition": 4}, "batch_size 50 is not divisible by repetition 4.* works is 48 or 52"),
        ({"batch_size": 3, "repetition": 4}, "batch_size 3 is not divisible by repetition 4.* works is 4"),
        ({"num_images": 7}, "batch of 16 with repetition 2 takes 8 distinct images, but the data set has only 7"),
        ({"repetition": 0}, "repetition is 0, expected at least 1"),
        ({"num_inputs": 0}, "num_inputs is 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"input_repetition": 1.5}, "input_repetition is 1.5, expected a number in 0..1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_what_cannot_be_planned(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(**changes)
