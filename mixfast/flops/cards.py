"""Published figures of cards, for predictions. Nothing here was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

# Cards that one fast fabric joins, in the machines that the data sheets describe.
CARDS_A_MACHINE = 8


@dataclass(frozen=True)
class Card:
    """A card's published figures.

    name        of the class of cards
    bandwidth   of its memory, bytes a second
    rates       multiplications plus additions a second, without sparsity; float32 outside the tensor cores
    source      where the figures stand
    fabric      to its neighbours in the machine, bytes a second one way; None: it has none
    network     its share of the machine's network, bytes a second one way; None: not said
    """

    name: str
    bandwidth: float
    rates: dict[torch.dtype, float]
    source: str
    fabric: float | None = None
    network: float | None = None


def _rates(half: float, single: float, double: float) -> dict[torch.dtype, float]:
    return {torch.bfloat16: half, torch.float16: half, torch.float32: single, torch.float64: double}


# Float32 products run outside the tensor cores, float64 ones in them where there are any.
CARDS = {
    "sm_80": Card(
        "A100", 2.039e12, _rates(312e12, 19.5e12, 19.5e12), "NVIDIA A100 data sheet, SXM 80 GB; DGX A100", 300e9, 25e9
    ),
    "sm_90": Card("H100", 3.35e12, _rates(989e12, 67e12, 67e12), "NVIDIA H100 data sheet, SXM; DGX H100", 450e9, 50e9),
    "sm_100": Card(
        "B200",
        8.0e12,
        _rates(2250e12, 75e12, 37e12),
        "NVIDIA DGX and HGX B200 data sheets, one of eight",
        900e9,
        50e9,
    ),
    "sm_120": Card("RTX 5090", 1.792e12, _rates(209.5e12, 104.8e12, 1.64e12), "NVIDIA RTX Blackwell white paper"),
}
"""By the target that Triton compiles for."""

H200 = replace(CARDS["sm_90"], name="H200", bandwidth=4.8e12, source="NVIDIA H200 data sheet, SXM; DGX H200")


def card_called(device_name: str) -> Card | None:
    """The card that a driver calls so, as "NVIDIA H100 80GB HBM3"; None where its figures are not known here."""
    return next((card for card in (*CARDS.values(), H200) if card.name in device_name), None)
