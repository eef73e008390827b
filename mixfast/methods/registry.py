"""Methods by name, and the whole network of one of them."""

from __future__ import annotations

import difflib
from typing import Any

import torch

from mixfast.methods.method import Method, Network
from mixfast.methods.mimo import MIMO
from mixfast.methods.mixmo import CutMixMo, LinearMixMo
from mixfast.methods.mixshare import MixShare
from mixfast.methods.mixvit import MixViT, MixViTEmbedding, MixViTEncoding
from mixfast.methods.single import Single
from mixfast.models import build_backbone

METHODS: dict[str, type[Method]] = {
    "single": Single,
    "mimo": MIMO,
    "linear-mixmo": LinearMixMo,
    "cut-mixmo": CutMixMo,
    "mixshare": MixShare,
    "mixvit-embedding": MixViTEmbedding,
    "mixvit-encoding": MixViTEncoding,
    "mixvit-unattributed": MixViT,
}


def create_method(name: str, **settings: Any) -> Method:
    """The method called ``name``; ``settings`` are its fields.

    Raises:
        ValueError: an unknown method, a setting that it does not have, or a number of inputs it cannot take.
    """
    if name not in METHODS:
        nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)[0]
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {name!r}, the nearest is {nearest!r}")
    kind = METHODS[name]
    unknown = sorted(set(settings) - set(kind.setting_names()))
    if unknown:
        raise ValueError(f"method {name!r} has no setting {unknown[0]!r}; it has {', '.join(kind.setting_names())}")
    method = kind(**settings)
    fits = method.num_inputs == 1 if name == "single" else method.num_inputs >= 2
    if not fits:
        wanted = "exactly 1" if name == "single" else "at least 2"
        raise ValueError(f"num_inputs must be {wanted} for method {name!r}, got {method.num_inputs}")
    return method


def create_model(
    name: str,
    *,
    num_classes: int,
    method: str | Method = "single",
    in_channels: int = 3,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    drop_path: float | None = None,
    generator: torch.Generator | None = None,
    **overrides: Any,
) -> Network:
    """A freshly initialised network: backbone ``name`` (``wrn28-10``, ``convit``, ...) made for ``method``.

    Args:
        name: the backbone.
        num_classes: K, at least 2.
        method: a method's name or object.
        in_channels: channels of an image.
        image_size: pixels a side, or (height, width); transformers need it, convolutional backbones take any.
        patch_size: pixels a side of a transformer's patch; by default 4 up to 32 pixels, 8 up to 64, else 16.
        drop_path: rate of stochastic depth in a transformer's feature blocks; by default 0.
        generator: draws the initial weights; by default torch's global one.
        overrides: settings of the method, such as ``num_inputs=2``.

    Returns:
        A module with ``forward(images, mixing, index=None)``, ``predict(images)`` and ``fold()``.

    Raises:
        ValueError: an unknown name or setting, or a number out of range.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}")
    if isinstance(method, str):
        method = create_method(method, **overrides)
    elif overrides:
        raise ValueError(f"settings {sorted(overrides)} belong to the method's name, not to a method object")
    core = build_backbone(name, image_size=image_size, patch_size=patch_size, drop_path=drop_path)
    return method.network(core, num_classes, in_channels=in_channels, generator=generator)
