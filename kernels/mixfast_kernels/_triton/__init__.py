"""The operators in Triton, one file an operator: kernels, then the launchers that the dispatcher calls.

Importing this package needs no Triton: an operator's file is imported when it is first called.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from mixfast_kernels._register import library

# Operator: the file that holds its launcher, which has the operator's name and its schema's arguments.
OPERATORS = {
    "augment": "augment",
    "class_attention": "class_attention",
    "class_attention_backward": "class_attention",
    "gated_positional_attention": "gated_positional_attention",
    "gated_positional_attention_backward": "gated_positional_attention",
    "mask_mix_encode": "mask_mix_encode",
    "mask_mix_encode_backward": "mask_mix_encode",
    "mixed_cross_entropy": "mixed_cross_entropy",
    "mixed_cross_entropy_backward": "mixed_cross_entropy",
    "source_attribution": "source_attribution",
    "source_attribution_backward": "source_attribution",
    "talking_heads_attention": "talking_heads_attention",
    "talking_heads_attention_backward": "talking_heads_attention",
    "unmix_pool": "unmix_pool",
    "unmix_pool_backward": "unmix_pool",
}


@functools.cache
def register(device: str) -> None:
    """Puts the Triton operators over the references for a dispatch key, ``"CUDA"`` or (interpreted) ``"CPU"``; once."""
    for operator in OPERATORS:
        library().impl(operator, _on_first_call(operator), device)


def _on_first_call(operator: str) -> Callable[..., Any]:
    @functools.cache
    def launcher() -> Callable[..., Any]:
        return getattr(importlib.import_module(f"{__name__}.{OPERATORS[operator]}"), operator)

    return lambda *args: launcher()(*args)
