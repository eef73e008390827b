"""Automatic mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, amp: str) -> AbstractContextManager:
    """The context that steps and predictions run in. amp: ``training.amp``, off or a key of ``AMP_DTYPES``."""
    return torch.autocast(device.type, AMP_DTYPES.get(amp, torch.bfloat16), enabled=amp != "off")
