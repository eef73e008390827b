"""Every contender by name, and which of them are compared: the one place to add another.

``mixfast bench`` and the pytest-benchmark files both run what stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mixfast.config import Config
from mixfast.data import ImageSet
from mixfast.models import is_transformer
from mixfast_bench.cases import DATA_CASES, SINGLE, USUAL, Batches, DataCase, Setting, training_config
from mixfast_bench.data import Pipeline
from mixfast_bench.inference import InferencePass
from mixfast_bench.plain_steps import PlainMixViTInference, PlainMixViTStep
from mixfast_bench.spread import COARSE, FINE
from mixfast_bench.step import TrainerStep
from mixfast_bench.straightforward import PlainPipeline, PlainStep

CUT_MIXMO = DataCase("cut-mixmo")
EMBEDDING = DataCase("mixvit-embedding")
ENCODING = DataCase("mixvit-encoding")


@dataclass(frozen=True)
class Entry:
    """A contender that can be built for any backbone, batches and images.

    Attributes:
        name: in tables and records.
        kind: its class, called with a name, a configuration and images.
        case: what it trains or feeds.
        compiled: whether it runs under ``torch.compile``.
    """

    name: str
    kind: Callable[[str, Config, ImageSet], Any]
    case: DataCase
    compiled: bool = False

    def build(
        self,
        data: ImageSet,
        batches: Batches,
        backbone: str = "wrn28-2",
        prefix: str = "",
        setting: Setting = USUAL,
    ) -> Any:
        """The contender on the device of ``data``; its name is that of the entry after ``prefix``."""
        return self.kind(prefix + self.name, self.config(data.images.device, batches, backbone, setting), data)

    def config(self, device: torch.device, batches: Batches, backbone: str, setting: Setting = USUAL) -> Config:
        """What it runs."""
        return training_config(
            self.case, batches, device=device, backbone=backbone, compiled=self.compiled, setting=setting
        )


@dataclass(frozen=True)
class Comparison:
    """A ratio of two contenders' times: how many times as long ``numerator`` takes, and how well that must be known."""

    name: str
    numerator: str
    denominator: str
    resolution: float


WAYS = ("eager", "compiled")
"""Without and with ``torch.compile``, as the names of contenders end."""


def both_ways(kind: Callable[[str, Config, ImageSet], Any], case: DataCase) -> tuple[Entry, Entry]:
    """The entry in both of ``WAYS``."""
    name = case.method
    return Entry(f"{name}, eager", kind, case), Entry(f"{name}, compiled", kind, case, compiled=True)


def against(opponent: str, methods: tuple[str, ...]) -> tuple[Comparison, ...]:
    """The overheads of ``methods``, and the speed-up of the first of them over ``opponent``, both ways."""
    name = "overhead" if len(methods) == 1 else "overhead of {}"
    overheads = tuple(
        Comparison(f"{name.format(method)}, {way}", f"{method}, {way}", f"single, {way}", FINE)
        for method in methods
        for way in WAYS
    )
    speedups = (
        Comparison(f"speed-up over {opponent}, {way}", opponent, f"{methods[0]}, {way}", COARSE) for way in WAYS
    )
    return *overheads, *speedups


OPPONENT = "straightforward"
OPPONENTS_INPUTS = 2
WANTED = {"on": (True,), "off": (False,), "both": (False, True)}
"""Whether compiled, for ``--compile``."""
STEPS = (
    *both_ways(TrainerStep, SINGLE),
    *both_ways(TrainerStep, CUT_MIXMO),
    Entry(OPPONENT, PlainStep, CUT_MIXMO),
)
TRANSFORMER_STEPS = (
    *both_ways(TrainerStep, SINGLE),
    *both_ways(TrainerStep, EMBEDDING),
    *both_ways(TrainerStep, ENCODING),
    Entry(OPPONENT, PlainMixViTStep, EMBEDDING),
)
INFERENCES = (*both_ways(InferencePass, SINGLE), *both_ways(InferencePass, CUT_MIXMO))
TRANSFORMER_INFERENCES = (
    *both_ways(InferencePass, SINGLE),
    *both_ways(InferencePass, EMBEDDING),
    *both_ways(InferencePass, ENCODING),
    Entry(OPPONENT, PlainMixViTInference, EMBEDDING),
)
STEP_COMPARISONS = against(OPPONENT, (CUT_MIXMO.method,))
TRANSFORMER_COMPARISONS = against(OPPONENT, (EMBEDDING.method, ENCODING.method))

PIPELINES = (
    *(Entry(case.name, Pipeline, case) for case in DATA_CASES),
    Entry(OPPONENT, PlainPipeline, CUT_MIXMO),
)
PIPELINE_COMPARISONS = (Comparison(f"speed-up over {OPPONENT}", OPPONENT, CUT_MIXMO.name, COARSE),)


def steps(
    backbone: str, compile_choice: str, num_inputs: int = OPPONENTS_INPUTS
) -> tuple[tuple[Entry, ...], tuple[Comparison, ...]]:
    """The training steps that are compared over a backbone, for ``--compile`` on, off or both; the opponent, which is written
    for two inputs, is there for two."""
    if is_transformer(backbone):
        return _wanted(TRANSFORMER_STEPS, compile_choice, num_inputs), TRANSFORMER_COMPARISONS
    return _wanted(STEPS, compile_choice, num_inputs), STEP_COMPARISONS


def inferences(
    backbone: str, compile_choice: str, num_inputs: int = OPPONENTS_INPUTS
) -> tuple[tuple[Entry, ...], tuple[Comparison, ...]]:
    """The same for inference passes."""
    if is_transformer(backbone):
        return _wanted(TRANSFORMER_INFERENCES, compile_choice, num_inputs), TRANSFORMER_COMPARISONS
    return _wanted(INFERENCES, compile_choice, num_inputs), STEP_COMPARISONS


def _wanted(entries: tuple[Entry, ...], compile_choice: str, num_inputs: int) -> tuple[Entry, ...]:
    wanted = WANTED[compile_choice]
    opponent = num_inputs == OPPONENTS_INPUTS
    return tuple(entry for entry in entries if (opponent if entry.name == OPPONENT else entry.compiled in wanted))
