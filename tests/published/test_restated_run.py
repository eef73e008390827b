"""A whole short training by `Trainer`, beside the restatement."""

from __future__ import annotations

import io

import pytest
import restatement
import torch
from pairs import (
    images_of,
    in_double,
    masks_of,
    published_state,
    published_twin,
    recipe_with,
    restated_weights,
    soft_targets_of,
)
from rich.console import Console
from view_search import random_image_set

from mixfast.methods import METHODS, Moment
from mixfast.training import trainer as trainer_module
from mixfast.training.feed import Feed
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import build_network
from mixfast.training.stopping import StopRequest
from mixfast.training.trainer import Trainer

STEPS = 4


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("cifar100-wrn28-10-cut-mixmo-cutmix-b4", 0.1 / 4 * 8 / 128),
        ("cifar100-wrn28-10-cutmix", 0.1 * 8 / 128),
        ("cifar100-wrn28-2-mixshare-fadeout-b2", 0.1 / 2 * 8 / 128),
    ],
)
def test_four_steps(name, rate, tmp_path, monkeypatch):
    """Two epochs of two steps: warm-up, then the full rate, and fadeout goes on. Draws are float32, all else 64."""
    # Evaluation feeds float32 images, which a float64 network refuses; it isn't what is tested here.
    monkeypatch.setattr(trainer_module, "predict_logits", lambda network, data, *_: torch.zeros(len(data), 1, 7))
    small = ["model.name=wrn10-1", "training.batch_size=8", f"schedule.max_steps={STEPS}", "evaluation.select=last"]
    config = recipe_with(name, small)
    repetition = config.data.repetition
    train_set = random_image_set(2 * 8 // repetition, side=16)
    method = METHODS[config.method.name].from_settings(config.method.model_dump())
    network, _ = build_network(config, train_set)
    network.double()
    twin = published_twin(config.model.name, network)
    initial = {key: value.clone() for key, value in published_state(network).items()}
    feed = Feed(train_set, method, config, (16, 16))

    run = RunDirectory(tmp_path / "run")
    run.create(config)
    trainer = Trainer(config, network, method, train_set, train_set, run, Console(file=io.StringIO()))
    with StopRequest() as stop:
        assert trainer.train(stop)

    optimiser = restatement.NesterovSGD(twin.train().parameters(), momentum=0.9, weight_decay=0)
    is_mixshare = config.method.name == "mixshare"
    for epoch in (1, 2):
        plan = feed.plan(epoch)
        for step in (1, 2):
            batch = in_double(feed.batch(plan, step - 1, Moment(epoch, 300)))
            masks = masks_of(batch.mixing)
            logits = restatement.forward(
                twin, images_of(batch), masks, unmixed_channels=64 if is_mixshare else 0, fade=epoch / 100
            )
            weights = restated_weights(config.method.name, 1 if is_mixshare else 3, False, masks)
            losses = restatement.head_losses(logits, soft_targets_of(batch, train_set.num_classes), weights)
            (sum(losses) + restatement.l2_penalty(twin.parameters(), 3e-4)).backward()
            optimiser.step(restatement.learning_rate(rate, epoch, step, 2, (101, 201, 226)))

    wanted = twin.state_dict()
    for key, value in published_state(trainer.network).items():
        moved, wrong = (wanted[key] - initial[key]).abs().max().item(), (value - wanted[key]).abs().max().item()
        assert moved > 0 and wrong < 1e-6 * moved, key
