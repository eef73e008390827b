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
from mixfast_bench.cases import DATA_CASES, Batches, DataCase, training_config
from mixfast_bench.data import Pipeline
from mixfast_bench.spread import COARSE, FINE
from mixfast_bench.step import TrainerStep
from mixfast_bench.straightforward import PlainPipeline, PlainStep

SINGLE = DataCase("single")
CUT_MIXMO = DataCase("cut-mixmo")


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

    def build(self, data: ImageSet, batches: Batches, backbone: str = "wrn28-2", prefix: str = "") -> Any:
        """The contender on the device of ``data``; its name is that of the entry after ``prefix``."""
        device: torch.device = data.images.device
        config = training_config(self.case, batches, device=device, backbone=backbone, compiled=self.compiled)
        return self.kind(prefix + self.name, config, data)


@dataclass(frozen=True)
class Comparison:
    """A ratio of two contenders' times: how many times as long ``numerator`` takes, and how well that must be known."""

    name: str
    numerator: str
    denominator: str
    resolution: float


STEPS = (
    Entry("single, eager", TrainerStep, SINGLE),
    Entry("single, compiled", TrainerStep, SINGLE, compiled=True),
    Entry("cut-mixmo, eager", TrainerStep, CUT_MIXMO),
    Entry("cut-mixmo, compiled", TrainerStep, CUT_MIXMO, compiled=True),
    Entry("straightforward", PlainStep, CUT_MIXMO),
)
STEP_COMPARISONS = (
    Comparison("overhead, eager", "cut-mixmo, eager", "single, eager", FINE),
    Comparison("overhead, compiled", "cut-mixmo, compiled", "single, compiled", FINE),
    Comparison("speed-up over straightforward, eager", "straightforward", "cut-mixmo, eager", COARSE),
    Comparison("speed-up over straightforward, compiled", "straightforward", "cut-mixmo, compiled", COARSE),
)

PIPELINES = (
    *(Entry(case.name, Pipeline, case) for case in DATA_CASES),
    Entry("straightforward", PlainPipeline, CUT_MIXMO),
)
PIPELINE_COMPARISONS = (Comparison("speed-up over straightforward", "straightforward", CUT_MIXMO.name, COARSE),)


def steps(compile_choice: str) -> tuple[Entry, ...]:
    """The entries of ``STEPS`` for ``--compile`` on, off or both; the opponent is always there."""
    wanted = {"on": (True,), "off": (False,), "both": (False, True)}[compile_choice]
    return tuple(entry for entry in STEPS if entry.kind is PlainStep or entry.compiled in wanted)
