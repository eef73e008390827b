"""The columns that print FLOPs of inference as a multiple of the single-input backbone's: tables 4.1, 4.6 and A.18."""

from __future__ import annotations

from fractions import Fraction

from mixfast.flops.closed_form import closed_form, totals
from mixfast.flops.costing import Costed, cost_of_recipe
from mixfast.flops.tables.figure import Figure, ThesisTable

PLAIN = "vit-cifar100-convit-vanilla"
EMBEDDING = "vit-cifar100-convit-mixvit-embedding"
MIXMO = "vit-cifar100-convit-vit-mixmo"

T41 = (
    ("(1) Single-input", PLAIN, "1×"),
    ("(2) MIMO, sum", "vit-cifar100-convit-mimo", "1×"),
    ("(3) MixMo, sum", MIXMO, "1×"),
    ("(4) MixMo, separate", f"{MIXMO}-separate", "2×"),
    ("(5) CutMix-only MixMo, separate", f"{MIXMO}-cut-only-separate", "2×"),
)
TA18 = (
    ("Single-input", PLAIN, "1×"),
    ("MixMo, sum", MIXMO, "1×"),
    ("MixMo, separate", f"{MIXMO}-separate", "2×"),
    ("MixMo + same init., sum", f"{MIXMO}-kernel-init", "1×"),
)
T46 = (
    ("Late source embedding", EMBEDDING, "×1.1"),
    ("Late source encoding", "vit-cifar100-convit-mixvit-encoding", "×1.1"),
    ("No source attribution", "vit-cifar100-convit-mixvit-unattributed", "×1.1"),
    ("Early input source embedding", f"{EMBEDDING}-early", "×2"),
    ("Early source encoding", "vit-cifar100-convit-mixvit-encoding-early", "×2"),
    ("Separate inference", EMBEDDING, "×1.1"),
    ("Sum inference", f"{EMBEDDING}-sum", "×1"),
    ("Alternating inference", f"{EMBEDDING}-alternating", "×1"),
    ("Single subnetwork inference", f"{EMBEDDING}-single-subnetwork", "×1"),
    ("Binarized CutMix", EMBEDDING, "×1.1"),
    ("All tokens", f"{EMBEDDING}-all-tokens", "×2"),
)
REMARKS = {
    "No source attribution": "mixfast runs the classifier blocks once: nothing tells the subnetworks' tokens apart",
    "All tokens": "mixfast computes one of the equal copies of a token in the feature blocks; a training step, whose tokens all "
    "differ, costs {step:.2f} of the plain one",
}
NOTES = (
    "Counted: the composition as the thesis describes it, by its closed form; mixfast: its own network, run on the meta device. "
    "Each over the single-input ConViT in the same composition.",
    "Class attention in mixfast projects no keys and values of tokens, and reads the tokens once for all subnetworks: the "
    "single-input network itself costs {plain:.3f} of the published composition.",
)


def table_41() -> ThesisTable:
    """MIMO and MixMo over ConViT."""
    return _table("4.1", T41)


def table_46() -> ThesisTable:
    """The ablations of MixViT."""
    derivation = (
        "The thesis derives its 1.1 from (L + 0.5 M) / (L + 0.5) = 12/11 with L = 5, M = 2 (A.7.3), an upper bound: counted it is "
        "less."
    )
    return _table("4.6", T46, derivation)


def table_a18() -> ThesisTable:
    """Initialisation of the encoders."""
    return _table("A.18", TA18)


def _table(number: str, rows: tuple[tuple[str, str, str], ...], *notes: str) -> ThesisTable:
    plain = cost_of_recipe(PLAIN)
    figures = [_figure(*row, plain) for row in rows]
    shared = [note.format(plain=plain.cost.inference.total / _published(plain)) for note in NOTES]
    return ThesisTable(
        number, "multiply-adds of inference over the single-input ConViT's", figures, 4, [*shared, *notes]
    )


def _figure(row: str, recipe: str, printed: str, plain: Costed) -> Figure:
    costed = cost_of_recipe(recipe)
    published = Fraction(_published(costed), _published(plain))
    own = Fraction(costed.cost.inference.total, plain.cost.inference.total)
    remark = REMARKS.get(row, "").format(step=costed.cost.step / plain.cost.step)
    return Figure(row, printed, published, own, remark)


def _published(costed: Costed) -> int:
    return totals(closed_form(costed.setup, as_published=True)).inference
