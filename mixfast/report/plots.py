"""All plots: what draws each, and which inputs it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mixfast.report.accuracy_cost import draw_accuracy_cost
from mixfast.report.calibration import draw_calibration
from mixfast.report.flops_time import draw_flops_time
from mixfast.report.inputs import Inputs
from mixfast.report.overheads import draw_overheads
from mixfast.report.plot import Plot, on_paper
from mixfast.report.roofline import draw_roofline
from mixfast.report.scaling import draw_scaling
from mixfast.report.training_curves import draw_training_curves


@dataclass(frozen=True)
class Kind:
    """title: of the plots that ``draw`` makes; needs: what must be given for them, for people."""

    title: str
    needs: str
    draw: Callable[[Inputs], list[Plot]]


@dataclass(frozen=True)
class Drawn:
    """The plots that could be drawn, and the kinds that could not."""

    plots: tuple[Plot, ...]
    missing: tuple[Kind, ...]


KINDS = (
    Kind(
        "Accuracy against cost",
        "run directories of `mixfast train`, of data whose shape is known here (or that hold their weights)",
        draw_accuracy_cost,
    ),
    Kind(
        "Overhead over the plain network",
        "records of `mixfast bench step --json FILE` or `mixfast bench inference --json FILE`",
        draw_overheads,
    ),
    Kind("FLOPs against wall-clock", "records of `mixfast bench step --json FILE`", draw_flops_time),
    Kind(
        "Roofline and memory traffic of the operators",
        "records of `mixfast bench kernels --json FILE` that hold bytes and FLOPs, as those written from this version on do",
        draw_roofline,
    ),
    Kind("Training curves", "run directories of `mixfast train`", draw_training_curves),
    Kind(
        "Calibration",
        "run directories of `mixfast train` whose summary.json holds bins, as that of runs from this version on does",
        draw_calibration,
    ),
    Kind(
        "Scaling with M, width and batch",
        "records of `mixfast flops RECIPE... --json FILE`, of `mixfast bench step` or `inference`, or run directories, that differ "
        "in exactly one of them",
        draw_scaling,
    ),
)


def draw(inputs: Inputs) -> Drawn:
    """Everything that the inputs allow."""
    with on_paper():
        made = [(kind, kind.draw(inputs)) for kind in KINDS]
    return Drawn(tuple(plot for _, plots in made for plot in plots), tuple(kind for kind, plots in made if not plots))
