"""Sections 4.3.3.2 and A.7.3: how many operations self-attention and class attention take, with the ConViT's numbers put in."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import cache

import torch

from mixfast.flops.closed_form import closed_form, totals
from mixfast.flops.costing import cost_of_recipe
from mixfast.flops.meter import Meter
from mixfast.flops.tables.figure import Figure, ThesisTable
from mixfast.models.architectures import convit
from mixfast.models.self_attention import Layout
from mixfast.models.transformer_blocks import FeatureBlock

PLAIN = "vit-cifar100-convit-vanilla"
EMBEDDING, ENCODING = "vit-cifar100-convit-mixvit-embedding", "vit-cifar100-convit-mixvit-encoding"
# The thesis's ConViT on CIFAR: tokens, values a token, heads.
GRID, D, H = (8, 8), 384, 12
N = GRID[0] * GRID[1]
TOKEN = N * D**2
# Not the first, whose query is the same for all images, so that mixfast takes it once for a batch.
CLASS_BLOCK = "class_blocks.1"

THIRTEEN = "the items above sum to 12Nd² + 2N²d (3 + 1 + 8 = 12): a slip of Nd²"
ONE_QUERY = "only the class token has a query, and it has a key and a value too: 2(N + 1)d² + d² for 3Nd², N + 1 for N"
FOLDED = "mixfast projects no token: 12d² + 2h(N + 1)d"
BOUND = "an upper bound, from (3N + 9) / 13N = 0.2416; counted with the two sums above put right"
LAYERS = "thesis: counted as layers; those of the MLP are d × 4d, worth four each: 3 + 1 + 4 + 4"
THUMB = "(30 + 6 + 2) / (30 + 6), from the two above; with their true weights it is less"


def section_a73() -> ThesisTable:
    """Operation counts, item by item."""
    items = self_attention_items()
    self_attention = items.total()
    published, own = class_attention()
    printed_self, printed_class = 13 * TOKEN + 2 * N**2 * D, (3 * N + 9) * D**2 + 2 * N * D
    overhead = _over_plain(EMBEDDING, "inference")
    figures = [
        Figure("1) queries, keys, values: 3Nd²", f"{3 * TOKEN:,}", Fraction(items["qkv"])),
        Figure("2), 3) scores, sums: 2N²d", f"{2 * N**2 * D:,}", Fraction(items["gated_positional_attention"])),
        Figure("4) projection: Nd²", f"{TOKEN:,}", Fraction(items["proj"])),
        Figure("5) MLP: 8Nd²", f"{8 * TOKEN:,}", Fraction(items["mlp"])),
        Figure("self-attention: 13Nd² + 2N²d", f"{printed_self:,}", Fraction(self_attention), why=THIRTEEN),
        Figure(
            "class attention: (3N + 9)d² + 2Nd",
            f"{printed_class:,}",
            Fraction(published),
            Fraction(own),
            f"{ONE_QUERY}; {FOLDED}",
        ),
        Figure(
            "class over self, at most",
            "0.25",
            Fraction(published, self_attention),
            Fraction(own, self_attention),
            BOUND,
        ),
        Figure("MixViT over plain, inference", "1.1×", *overhead),
    ]
    notes = (
        f"The ConViT of the thesis: N = {N} tokens of d = {D} values, h = {H} heads, L = 5, M = 2, in the thesis's formulas.",
        "Self-attention and mixfast's class attention are counted by running them, the published one by its closed form.",
        "The thesis gets 1.1 from (L + 0.5 M) / (L + 0.5) = 1.0909.",
    )
    return ThesisTable("A.7.3", "operations of the attention layers", figures, 4, notes)


def section_4332() -> ThesisTable:
    """The rule of thumb."""
    items = self_attention_items()
    published, own = class_attention()
    linear = Fraction(sum(items[part] for part in ("qkv", "proj", "mlp")), TOKEN)
    projected = Fraction(published - 2 * (N + 1) * D, TOKEN)
    folded = Fraction(own - 2 * H * (N + 1) * D, TOKEN)
    figures = [
        Figure("d × d products a token, self-attention", "6", linear, why=LAYERS),
        Figure("d × d products a token, class attention", "3", projected, folded, f"{ONE_QUERY}; {FOLDED}"),
        Figure("MixViT-encoding over plain, forward", "1.06×", *_over_plain(ENCODING, "forward"), THUMB),
    ]
    notes = (
        f"The ConViT of the thesis (N = {N}, d = {D}), M = 2. The last figure is a forward pass of training: M encodings a "
        "token as published, in mixfast the one that its mask shows.",
    )
    return ThesisTable("4.3.3.2", "computational overhead, the rule of thumb", figures, 4, notes)


@cache
def self_attention_items() -> Counter[str]:
    """Multiply-adds of the pieces of a ConViT's feature block, by running it."""
    with torch.device("meta"):
        block = FeatureBlock(convit(D), drop_path=0.0)
        tokens = torch.empty(1, N, D)
    parts = {"qkv": block.attention.qkv, "proj": block.attention.proj, "mlp": block.mlp}
    with Meter(block, parts, visible=1).counting() as meter:
        block(tokens, Layout(GRID))
    return meter.forward


def class_attention() -> tuple[int, int]:
    """Multiply-adds of one class-attention block for one set of tokens: as published, and counted in mixfast."""
    plain = cost_of_recipe(PLAIN)
    published = closed_form(plain.setup, as_published=True)[CLASS_BLOCK].inference
    return published, plain.cost.inference.parts[CLASS_BLOCK]


def _over_plain(recipe: str, figure: str) -> tuple[Fraction, Fraction]:
    """Of the inference or a forward pass: as published, and counted in mixfast."""
    costed, plain = cost_of_recipe(recipe), cost_of_recipe(PLAIN)
    published = (getattr(totals(closed_form(each.setup, as_published=True)), figure) for each in (costed, plain))
    return Fraction(*published), Fraction(*(getattr(each.cost, figure).total for each in (costed, plain)))
