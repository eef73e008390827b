"""Backbones that know nothing of methods: each describes its stem and maps raw stem output to features."""

from __future__ import annotations

from mixfast.models.architectures import Architecture
from mixfast.models.core import Core
from mixfast.models.patches import default_patch_size, resize_patch_projection
from mixfast.models.preact_resnet import PreActResNet18
from mixfast.models.published import load_mixmo_state_dict, mixmo_state_dict
from mixfast.models.published_vit import load_timm_state_dict, timm_state_dict
from mixfast.models.registry import backbone_names, build_backbone, is_transformer, split_width
from mixfast.models.resnet import ResNet18
from mixfast.models.stem import Stem
from mixfast.models.token_core import TokenCore
from mixfast.models.wrn import WideResNet

__all__ = [
    "Architecture",
    "Core",
    "PreActResNet18",
    "ResNet18",
    "Stem",
    "TokenCore",
    "WideResNet",
    "backbone_names",
    "build_backbone",
    "default_patch_size",
    "is_transformer",
    "load_mixmo_state_dict",
    "load_timm_state_dict",
    "mixmo_state_dict",
    "resize_patch_projection",
    "split_width",
    "timm_state_dict",
]
