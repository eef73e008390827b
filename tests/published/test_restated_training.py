"""Training steps, ours and restated, given the same weights and the same drawn mix: equal in float64.

Two steps: what is wrong in a gradient, momentum, batch-norm statistics or the learning rate shows in the second.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
import restatement
import torch
from mixfast_kernels import mixed_cross_entropy
from pairs import (
    images_of,
    in_double,
    masks_of,
    mixing_in_double,
    published_gradients,
    published_state,
    published_twin,
    recipe_with,
    restated_weights,
    soft_targets_of,
)
from torch import Tensor

from mixfast.methods import HiddenMix, Method, Moment, MultiInputNetwork, create_method, create_model
from mixfast.models import preact_resnet
from mixfast.training.feed import Batch
from mixfast.training.optimisers import learning_rate_at, make_optimiser
from mixfast.training.trainer import batch_loss

NUM_CLASSES = 5
STEPS = 2  # all of the first epoch, so the warm-up ends with the second


@dataclass(frozen=True)
class Case:
    """One network and method, and how its batches look."""

    model: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    side: int = 16
    batch: int = 4
    two_labels: bool = False
    epoch: int = 1
    hidden_depth: int | None = None


CUT = {"num_inputs": 2, "probability": 1.0}
CUT_3 = {"num_inputs": 3, "probability": 1.0}
TABLE_34 = {"encoders": "shared", "heads": "shared"}
PREACT = {"model": "preact-resnet18-1", "side": 64, "batch": 3}

CASES = {
    "cut, wrn28-2": Case("wrn28-2", "cut-mixmo", CUT, side=8),
    "cut, cutmix labels": Case("wrn10-1", "cut-mixmo", CUT, two_labels=True),
    "cut, linear batch": Case("wrn10-1", "cut-mixmo", {"num_inputs": 2, "probability": 0.0}),
    "cut, M = 3": Case("wrn10-1", "cut-mixmo", CUT_3, two_labels=True),
    "cut, fmix": Case("wrn10-1", "cut-mixmo", {**CUT, "mask": "fmix"}),
    "cut, 1 encoder, 1 head": Case("wrn10-1", "cut-mixmo", {**CUT, **TABLE_34}, two_labels=True),
    "cut, 1 encoder": Case("wrn10-1", "cut-mixmo", {**CUT, "encoders": "shared"}),
    "linear": Case("wrn16-2", "linear-mixmo", {"num_inputs": 2}, two_labels=True),
    "linear, M = 3": Case("wrn10-1", "linear-mixmo", {"num_inputs": 3}),
    "mimo": Case("wrn10-1", "mimo", {"num_inputs": 2}),
    "mimo, M = 3": Case("wrn10-1", "mimo", {"num_inputs": 3}, two_labels=True),
    "mixshare": Case("wrn10-1", "mixshare", {"num_inputs": 2, "fade_epochs": 0}),
    "mixshare, fadeout": Case("wrn10-1", "mixshare", {"num_inputs": 2, "fade_epochs": 100}, epoch=37, two_labels=True),
    "mixshare, partial": Case("wrn10-1", "mixshare", {"num_inputs": 2, "fade_epochs": 0, "unmix_fraction": 0.25}),
    "mixshare, M = 3": Case("wrn10-1", "mixshare", {"num_inputs": 3, "fade_epochs": 100}, epoch=50),
    "single": Case("wrn16-2", "single"),
    "single, cutmix labels": Case("wrn10-1", "single", two_labels=True),
    "single, manifold mixup 0": Case("wrn10-1", "single", two_labels=True, hidden_depth=0),
    "single, manifold mixup 1": Case("wrn10-1", "single", two_labels=True, hidden_depth=1),
    "single, manifold mixup 2": Case("wrn10-1", "single", two_labels=True, hidden_depth=2),
    "cut, preact": Case(method="cut-mixmo", settings=CUT, two_labels=True, **PREACT),
    "linear, M = 3, preact": Case(method="linear-mixmo", settings={"num_inputs": 3}, **PREACT),
    "mixshare, preact": Case(method="mixshare", settings={"num_inputs": 2, "fade_epochs": 100}, epoch=20, **PREACT),
    "single, preact": Case(method="single", **PREACT),
}

# What the thesis says of each data set's training (A.1.3.1), with b = 4 and CIFAR's batches of 64.
RECIPES = {
    "wrn": ("cifar100-wrn28-10-cut-mixmo-b4", 0.1 / 4 * 64 / 128),
    "preact": ("tiny-imagenet-preact-resnet18-3-cut-mixmo-b4", 0.2 / 4),
}


@dataclass
class Trace:
    """What can be seen of a training step, under published names."""

    logits: list[Tensor]
    head_losses: list[Tensor]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def drawn_batch(case: Case, method: Method, grid: tuple[int, int], seed: int) -> Batch:
    """Random images and labels, and the method's own draw; slots share images, as repetition makes them do."""
    generator = torch.Generator().manual_seed(seed)
    slots = (case.batch, method.num_inputs)
    mixing = method.draw(case.batch, grid, Moment(case.epoch, 300), generator=generator, device="cpu")
    labels = torch.randint(NUM_CLASSES, (2, *slots), generator=generator)
    other = share = hidden_mix = None
    if case.two_labels:
        other, share = labels[1], torch.rand(slots, generator=generator)
    if case.hidden_depth is not None:
        partner = torch.randperm(case.batch, generator=generator)
        hidden_mix = HiddenMix(case.hidden_depth, partner, share[:, 0].double())
    return in_double(
        Batch(
            images=torch.randn(case.batch + 1, 3, case.side, case.side, generator=generator),
            index=torch.randint(case.batch + 1, slots, generator=generator),
            mixing=mixing,
            target=labels[0],
            weight=method.loss_weights(mixing_in_double(mixing)),
            other=other,
            share=share,
            hidden_mix=hidden_mix,
        )
    )


def our_trace(case: Case, network: MultiInputNetwork, method: Method, batches: list[Batch], recipe: str) -> list[Trace]:
    config = recipe_with(recipe)
    optimiser = make_optimiser(config, network, torch.device("cpu"))
    method.begin_epoch(network, Moment(case.epoch, 300))
    traces = []
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(config, step, STEPS)
        with torch.no_grad():  # on a copy: batch-norm statistics must not move twice a step
            seen = copy.deepcopy(network)(batch.images, batch.mixing, batch.index, batch.hidden_mix)
        logits = seen.expand(*batch.target.shape, -1)
        losses = losses_of_heads(logits, batch)
        loss = batch_loss(network, batch, config.training.label_smoothing)
        assert loss.item() == pytest.approx(sum(losses).item(), rel=1e-12)
        loss.backward()
        gradients = {name: value.clone() for name, value in published_gradients(network).items()}
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        state = {name: value.clone() for name, value in published_state(network).items()}
        traces.append(Trace(list(logits.unbind(1)), losses, gradients, state))
    return traces


def losses_of_heads(logits: Tensor, batch: Batch) -> list[Tensor]:
    """Each head's loss by our operator, which sums over heads: the weights of the others are 0."""
    heads = torch.eye(batch.target.shape[1], dtype=torch.float64)
    return [
        mixed_cross_entropy(logits, batch.target, batch.weight * only, other=batch.other, share=batch.share)
        for only in heads
    ]


def restated_trace(
    case: Case, twin: restatement.PublishedNetwork, method: Method, batches: list[Batch], rate: float
) -> list[Trace]:
    is_cifar = case.model.startswith("wrn")
    optimiser = restatement.NesterovSGD(twin.parameters(), momentum=0.9, weight_decay=0 if is_cifar else 1e-4)
    features = twin.list_fc[0].in_features
    unmixed = round(getattr(method, "unmix_fraction", 0) * features)
    fade_epochs = getattr(method, "fade_epochs", 0)
    fade = min(1, case.epoch / fade_epochs) if fade_epochs else 0.0
    traces = []
    for step, batch in enumerate(batches, start=1):
        masks, images, between, hidden = masks_of(batch.mixing), images_of(batch), None, batch.hidden_mix
        if hidden is not None and hidden.depth == 0:  # Manifold MixUp of the input images
            inputs = torch.stack([of_sample[0] for of_sample in images])
            images = [[image] for image in restatement.interpolate(inputs, hidden.partner, hidden.share)]
        elif hidden is not None:
            between = {hidden.depth + 1: (hidden.partner, hidden.share)}
        logits = restatement.forward(twin, images, masks, unmixed_channels=unmixed, fade=fade, between=between)
        weights = restated_weights(case.method, getattr(method, "root", 1), len(twin.list_fc) < len(logits), masks)
        losses = restatement.head_losses(logits, soft_targets_of(batch, NUM_CLASSES), weights)
        sum(losses).backward()
        gradients = {name: parameter.grad.clone() for name, parameter in twin.named_parameters()}
        if is_cifar:
            restatement.l2_penalty(twin.parameters(), 3e-4).backward()
        optimiser.step(restatement.learning_rate(rate, 1, step, STEPS, ()))
        state = {name: value.clone() for name, value in twin.state_dict().items()}
        traces.append(Trace([each.detach() for each in logits], losses, gradients, state))
    return traces


@pytest.fixture(scope="module", autouse=True)
def narrow_preact():
    """The code of PreActResNet-18 with an eighth of its channels: float64 on a CPU is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preact_resnet, "STAGE_CHANNELS", (8, 16, 32, 64))
        yield


@pytest.fixture(scope="module", params=CASES)
def traces(request) -> tuple[list[Trace], list[Trace]]:
    case = CASES[request.param]
    method = create_method(case.method, **case.settings)
    generator = torch.Generator().manual_seed(1)
    network = create_model(case.model, num_classes=NUM_CLASSES, method=method, generator=generator).double()
    with torch.no_grad():  # biases and norms start at 0 and 1: nothing would show what they do
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator) * parameter.std().clamp(min=0.1)
    twin = published_twin(case.model, network.train())
    grid = network.core.stem.grid((case.side, case.side))
    batches = [drawn_batch(case, method, grid, seed) for seed in range(STEPS)]
    recipe, rate = RECIPES[case.model.partition("-")[0].rstrip("0123456789")]
    return (
        our_trace(case, network, method, batches, recipe),
        restated_trace(case, twin, method, batches, rate),
    )


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        scale = theirs[name].abs().max().item()
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-8, atol=1e-10 * max(scale, 1e-3), msg=name)


def test_outputs(traces):
    for ours, theirs in zip(*traces, strict=True):
        assert_equal(dict(enumerate(ours.logits)), dict(enumerate(theirs.logits)))


def test_loss_of_each_head(traces):
    for ours, theirs in zip(*traces, strict=True):
        assert len(ours.head_losses) == len(theirs.head_losses)
        for our_loss, their_loss in zip(ours.head_losses, theirs.head_losses, strict=True):
            assert our_loss.item() == pytest.approx(their_loss.item(), rel=1e-10)


def test_gradients_of_all_parameters(traces):
    for ours, theirs in zip(*traces, strict=True):
        assert_equal(ours.gradients, theirs.gradients)


def test_weights_and_statistics_after_each_step(traces):
    for ours, theirs in zip(*traces, strict=True):
        assert_equal(ours.state, theirs.state)
