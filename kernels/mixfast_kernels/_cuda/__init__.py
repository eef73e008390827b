"""What the CUDA library (``csrc/cuda``) needs in Python: launchers that choose between its kernels and the reference.

``augment`` and ``unmix_pool`` the library registers itself. ``mask_mix_encode`` has kernels for some geometries only: its
launcher, in a file of the operator's name, calls them as operators of the namespace ``mixfast_cuda``.
"""

from __future__ import annotations

import functools

import torch

from mixfast_kernels._cuda import mask_mix_encode
from mixfast_kernels._register import library

_LIBRARY = torch.library.Library("mixfast_cuda", "DEF")

for _schema in mask_mix_encode.SCHEMAS:
    _LIBRARY.define(_schema)


@functools.cache
def register(device: str) -> None:
    """Puts the launchers over the references for a dispatch key, ``"CUDA"`` or (kernels on the host) ``"CPU"``; once."""
    for launcher in (mask_mix_encode.mask_mix_encode, mask_mix_encode.mask_mix_encode_backward):
        library().impl(launcher.__name__, launcher, device)
