"""The steps and passes of recipes, each beside its backbone's with one input: what ``mixfast bench step RECIPE...`` compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mixfast.config import Config
from mixfast.config.sections import AboutSection, MethodSection
from mixfast.data import ImageSet
from mixfast_bench.registry import WANTED, WAYS, Comparison
from mixfast_bench.spread import FINE


@dataclass(frozen=True)
class RecipeEntry:
    """A contender made of a recipe, on random images of its data set's shape.

    Attributes:
        name: in tables and records.
        kind: its class, called with a name, a configuration and images.
        config: resolved.
        recipe: whose data set it is.
    """

    name: str
    kind: Callable[[str, Config, ImageSet], Any]
    config: Config
    recipe: str


def recipe_entries(
    configs: Mapping[str, Config], kind: Callable[[str, Config, ImageSet], Any], compile_choice: str
) -> tuple[list[RecipeEntry], list[Comparison]]:
    """The recipes, each beside the network with one input that is the same otherwise, batches included; and the overheads.

    Args:
        configs: by name.
        kind: what each is: a training step, or an inference pass.
        compile_choice: ``--compile``: on, off or both.

    Raises:
        ValueError: the recipes' batches differ in size, or their precision does.
    """
    _check_alike(configs)
    plain: dict[str, str] = {}  # its name, by what it is
    entries, comparisons = [], []
    for name, config in configs.items():
        added = [(name, config)]
        single = _single_of(config)
        known = single.model_dump_json()
        if config.method.num_inputs > 1 and known not in plain:
            plain[known] = f"single of {name}"
            added.insert(0, (plain[known], single))
        for way, compiled in zip(WAYS, (False, True), strict=True):
            if compiled not in WANTED[compile_choice]:
                continue
            choice = {"compile": "on" if compiled else "off"}
            entries += [RecipeEntry(f"{title}, {way}", kind, of.replace(training=choice), name) for title, of in added]
            if config.method.num_inputs > 1:
                pair = (f"{name}, {way}", f"{plain[known]}, {way}")
                comparisons.append(Comparison(f"overhead of {name}, {way}", *pair, FINE))
    return entries, comparisons


def _single_of(config: Config) -> Config:
    """The same with one input, without what only says how it is called and what is trained beside it."""
    return config.model_copy(
        update={"about": AboutSection(), "method": MethodSection(), "baseline": False, "beside": ()}
    )


def _check_alike(configs: Mapping[str, Config]) -> None:
    for key in ("batch_size", "amp"):
        values = {name: getattr(config.training, key) for name, config in configs.items()}
        if len(set(values.values())) > 1:
            named = ", ".join(f"{value} in {name}" for name, value in values.items())
            raise ValueError(f"training.{key} is {named}, expected one for all; set it with training.{key}=...")
