"""What every method costs over every backbone, as formulas of their sizes: written from the papers, without the networks.

They hold the counts of ``mixfast.flops.counting`` to account, and they say what the thesis's own composition costs, which
mixfast does not run. The convention is that of ``mixfast.flops``.
"""

from mixfast.flops.closed_form.convolutions import convolutional_form
from mixfast.flops.closed_form.setup import Piece, Setup, totals
from mixfast.flops.closed_form.transformers import transformer_form

__all__ = ["Piece", "Setup", "closed_form", "totals"]


def closed_form(setup: Setup, *, as_published: bool = False) -> dict[str, Piece]:
    """The cost of each part.

    Args:
        setup: backbone, method and sizes.
        as_published: the composition as the papers' formulas read, instead of mixfast's: every input is encoded and
            attributed everywhere, also where a mask hides it, and at inference before the sum; class attention projects keys
            and values of all tokens, anew for each subnetwork; attention maps are kept, not taken anew.

    Raises:
        ValueError: a backbone that has no form here.
    """
    form = convolutional_form(setup, as_published) or transformer_form(setup, as_published)
    if form is None:
        raise ValueError(f"backbone {setup.backbone!r} has no closed form: add one in mixfast/flops/closed_form")
    return form
