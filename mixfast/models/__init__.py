"""Backbones that know nothing of methods: each describes its stem and maps raw stem output to features."""

from __future__ import annotations

from mixfast.models.core import Core
from mixfast.models.preact_resnet import PreActResNet18
from mixfast.models.published import load_mixmo_state_dict, mixmo_state_dict
from mixfast.models.registry import backbone_names, build_backbone
from mixfast.models.resnet import ResNet18
from mixfast.models.stem import Stem
from mixfast.models.wrn import WideResNet

__all__ = [
    "Core",
    "PreActResNet18",
    "ResNet18",
    "Stem",
    "WideResNet",
    "backbone_names",
    "build_backbone",
    "load_mixmo_state_dict",
    "mixmo_state_dict",
]
