"""CaiT's sizes against timm's, and what a fresh CaiT begins with."""

from __future__ import annotations

import pytest
import timm
import torch

from mixfast.models import build_backbone
from mixfast.models.transformer_blocks import LayerScale

# timm's name; pixels; LayerScale's first value in the paper; parameters here, with the projection and 1000 classes.
SIZES = {
    "cait-xxs24": ("cait_xxs24_224", 224, 1e-5, 11955880),
    "cait-xxs36": ("cait_xxs36_224", 224, 1e-5, 17299336),
    "cait-xs24": ("cait_xs24_384", 384, 1e-5, 26669512),
    "cait-s24": ("cait_s24_224", 224, 1e-5, 46915432),
    "cait-s36": ("cait_s36_384", 384, 1e-6, 68365864),
    "cait-m36": ("cait_m36_384", 384, 1e-6, 271219816),
    "cait-m48": ("cait_m48_448", 448, 1e-6, 356458984),
}


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_timms(name: str) -> None:
    """Parameters differ by the key biases of the two class-attention blocks, which are not there, and by nothing else."""
    theirs_name, image_size, layer_scale, counted = SIZES[name]
    with torch.device("meta"):
        core = build_backbone(name, image_size=image_size)
        theirs = timm.create_model(theirs_name)
    width = core.num_features
    assert (core.patch_size, width, len(core.blocks)) == (16, theirs.embed_dim, len(theirs.blocks))
    assert len(core.class_blocks) == len(theirs.blocks_token_only) == 2
    assert core.blocks[0].attention.heads == core.class_blocks[0].heads == theirs.blocks[0].attn.num_heads
    scales = {module.start for module in core.modules() if isinstance(module, LayerScale)}
    assert scales == {layer_scale}
    ours = sum(parameter.numel() for parameter in core.parameters())
    ours += width * (3 * 16 * 16 + 1) + 1000 * (width + 1)
    assert ours == counted
    assert sum(parameter.numel() for parameter in theirs.parameters()) - 2 * width == counted


@pytest.mark.parametrize(("image_size", "num_classes", "counted"), [(64, 200, 26124968), (224, 100, 26299972)])
def test_counts_of_cait_xs24_in_the_thesis(image_size: int, num_classes: int, counted: int) -> None:
    """Tiny ImageNet, for which table 4.3 prints 26 M, and ImageNet-100, with the projection and the head."""
    with torch.device("meta"):
        core = build_backbone("cait-xs24", image_size=image_size)
    ours = sum(parameter.numel() for parameter in core.parameters())
    assert ours + 288 * (3 * core.patch_size**2 + 1) + num_classes * (288 + 1) == counted
    assert round(counted / 1e6) == 26


def test_fresh_blocks_change_their_input_by_little() -> None:
    """LayerScale begins at 1e-5, so 24 fresh blocks are the identity but for that."""
    core = build_backbone("cait-xxs24", image_size=16)
    tokens = torch.randn(2, 16, 192)
    change = core.features(tokens) - tokens
    assert 0 < change.abs().max() < 1e-3
