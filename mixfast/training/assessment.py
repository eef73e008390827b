"""Evaluates finished runs: one network, or several together as a deep ensemble (METHODS 2 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mixfast.config import Config
from mixfast.data import Images, open_images
from mixfast.evaluation import (
    active_filters,
    classifier_sharing_rate,
    concatenate_members,
    encoder_sharing_rate,
    evaluate_logits,
)
from mixfast.methods import Network, TokenNetwork
from mixfast.models import TokenCore
from mixfast.training.checkpoint import CheckpointError
from mixfast.training.evaluating import predict_logits
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import load_network, member_runs, open_run, opening_options, resolve_device


@dataclass(frozen=True)
class Assessment:
    """The figures of one evaluation; ``analysis`` has an entry a network."""

    data: str
    split: str
    samples: int
    average: str
    metrics: dict[str, Any]
    analysis: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


def assess(
    paths: Sequence[str],
    *,
    data_dir: str | None = None,
    data_name: str | None = None,
    split: str = "test",
    average: str | None = None,
    inference: str | None = None,
    analysis: bool = False,
) -> Assessment:
    """Evaluates the selected weights of every network in the runs at ``paths``, as one ensemble.

    Args:
        paths: run directories; one of a deep ensemble stands for its members.
        data_dir: where data sets lie; by default where the first run found them.
        data_name: evaluate on this data set, normalised as the run's own is; by default the run's own.
        split: which of its splits.
        average: ``logits`` or ``probabilities``; by default as the first run says.
        inference: a transformer's way of making its predictions (thesis tables 4.1 and 4.6); by default the run's own.
        analysis: also active filters and feature sharing of each network (thesis A.5.4 and 3.4.1).

    Raises:
        RunError: no run at a path.
        CheckpointError: a run without weights.
        ValueError: runs of other data or classes, or an inference that a network does not have.
    """
    networks = [entry for path in paths for entry in _networks_of(path)]
    first = networks[0][0]
    for config, run in networks[1:]:
        if (config.data.name, config.data.image_size) != (first.data.name, first.data.image_size):
            raise ValueError(
                f"{run.path} was trained on {config.data.name} and {networks[0][1].path} on {first.data.name}: only "
                "networks of the same data can be evaluated together"
            )
    device = resolve_device(first.training.device)
    data = _evaluation_set(first, data_dir, data_name, split, device)
    logits, analyses = [], {}
    for config, run in networks:
        network = load_network(config, run, data).to(device)
        if inference is not None:
            _choose_inference(network, inference, run)
        logits.append(predict_logits(network, data, first.evaluation.batch_size))
        if analysis:
            analyses[str(run.path)] = _analysis(network)
    average = average or first.evaluation.average
    metrics = evaluate_logits(concatenate_members(logits), data.labels, average)
    return Assessment(data.name, data.split, len(data), average, metrics.to_dict(), analyses)


def _choose_inference(network: Network, inference: str, run: RunDirectory) -> None:
    if not isinstance(network, TokenNetwork):
        raise ValueError(f"inference is {inference}, but {run.path} is a convolutional network, which has one way only")
    network.set_inference(inference)


def _networks_of(path: str) -> list[tuple[Config, RunDirectory]]:
    networks = member_runs(*open_run(path))
    missing = [str(run.path) for _, run in networks if not run.best.exists()]
    if missing:
        raise CheckpointError(f"{path} is not finished: no weights yet in {', '.join(missing)}")
    return networks


def _evaluation_set(
    config: Config, data_dir: str | None, data_name: str | None, split: str, device: torch.device
) -> Images:
    """The images to evaluate on, with the mean and deviation that the networks were trained with."""
    own_name = config.data.name
    options = {**opening_options(config), "root": data_dir or config.data.dir, "device": device}
    if data_name is None or data_name == own_name:
        return open_images(own_name, (split,), **options)[0]
    (own,) = open_images(own_name, ("test",), **options)
    (other,) = open_images(data_name, (split,), **options)
    if (other.num_classes, other.channels) != (own.num_classes, own.channels):
        raise ValueError(
            f"{data_name} has {other.num_classes} classes and {other.channels} channels, but the networks were trained "
            f"on {own_name} with {own.num_classes} and {own.channels}"
        )
    return replace(other, mean=own.mean, std=own.std)


def _analysis(network: Network) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if not isinstance(network.core, TokenCore):
        shares = active_filters(network.core)
        figures = {f"active filters, t_a = {threshold}": share for threshold, share in shares.items()}
    figures["encoder sharing"] = encoder_sharing_rate(network.encoder.weight)
    figures["classifier sharing"] = classifier_sharing_rate(network.heads.weight)
    return figures
