"""Operators for networks that mix M inputs into one and read M predictions out. Needs torch only.

Each operator is one file: the mathematics and its source, a reference in plain PyTorch, its registration with the
torch dispatcher (fake, autograd, autocast, vmap, FLOP formula), and the public function.
"""

from mixfast_kernels._backends import Backend, backends, load
from mixfast_kernels._build import NativeUnavailable
from mixfast_kernels.augment import augment
from mixfast_kernels.bias_gelu import bias_gelu
from mixfast_kernels.class_attention import class_attention
from mixfast_kernels.gated_positional_attention import gated_positional_attention
from mixfast_kernels.mask_mix_encode import mask_mix_encode
from mixfast_kernels.mixed_cross_entropy import mixed_cross_entropy
from mixfast_kernels.mixing import Mixing
from mixfast_kernels.source_attribution import source_attribution
from mixfast_kernels.talking_heads_attention import talking_heads_attention
from mixfast_kernels.unmix_pool import unmix_pool

__all__ = [
    "Backend",
    "Mixing",
    "NativeUnavailable",
    "augment",
    "backends",
    "bias_gelu",
    "class_attention",
    "gated_positional_attention",
    "mask_mix_encode",
    "mixed_cross_entropy",
    "source_attribution",
    "talking_heads_attention",
    "unmix_pool",
]

# After the modules above, which define the operators: a native implementation goes over a definition.
load()
