"""``mixfast bench step`` and ``inference``: networks over a backbone, or those of recipes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console

from mixfast.allocator import keep_freed_memory
from mixfast.config import Config
from mixfast.data import DataShape, Images, ImageSet, load_split
from mixfast.flops.cards import Card, card_called
from mixfast.flops.costing import shape_of
from mixfast.models import is_transformer
from mixfast.recipes import load_recipe, split_settings
from mixfast.training.compiling import missing_compiler
from mixfast_bench.cases import Batches, Rounds, Setting, at_least, synthetic_images
from mixfast_bench.inference import InferencePass
from mixfast_bench.machine import device_name
from mixfast_bench.predicted import PredictedStep, predicted_step
from mixfast_bench.recipe_entries import recipe_entries
from mixfast_bench.registry import Comparison, Entry, inferences, steps
from mixfast_bench.runs import measure_steps, pipeline_prefix
from mixfast_bench.step import TrainerStep
from mixfast_bench.summary import summarise_steps
from mixfast_bench.tables import predicted_table, rate_text, ratio_table, step_rate_table, step_time_table

DEFAULT_BATCH = 64  # of steps
DEFAULT_IMAGE_SIZE, DEFAULT_CLASSES = 32, 100
# What a recipe says itself, by the option that says it for a backbone.
SAID_BY_RECIPES = {
    "backbone": "model.name=...",
    "repetition": "data.repetition=...",
    "amp": "training.amp=...",
    "layout": "training.channels_last=...",
    "num_inputs": "method.num_inputs=...",
    "image_size": "data.image_size=...",
    "data_name": "data.name=...",
    "data": "data.dir=...",
    "classes": "a data.name=... that has them",
}
DEFAULTS = {"backbone": "wrn28-2", "repetition": 4, "amp": "off", "layout": "channels-last", "num_inputs": 2}


def recipes_of(args: argparse.Namespace) -> dict[str, Config]:
    """The recipes that were asked for, by name; where there are none, fills in what options say for a backbone.

    Raises:
        ValueError: an option that recipes say themselves, or settings without a recipe.
        ConfigError: an unknown recipe or setting.
    """
    names, settings = split_settings(args.overrides)
    if settings and not names:
        raise ValueError(f"settings need a recipe to change, got {settings[0]!r} and no recipe")
    for option, instead in SAID_BY_RECIPES.items():
        given = getattr(args, option, None)
        if names and given is not None:
            raise ValueError(f"--{option.replace('_', '-')} is {given}, but recipes say it themselves: give {instead}")
        if not names and given is None and option in DEFAULTS and hasattr(args, option):
            setattr(args, option, DEFAULTS[option])
    if not names:
        at_least("--num-inputs", args.num_inputs, 2)
    return {name: load_recipe(name, settings) for name in names}


def bench_step(
    args: argparse.Namespace, work: dict[str, Config] | Batches, rounds: Rounds, device: torch.device, console: Console
) -> dict[str, Any]:
    """Training steps, their data included. work: recipes, or the batches for a backbone."""
    if isinstance(work, dict):
        batch_size = next(iter(work.values())).training.batch_size
        title = f"training step, data included: batch {batch_size}, random images"
        return _of_recipes(work, TrainerStep, title, args.compile, rounds, device, console)
    is_transformer(args.backbone)  # a misspelt name is refused before anything is made
    setting = Setting(args.amp, args.layout == "channels-last", args.num_inputs)
    entries, comparisons = steps(args.backbone, compile_choice(args.compile, device, console), args.num_inputs)
    data = images_of(args, device)
    precision = "" if args.amp == "off" else f"{args.amp}, "
    title = (
        f"training step, data included: {args.backbone}, {precision}{args.layout}, M = {args.num_inputs}, "
        f"batch {work.batch_size}, b = {work.repetition}, {_images_named(data)}"
    )
    planned = _over_backbone(entries, args.backbone, work, setting, data)
    return {
        "images": described_images(data),
        **_measured(title, planned, comparisons, rounds, device, console),
    }


def bench_inference(
    args: argparse.Namespace,
    work: tuple[dict[str, Config], list[Batches]],
    rounds: Rounds,
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    """Predictions. work: recipes, none for a backbone; and the batches."""
    keep_freed_memory()
    configs, sizes = work
    results: dict[str, Any] = {}
    if configs:
        for batches in sizes:
            alike = {name: _for_inference(config, batches.batch_size) for name, config in configs.items()}
            title = f"inference: batch {batches.batch_size}, random images"
            found = _of_recipes(alike, InferencePass, title, args.compile, rounds, device, console)
            results[f"batch {batches.batch_size}"] = found
        return results
    is_transformer(args.backbone)
    setting = Setting(num_inputs=args.num_inputs)
    entries, comparisons = inferences(args.backbone, compile_choice(args.compile, device, console), args.num_inputs)
    data = images_of(args, device)
    for batches in sizes:
        title = f"inference: {args.backbone}, M = {args.num_inputs}, batch {batches.batch_size}, {_images_named(data)}"
        planned = _over_backbone(entries, args.backbone, batches, setting, data)
        results[f"batch {batches.batch_size}"] = _measured(title, planned, comparisons, rounds, device, console)
    return {"images": described_images(data), **results}


def compile_choice(choice: str, device: torch.device, console: Console) -> str:
    """``both`` is what can be had; ``on`` is taken at its word."""
    missing = missing_compiler(device) if choice == "both" else None
    if missing is None:
        return choice
    console.print(f"without compiled rows: {missing}", highlight=False)
    return "off"


def images_of(args: argparse.Namespace, device: torch.device) -> ImageSet:
    """A data set's training split where one is named, else random images."""
    if args.data_name is None:
        require_no_data(args)
        image_size = DEFAULT_IMAGE_SIZE if args.image_size is None else args.image_size
        return synthetic_images(image_size, DEFAULT_CLASSES if args.classes is None else args.classes, device)
    if args.classes is not None:
        raise ValueError(f"--classes is {args.classes}, which has no effect with --data-name {args.data_name}")
    return load_split(args.data_name, "train", root=args.data, image_size=args.image_size).to(device)


def require_no_data(args: argparse.Namespace) -> None:
    """Raises ValueError if ``--data`` was given."""
    if args.data is not None:
        raise ValueError(f"--data is {args.data}, which has no effect without --data-name")


def described_images(data: Images) -> dict[str, Any]:
    """For the record."""
    return {"name": data.name, "count": len(data), "size": list(data.image_shape), "classes": data.num_classes}


def _images_like(shape: DataShape, device: torch.device) -> ImageSet:
    return synthetic_images(shape.image_shape[0], shape.num_classes, device, channels=shape.channels)


def _images_named(data: ImageSet) -> str:
    return f"{pipeline_prefix(data)}{data.name}, {data.num_classes} classes"


def _for_inference(config: Config, batch_size: int) -> Config:
    """Passes have a batch, and neither repetition nor parts of one."""
    return config.replace(
        data={"repetition": 1, "input_repetition": 0.0, "groups": 1},
        training={"batch_size": batch_size, "accumulation": 1},
    )


def _of_recipes(
    configs: dict[str, Config],
    kind: type,
    title: str,
    compiling: str,
    rounds: Rounds,
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    here = {name: config.replace(training={"device": str(device)}) for name, config in configs.items()}
    entries, comparisons = recipe_entries(here, kind, compile_choice(compiling, device, console))
    shapes = {name: shape_of(config) for name, config in here.items()}
    images = {shape: _images_like(shape, device) for shape in dict.fromkeys(shapes.values())}
    planned = [_Planned(entry.name, entry.kind, entry.config, images[shapes[entry.recipe]]) for entry in entries]
    results = _measured(title, planned, comparisons, rounds, device, console)
    of_recipe = {name: config.model_dump(mode="json") for name, config in configs.items()}
    described = {name: described_images(images[shape]) for name, shape in shapes.items()}
    return {"recipes": of_recipe, "images": described, **results}


@dataclass(frozen=True)
class _Planned:
    """A contender that is not built yet."""

    name: str
    kind: Callable[[str, Config, ImageSet], Any]
    config: Config
    images: ImageSet

    def build(self) -> Any:
        return self.kind(self.name, self.config, self.images)


def _over_backbone(
    entries: Sequence[Entry], backbone: str, batches: Batches, setting: Setting, data: ImageSet
) -> list[_Planned]:
    """The entries with what they run over a backbone, all on the same images."""
    configs = [entry.config(data.device, batches, backbone, setting) for entry in entries]
    return [_Planned(entry.name, entry.kind, config, data) for entry, config in zip(entries, configs, strict=True)]


def _measured(
    title: str,
    planned: Sequence[_Planned],
    comparisons: Sequence[Comparison],
    rounds: Rounds,
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    """Measures steps or passes of the same batch size and precision, prints their tables; the record's part."""
    training = planned[0].config.training
    builders = [each.build for each in planned]
    measured = measure_steps(builders, training.batch_size, device, rounds, console, training.amp)
    summary = summarise_steps(measured, comparisons)
    predicted = _predictions(planned, device)
    console.print(step_time_table(summary, f"{title}; {rounds.rounds} rounds of {rounds.runs}"))
    console.print(step_rate_table(summary))
    console.print(ratio_table(summary.ratios, {"matrix product": rate_text(summary.product_rate, "FLOP/s")}))
    if predicted:
        console.print(predicted_table(summary, predicted))
    return {
        "flops_a_step": measured.flops,
        "peak_memory_bytes": measured.memory,
        "predicted": {name: asdict(step) for name, step in predicted.items()},
        "seconds": {name: timings.phases for name, timings in measured.timings.items()},
        "summary": asdict(summary),
    }


def known_card(device: torch.device) -> Card | None:
    """The device's published figures; None where they are not known here."""
    return card_called(device_name(device)) if device.type == "cuda" else None


def _predictions(planned: Sequence[_Planned], device: torch.device) -> dict[str, PredictedStep]:
    """Of training steps, on cards whose published figures are known."""
    card = known_card(device)
    if card is None:
        return {}
    steps_only = [each for each in planned if each.kind is TrainerStep]
    return {each.name: predicted_step(each.config, each.images, card) for each in steps_only}
