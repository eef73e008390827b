"""The transformers' opponent computes what mixfast computes: the same loss, gradients and predictions for the same draws."""

from __future__ import annotations

import pytest
import torch
from mixfast_bench.cases import training_config
from mixfast_bench.data import BatchStream
from mixfast_bench.inference import InferencePass
from mixfast_bench.measure import no_mark
from mixfast_bench.plain_steps import PlainMixViTInference, PlainMixViTStep, plain_loss, plain_network
from mixfast_bench.registry import (
    EMBEDDING,
    ENCODING,
    TRANSFORMER_COMPARISONS,
    TRANSFORMER_INFERENCES,
    TRANSFORMER_STEPS,
    inferences,
    steps,
)
from mixfast_bench.step import TrainerStep

from mixfast.training.feed import Feed
from mixfast.training.session import build_network
from mixfast.training.trainer import batch_loss


def randomised(network):
    """Gates, norms and scales away from their first values, which hide errors."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize("case", [EMBEDDING, ENCODING], ids=lambda case: case.method)
@pytest.mark.parametrize("backbone", ["convit64-2", "cait-xxs24"])
def test_same_loss_gradients_and_predictions(case, backbone, small_batches, few_images, cpu):
    config = training_config(case, small_batches, device=cpu, backbone=backbone)
    network, method = build_network(config, few_images)
    randomised(network).double()
    plain = plain_network(network).double()
    stream = BatchStream(Feed(few_images, method, config, network.core.grid, torch.float64), 300)
    batch = stream.next()
    ours, theirs = batch_loss(network, batch, 0.1), plain_loss(plain, batch, 0.1)
    torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-7)  # the loss weights are float32
    ours.backward()
    theirs.backward()
    width = network.core.num_features
    first = network.core.blocks[0].attention.qkv.weight.grad
    mine = plain.blocks[0].attention
    packed = (
        mine.qkv.weight.grad
        if hasattr(mine, "qkv")
        else torch.cat((mine.queries_keys.weight.grad, mine.values.weight.grad))
    )
    pairs = [
        (plain.encoder.weight.grad, network.encoder.weight.grad[0]),
        (plain.position.grad, network.core.position.grad.flatten(1).T),
        (packed, first),
        (plain.class_blocks[0].attention.key.weight.grad, network.core.class_blocks[0].key.weight.grad),
        (plain.class_blocks[1].attention.value.bias.grad, network.core.class_blocks[1].value.bias.grad),
        (plain.source_bias.grad, network.sources.bias.grad),
        (plain.heads[1].weight.grad, network.heads.weight.grad[1]),
        (plain.class_token.grad, network.core.class_token.grad),
    ]
    if case is ENCODING:
        pairs.append((plain.source_weight.grad, network.sources.weight.grad))
    for wanted, got in pairs:
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)
    assert width == plain.norm.weight.numel()
    images = batch.images[:3]
    with torch.no_grad():
        predicted = torch.stack(plain.eval().predict(images), 1)
        torch.testing.assert_close(network.eval().predict(images), predicted, rtol=1e-7, atol=1e-9)


def test_the_steps_run_and_learn(small_batches, few_images, cpu):
    for kind in (TrainerStep, PlainMixViTStep):
        config = training_config(EMBEDDING, small_batches, device=cpu, backbone="convit64-1")
        step = kind("step", config, few_images)
        assert step.result is None and step.flops > 0
        losses = []
        for _ in range(12):
            step.run(no_mark)
            losses.append(step.result.item())
        assert sum(losses[-3:]) < sum(losses[:3])


def test_the_opponent_does_the_same_work(small_batches, few_images, cpu):
    config = training_config(EMBEDDING, small_batches, device=cpu, backbone="convit64-1")
    ours, theirs = InferencePass("ours", config, few_images), PlainMixViTInference("theirs", config, few_images)
    assert ours.flops == theirs.flops
    for each in (ours, theirs):
        each.run(no_mark)
    torch.testing.assert_close(ours.result, theirs.result, rtol=1e-4, atol=1e-5)
    assert ours.result.shape == (8, 2, 10) and not ours.result.requires_grad


def test_transformers_have_contenders_of_their_own():
    for entries in (TRANSFORMER_STEPS, TRANSFORMER_INFERENCES):
        names = [entry.name for entry in entries]
        assert len(set(names)) == len(names)
        assert {name for c in TRANSFORMER_COMPARISONS for name in (c.numerator, c.denominator)} <= set(names)
    assert [entry.name for entry in steps("convit", "on")[0]] == [
        "single, compiled",
        "mixvit-embedding, compiled",
        "mixvit-encoding, compiled",
        "straightforward",
    ]
    assert [entry.name for entry in inferences("wrn28-2", "off")[0]] == ["single, eager", "cut-mixmo, eager"]
