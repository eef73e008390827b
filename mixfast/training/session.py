"""From a configuration to finished networks: data, one or several trainings, the final evaluation and table.

A run directory holds one network, or one folder for each member of a deep ensemble; ``single/`` beside it holds the
plain network that the recipe asks to be compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from mixfast.config import Config, other_method, plain_baseline
from mixfast.data import (
    DataShape,
    Images,
    SourceOptions,
    StreamedSet,
    choose_source,
    open_images,
    open_larger,
    validation_split,
)
from mixfast.evaluation import concatenate_members, evaluate_logits
from mixfast.methods import METHODS, Method, Network, create_model
from mixfast.models import is_transformer
from mixfast.training.checkpoint import load_weights
from mixfast.training.evaluating import predict_logits
from mixfast.training.ranks import ONE_PROCESS, Ranks
from mixfast.training.run_directory import RunDirectory, RunError
from mixfast.training.stopping import StopRequest
from mixfast.training.summary import summary_of, summary_table
from mixfast.training.team import ALONE, Team
from mixfast.training.trainer import Trainer, total_steps

BASELINE = "single"
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Splits:
    """The data of a run, on the training device. ``held_out`` selects the epoch, ``test`` gives the final figures."""

    train: Images
    held_out: Images
    test: Images


def resolve_device(name: str, ranks: Ranks = ONE_PROCESS) -> torch.device:
    """``auto`` is the first CUDA device where there is one, else the CPU; of several processes each has a device of its own.

    Raises:
        ValueError: a device that is not there, or too few for the processes on this machine.
    """
    if ranks.count > 1:
        return _device_of(name, ranks)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"training.device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"training.device={name}: torch sees {torch.cuda.device_count()} CUDA devices here")
    return device


def _device_of(name: str, ranks: Ranks) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"training.device is {name} and torchrun started {ranks.count} processes, each with a device of its own: set "
            "training.device=auto, cuda or cpu"
        )
    devices = torch.cuda.device_count()
    if name == "cpu" or name == "auto" and devices == 0:
        return torch.device("cpu")
    if ranks.local_count > devices:
        raise ValueError(
            f"torchrun started {ranks.local_count} processes on this machine, but torch sees {devices} CUDA devices here: set "
            f"--nproc-per-node={devices}, or training.device=cpu"
            if devices
            else f"training.device={name}: torch sees 0 CUDA devices here"
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def check_shares(config: Config, count: int) -> None:
    """Refuses a batch that several processes cannot share equally.

    Raises:
        ValueError: names the setting and the nearest batch size that works.
    """
    batch_size, repetition = config.training.batch_size, config.data.repetition
    accumulation = config.training.accumulation
    unit = math.lcm(count * accumulation, count * repetition)
    if batch_size % unit:
        below = batch_size // unit * unit
        raise ValueError(
            f"training.batch_size is {batch_size}, of all {count} processes together: each takes an equal share in "
            f"training.accumulation={accumulation} equal parts, and all {repetition} repetitions (data.repetition) of its images; "
            f"the nearest batch size is {f'{below} or {below + unit}' if below else unit}"
        )
    if config.msda.kind == "manifold-mixup" and config.data.groups % (count * accumulation):
        raise ValueError(
            f"msda.kind is manifold-mixup and data.groups is {config.data.groups}: the features of a sample and its partner "
            f"are mixed in one process; set data.groups={count * accumulation}"
        )


def load_data(config: Config, device: torch.device) -> Splits:
    """Opens the splits that ``evaluation.select`` needs, once for all networks of a run."""
    settings, opening = config.data, opening_options(config)
    shown, test = open_images(settings.name, SPLITS, device=device, **opening)
    stored = shown if settings.stored_size is None else open_larger(shown, settings.stored_size, **opening)
    if config.evaluation.select != "validation":
        return Splits(stored, test, test)
    train, held_out = validation_split(stored, settings.validation, config.seed)
    if stored is not shown:  # what is held out is evaluated as the test split is
        _, held_out = validation_split(shown, settings.validation, config.seed)
    return Splits(train, held_out, test)


def opening_options(config: Config) -> dict[str, Any]:
    """The settings of ``data`` that ``open_images`` and ``choose_source`` take."""
    settings = config.data
    return {
        "options": SourceOptions(
            settings.source, settings.decoder, settings.workers, settings.resident_share, settings.regions == "files"
        ),
        "root": settings.dir,
        "cache_dir": settings.cache_dir,
        "image_size": settings.image_size,
        "skip_corrupt": settings.skip_corrupt,
    }


def _chosen_source(config: Config, run: RunDirectory, device: torch.device, ranks: Ranks) -> str:
    """What ``data.source=auto`` stands for is chosen once and written down: later, memory may be fuller."""
    if run.config_file.exists():
        return run.read_config().data.source
    options = opening_options(config)
    # Every process of this machine would hold the set.
    share = options["options"].resident_share / ranks.local_count
    options["options"] = replace(options["options"], resident_share=share)
    return choose_source(config.data.name, SPLITS, device=device, stored_size=config.data.stored_size, **options)


def build_network(config: Config, data: Images | DataShape) -> tuple[Network, Method]:
    """The network and method of a configuration, initialised from its seed.

    Raises:
        ValueError: backbone, method and images do not fit together.
    """
    method = METHODS[config.method.name].from_settings(config.method.model_dump())
    if config.msda.kind == "manifold-mixup" and is_transformer(config.model.name):
        raise ValueError(
            f"msda.kind is manifold-mixup and model.name is {config.model.name}: it is defined for convolutional stages; "
            "set msda.kind=mixup or cutmix"
        )
    network = create_model(
        config.model.name,
        num_classes=data.num_classes,
        method=method,
        in_channels=data.channels,
        image_size=data.image_shape if is_transformer(config.model.name) else None,
        patch_size=config.model.patch_size,
        drop_path=config.model.drop_path or None,
        generator=torch.Generator().manual_seed(config.seed),
    )
    return network, method.fitted_to(network.core)


def load_network(config: Config, run: RunDirectory, data: Images) -> Network:
    """The network of a run with its selected weights, on the CPU, in the layout it was trained in."""
    network, _ = build_network(config, data)
    load_weights(run.best, network)
    return network.with_layout(config.training.channels_last).eval()


def member_runs(config: Config, run: RunDirectory) -> list[tuple[Config, RunDirectory]]:
    """The run itself, or a run for each member of a deep ensemble, which differ in their seed."""
    if config.ensemble.members == 1:
        return [(config, run)]
    return [
        (
            config.replace(seed=config.seed + member, ensemble={"members": 1}, baseline=False, beside=()),
            RunDirectory(run.path / f"member-{member}"),
        )
        for member in range(config.ensemble.members)
    ]


class Session:
    """Everything that ``mixfast train`` does after the configuration is read."""

    def __init__(self, config: Config, run: RunDirectory, console: Console, team: Team = ALONE) -> None:
        self.config, self.run, self.console, self.team = config, run, console, team
        check_shares(config, team.count)
        self.device = resolve_device(config.training.device, team.ranks)
        is_transformer(config.model.name)  # a misspelt backbone is refused before data are read
        if config.training.deterministic:
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not config.training.deterministic
        if config.data.source == "auto":
            kind = team.on_first(lambda: _chosen_source(config, run, self.device, team.ranks))
            self.config = config = config.replace(data={"source": kind})
        with team.first_on_machine():
            self.splits = load_data(config, self.device)
        self._announce()

    def start(self, stop: StopRequest) -> bool:
        """Begins a new run; False when stopped before its end. See ``resume``."""
        # What cannot work is found out before anything is written.
        for config in (self.config, *(other_method(self.config, name) for name in self.config.beside)):
            build_network(config, self.splits.train)
        self.team.on_first(lambda: self.run.create(self.config))
        return self.resume(stop)

    def resume(self, stop: StopRequest) -> bool:
        """Begins or continues each network of the run, then writes the summary and prints the table.

        Returns:
            False when ``stop`` came first.
        """
        members = member_runs(self.config, self.run)
        for config, run in members:
            if not self._train(config, run, stop):
                return False
        logits = [self._test_logits(config, run) for config, run in members]
        summaries = [self._summary(run) for _, run in members]
        if len(members) > 1 and self.team.is_first:
            self.run.write_summary(self._ensemble_summary(logits, summaries))
        compared = {}
        for name, config, run in self._runs_beside():
            if not self._train(config, run, stop):
                return False
            compared[name] = self._summary(run)
        self.console.print(summary_table(self.config, self._summary(self.run), compared, self.splits.test.split))
        return True

    def _runs_beside(self) -> list[tuple[str, Config, RunDirectory]]:
        """What is trained for comparison: a title, and the run."""
        runs = [("plain, same steps", *self._baseline_run())] if self.config.baseline else []
        others = [
            (name, other_method(self.config, name), RunDirectory(self.run.path / name)) for name in self.config.beside
        ]
        return [*runs, *others]

    def _baseline_run(self) -> tuple[Config, RunDirectory]:
        steps_per_epoch = len(self.splits.train) // (self.config.training.batch_size // self.config.data.repetition)
        config = plain_baseline(self.config, total_steps(self.config, steps_per_epoch))
        return config, RunDirectory(self.run.path / BASELINE)

    def _train(self, config: Config, run: RunDirectory, stop: StopRequest) -> bool:
        """Trains one network to its end and writes its summary; does nothing where that is done already."""
        if self._summary(run) is not None:
            return True
        self.team.on_first(lambda: None if run.config_file.exists() else run.create(config))
        torch.manual_seed(config.seed)
        network, method = build_network(config, self.splits.train)
        trainer = Trainer(
            config, network, method, self.splits.train, self.splits.held_out, run, self.console, self.team
        )
        if self.team.on_first(run.last.exists):
            trainer.resume()
            self.console.print(f"resuming {run.path} at step {trainer.position.step}", highlight=False)
        if not trainer.train(stop):
            return False
        logits = self._test_logits(config, run)
        if not self.team.is_first:
            return True
        metrics = evaluate_logits(logits, self.splits.test.labels, config.evaluation.average)
        run.write_summary(
            summary_of(
                metrics,
                params=sum(parameter.numel() for parameter in network.parameters()),
                images_per_second=trainer.images_per_second(),
                epochs=trainer.position.epoch,
                seconds=trainer.position.seconds,
            )
        )
        return True

    def _test_logits(self, config: Config, run: RunDirectory) -> Tensor:
        network, _ = build_network(config, self.splits.train)
        self.team.on_first(lambda: load_weights(run.best, network))
        network = network.with_layout(config.training.channels_last).to(self.device)
        self.team.copy_first(network)
        return predict_logits(network, self.splits.test, config.evaluation.batch_size, team=self.team)

    def _summary(self, run: RunDirectory) -> dict[str, Any] | None:
        return self.team.on_first(run.read_summary)

    def _ensemble_summary(self, logits: list[Tensor], summaries: list[dict[str, Any] | None]) -> dict[str, Any]:
        metrics = evaluate_logits(concatenate_members(logits), self.splits.test.labels, self.config.evaluation.average)
        done = [summary for summary in summaries if summary is not None]
        return summary_of(
            metrics,
            params=sum(summary["params"] for summary in done),
            images_per_second=sum(summary["images_per_second"] for summary in done) / len(done),
            epochs=sum(summary["epochs"] for summary in done),
            seconds=sum(summary["seconds"] for summary in done),
        )

    def _announce(self) -> None:
        splits, say = self.splits, self.console.print
        say(
            f"{self.config.data.name}: {len(splits.train):,} training images, {splits.train.num_classes} classes, "
            f"{'x'.join(map(str, splits.train.image_shape))}x{splits.train.channels}; {len(splits.test):,} test images "
            f"({splits.test.split}); device {self.device}",
            highlight=False,
        )
        source = splits.train.source.describe() if isinstance(splits.train, StreamedSet) else "resident, in memory"
        say(f"source: {source}", highlight=False)
        if splits.train.skipped or splits.test.skipped:
            say(f"skipped {splits.train.skipped} corrupt training and {splits.test.skipped} corrupt test images")
        if self.config.evaluation.select == "test":
            say(
                f"the epoch is selected on {splits.test.split}, where it is also reported, as in the papers: figures are "
                "optimistic. Without --select test a validation split selects it."
            )


def open_run(path: str | Path) -> tuple[Config, RunDirectory]:
    """An existing run and its configuration.

    Raises:
        RunError: there is none at this path.
    """
    run = RunDirectory(path)
    if not run.path.is_dir():
        raise RunError(f"{run.path} is not a folder; --resume takes the run directory of an earlier `mixfast train`")
    return run.read_config(), run
