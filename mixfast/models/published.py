"""Weights under the names of the published MixMo implementation (METHODS section 7), in both directions.

Both functions take the whole network: `encoder.weight` [M, C, c, k, k], `core` (a Core), `heads.weight` [M, K, F] and
`heads.bias` [M, K]. A part with M = 1 takes the name it has in a plain network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mixfast.models.state_dicts import copy_matching, unwrapped

PLAIN_NAMES = {"encoder": "conv1", "heads": "fc"}


def mixmo_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` under the published names; the tensors share memory with the model, as in `state_dict`.

    Raises ValueError if the model holds an entry that has no published name.
    """
    published: dict[str, Tensor] = {}
    for name, value in unwrapped(model.state_dict()).items():
        part, _, rest = name.partition(".")
        if part in PLAIN_NAMES:
            published.update(_per_input(PLAIN_NAMES[part], rest, value))
        else:
            published[_published_core_name(name)] = value
    return published


def load_mixmo_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copies a published state into `model`, casting to its types; names may all begin with `module.` or `_orig_mod.`.

    Raises ValueError naming every missing, unexpected or wrongly shaped entry, and then leaves the model as it was.
    """
    copy_matching(unwrapped(state_dict), mixmo_state_dict(model))


def _per_input(plain: str, rest: str, value: Tensor) -> Iterable[tuple[str, Tensor]]:
    if len(value) == 1:
        return [(f"{plain}.{rest}", value[0])]
    return [(f"list_{plain}.{index}.{rest}", slice_) for index, slice_ in enumerate(value)]


def _published_core_name(name: str) -> str:
    if stage := re.fullmatch(r"core\.stages\.(\d+)\.(.+)", name):
        return f"layer{int(stage[1]) + 1}.{stage[2]}"
    if norm := re.fullmatch(r"core\.norm\.(.+)", name):
        return f"bn1.{norm[1]}"
    raise ValueError(
        f"model: its entry {name!r} has no published name; expected encoder.weight, core.stages.*, core.norm.*, "
        "heads.weight and heads.bias only"
    )
