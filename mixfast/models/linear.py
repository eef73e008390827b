"""Linear layers of tokens, as a compiled step runs them best."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def linear(tokens: Tensor, layer: nn.Linear) -> Tensor:
    """What `layer(tokens)` is: [..., inputs] to [..., outputs].

    A product with a bias (addmm) writes the bias to the whole result first, which the product then reads again. Here the bias
    stands alone: ``torch.compile`` takes it into the residual that follows, and it costs nothing.
    """
    product = F.linear(tokens, layer.weight)
    return product + layer.bias.to(product.dtype)
