"""How long a training step would take on a card of which only published figures are known, and when exchanging gradients would.

Every figure is a prediction: an operator takes as long as its products at the card's peak rate or its bytes at its peak bandwidth,
whichever is more. No card reaches its peaks, so true times are longer; how much longer, only measuring tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mixfast.config.sections import OptimizerSection
from mixfast.flops.cards import CARDS, CARDS_A_MACHINE, Card
from mixfast.flops.costing import Costed
from mixfast.flops.counting import Cost

PRECISIONS = (torch.float32, torch.bfloat16)
# Reads and writes of a parameter's worth of float32: gradient, parameter and what the rule remembers.
PASSES_OF_OPTIMISER = {"sgd": 5, "adamw": 7}
GRADIENT_BYTES = 4


# On how many cards the exchange is told: those of one machine, and of several.
EXCHANGES = (CARDS_A_MACHINE, 8 * CARDS_A_MACHINE)


@dataclass(frozen=True)
class Prediction:
    """Of a training step of the recipe's whole batch on one card.

    Attributes:
        card: which.
        precision: of products; in bfloat16 every tensor between parameters is taken to have half its bytes.
        fused: seconds if only operators that multiply touched memory: what no compiler can go below.
        eager: seconds if every operator reads and writes its tensors.
        exchange: seconds to sum float32 gradients over this many cards, by a ring.
        dominated_from: the least power of two of cards, sharing the batch, on which that takes longer than the step; None:
            not even with one sample a card.
    """

    card: Card
    precision: torch.dtype
    fused: float
    eager: float
    exchange: dict[int, float]
    dominated_from: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, under names that say what it is."""
        return {
            "card": self.card.name,
            "source": self.card.source,
            "precision": str(self.precision).removeprefix("torch."),
            "predicted_fused_seconds": self.fused,
            "predicted_eager_seconds": self.eager,
            "predicted_exchange_seconds": {str(cards): seconds for cards, seconds in self.exchange.items()},
            "predicted_exchange_dominates_from": self.dominated_from,
        }


def predict(costed: Costed, optimiser: OptimizerSection) -> list[Prediction]:
    """For each card that says how it is joined to others, in each precision."""
    joined = [card for card in CARDS.values() if card.fabric is not None]
    return [_predict(costed.cost, optimiser, card, precision) for card in joined for precision in PRECISIONS]


def fused_and_eager(cost: Cost, optimiser: OptimizerSection, card: Card, precision: torch.dtype) -> tuple[float, float]:
    """Seconds of a training step on one card; see `Prediction`."""
    update = PASSES_OF_OPTIMISER[optimiser.name] * 4 * cost.parameters.total / card.bandwidth
    products = [each for each in cost.work if each[0]]
    return update + step_seconds(products, card, precision), update + step_seconds(cost.work, card, precision)


def _predict(cost: Cost, optimiser: OptimizerSection, card: Card, precision: torch.dtype) -> Prediction:
    fused, eager = fused_and_eager(cost, optimiser, card, precision)
    gradients = GRADIENT_BYTES * cost.parameters.total
    batch = cost.batch_size
    counts = [2**power for power in range(1, batch.bit_length()) if 2**power <= batch]
    return Prediction(
        card,
        precision,
        fused,
        eager,
        {count: exchange_seconds(gradients, count, card) for count in EXCHANGES},
        next((count for count in counts if exchange_seconds(gradients, count, card) >= fused / count), None),
    )


def step_seconds(work: Sequence[tuple[int, int]], card: Card, precision: torch.dtype) -> float:
    """Of operators one after another, each of ``(multiply-adds, bytes in float32)``."""
    rate, scale = card.rates[precision], precision.itemsize / torch.float32.itemsize
    return sum(max(2 * products / rate, scale * moved / card.bandwidth) for products, moved in work)


def exchange_seconds(gradients: int, cards: int, card: Card) -> float:
    """A ring sends each byte of ``gradients`` twice, but for one share in ``cards``; the slowest link decides."""
    link = card.fabric if cards <= CARDS_A_MACHINE else card.network
    return 2 * (cards - 1) / cards * gradients / link
