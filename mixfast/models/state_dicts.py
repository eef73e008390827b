"""What loading weights under foreign names needs, whichever names they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""

NAMES_LISTED = 8


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes each wrapper's prefix where every name carries it, however often they were nested."""
    state = dict(state)
    wrapper = next((prefix for prefix in WRAPPERS if state and all(name.startswith(prefix) for name in state)), None)
    if wrapper is None:
        return state
    return unwrapped({name.removeprefix(wrapper): value for name, value in state.items()})


def copy_matching(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Copies every entry of `source` into the tensor of the same name in `target`, casting to its type.

    Raises ValueError naming every missing, unexpected or wrongly shaped entry, and then has copied nothing.
    """
    mismatches = [
        f"{name} (expected shape {list(target[name].shape)}, got {_shape_or_type(source[name])})"
        for name in target
        if name in source and _shape_or_type(source[name]) != list(target[name].shape)
    ]
    problems = {
        "missing": [name for name in target if name not in source],
        "unexpected": [name for name in source if name not in target],
        "wrongly shaped": mismatches,
    }
    found = [f"{kind}: {_shortened(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError("state_dict: does not fit the model; " + "; ".join(found))
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


def _shape_or_type(value: object) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _shortened(names: list[str]) -> str:
    more = len(names) - NAMES_LISTED
    return ", ".join(names[:NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
