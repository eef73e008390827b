"""Input checks that every metric shares: they name the argument, what came and what was expected.

Dimensions: N samples, M members (subnetworks, of one network or of several), K classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

# Squares of differences of values below this stay finite in float64, at every temperature that can be fitted.
LARGEST_MAGNITUDE = 1e100


def check_logits(logits_NMK: Tensor, name: str = "logits") -> Tensor:
    """Returns the logits [N, M, K] detached, on the CPU, in their own floating dtype.

    Metrics run on the CPU since float64 is missing on some accelerators, and so that one set of logits has one score.
    Raises TypeError for anything but a floating tensor, ValueError for a wrong rank, an empty set and values that are
    not finite.
    """
    return _check_values(logits_NMK, name, ("N", "M", "K"))


def check_scores(scores_NK: Tensor, name: str = "scores") -> Tensor:
    """Returns the ensemble's scores [N, K] detached, on the CPU, in float64; raises like `check_logits`."""
    return _check_values(scores_NK, name, ("N", "K")).to(torch.float64)


def check_labels(labels_N: Tensor, num_samples: int, num_classes: int) -> Tensor:
    """Returns the labels [N] as int64 on the CPU.

    Raises TypeError for a dtype that is no integer, ValueError for another shape than [num_samples] and for a label
    outside 0..num_classes-1.
    """
    if not isinstance(labels_N, Tensor):
        raise TypeError(f"labels must be a torch.Tensor of integers, got {type(labels_N).__name__}")
    if labels_N.is_floating_point() or labels_N.is_complex() or labels_N.dtype == torch.bool:
        raise TypeError(f"labels must hold integers (class indices), got dtype {labels_N.dtype}")
    if labels_N.shape != (num_samples,):
        raise ValueError(f"labels must have one entry per sample, shape [{num_samples}], got {list(labels_N.shape)}")
    labels_N = labels_N.detach().to("cpu", torch.int64)
    wrong_N = (labels_N < 0) | (labels_N >= num_classes)
    if wrong_N.any():
        first = int(wrong_N.nonzero()[0])
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1} (the logits have {num_classes} classes), "
            f"got {int(labels_N[first])} at sample {first}"
        )
    return labels_N


def check_choice(value: str, choices: Sequence[str], name: str) -> None:
    """Raises ValueError naming the nearest valid choice when `value` is none of them."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def check_positive_integer(value: int, name: str) -> None:
    """Raises TypeError for anything but an int, ValueError below 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_values(values: Tensor, name: str, dimensions: tuple[str, ...]) -> Tensor:
    layout = f"[{', '.join(dimensions)}]"
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor {layout}, got {type(values).__name__}")
    if not values.is_floating_point():
        raise TypeError(f"{name} must be a floating tensor {layout}, got dtype {values.dtype}")
    if values.ndim != len(dimensions):
        raise ValueError(f"{name} must have shape {layout}, got {list(values.shape)}")
    if values.numel() == 0:
        raise ValueError(f"{name} must hold at least one value along each of {layout}, got shape {list(values.shape)}")
    values = values.detach().cpu()
    # NaN survives the maximum, and fails the comparison as an infinity does: one pass finds all three kinds.
    largest = float(values.abs().max())
    if not largest <= LARGEST_MAGNITUDE:
        bad = ~(values.abs().double() <= LARGEST_MAGNITUDE)
        first = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite and at most {LARGEST_MAGNITUDE:g} in magnitude, got {float(values[tuple(first)])} "
            f"at {layout} = {first} ({int(bad.sum())} such values)"
        )
    return values
