"""The vision transformers as tables of numbers: what differs between a ConViT and a CaiT of any size."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTIONS = ("gated-positional", "talking-heads")

CONVIT_HEAD_WIDTH = 32
CAIT_HEAD_WIDTH = 48


@dataclass(frozen=True)
class Architecture:
    """`depth` self-attention blocks, then `class_depth` class-attention blocks, on tokens of `width` values.

    Args:
        width: d; a multiple of `heads`.
        heads: attention heads of every block.
        depth: self-attention blocks, which extract features.
        attention: "gated-positional" (ConViT) or "talking-heads" (CaiT), that of the feature blocks.
        layer_scale: what every LayerScale begins with; None: no LayerScale.
        class_depth: class-attention blocks.
        mlp_ratio: hidden width of every block's MLP over `width`.

    Raises ValueError for another attention, a number that is not positive, or heads that do not divide the width.
    """

    width: int
    heads: int
    depth: int
    attention: str
    layer_scale: float | None = None
    class_depth: int = 2
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        for name in ("width", "heads", "depth", "class_depth", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive integer, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of the width {self.width}, got {self.heads}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention: expected one of {', '.join(ATTENTIONS)}, got {self.attention!r}")


def convit(width: int = 384, depth: int = 5) -> Architecture:
    """The thesis's ConViT variant (A.1.5: 384 wide, 12 heads, 5 GPSA blocks), or one of another width and depth.

    Raises ValueError unless the width is a multiple of 32, a head's width.
    """
    if width % CONVIT_HEAD_WIDTH:
        nearest = CONVIT_HEAD_WIDTH * max(1, round(width / CONVIT_HEAD_WIDTH))
        raise ValueError(f"width: expected a multiple of {CONVIT_HEAD_WIDTH}, got {width}; the nearest is {nearest}")
    return Architecture(width, width // CONVIT_HEAD_WIDTH, depth, "gated-positional")


def _cait(width: int, depth: int, layer_scale: float) -> Architecture:
    return Architecture(width, width // CAIT_HEAD_WIDTH, depth, "talking-heads", layer_scale)


CAIT = {
    "cait-xxs24": _cait(192, 24, 1e-5),
    "cait-xxs36": _cait(192, 36, 1e-5),
    "cait-xs24": _cait(288, 24, 1e-5),
    "cait-s24": _cait(384, 24, 1e-5),
    "cait-s36": _cait(384, 36, 1e-6),
    "cait-m36": _cait(768, 36, 1e-6),
    "cait-m48": _cait(768, 48, 1e-6),
}
"""CaiT's sizes (Touvron et al. 2021b, "Going deeper with image transformers")."""
