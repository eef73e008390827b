"""Whether NVIDIA DALI can be used here, found out without loading it."""

from __future__ import annotations

import importlib.util

import torch

from mixfast.errors import UnavailableError


def require_dali(decoder: str, device: torch.device) -> None:
    """Raises UnavailableError, which says what to do, where DALI cannot work with this `decoder` and training device."""
    missing = why_no_dali(decoder, device)
    if missing:
        raise UnavailableError(missing)


def why_no_dali(decoder: str, device: torch.device) -> str | None:
    """Why DALI cannot decode for training on `device`; None where it can. decoder: cpu, or mixed (on the GPU)."""
    if not _installed():
        return (
            "data.source=dali needs NVIDIA DALI (Linux only), which is not installed: pip install 'mixfast[dali]', or set "
            "data.source=torch"
        )
    if decoder == "mixed" and not torch.cuda.is_available():
        return "data.decoder=mixed decodes on a CUDA device, and torch sees none here; set data.decoder=cpu"
    if decoder == "mixed" and device.type != "cuda":
        return (
            f"data.decoder=mixed decodes on a CUDA device, and training runs on {device}; set training.device=cuda or "
            "data.decoder=cpu"
        )
    return None


def _installed() -> bool:
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # no package `nvidia` at all
        return False
