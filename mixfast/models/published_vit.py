"""Weights of vision transformers under timm's names, in both directions.

| timm | here |
|---|---|
| `patch_embed.proj.{weight,bias}` | `encoder.{weight,bias}`, M = 1 |
| `pos_embed` [1, N, d] | `core.position` [d, H', W'] |
| `cls_token` [1, 1, d] | `core.class_token` [d] |
| `blocks.{i}.{norm1,norm2,mlp}.*` | `core.blocks.{i}.*`, same names |
| `blocks.{i}.gamma_{1,2}` | `core.blocks.{i}.scale{1,2}.weight` |
| CaiT `blocks.{i}.attn.{qkv,proj,proj_l,proj_w}.*` | `core.blocks.{i}.attention.{qkv,proj,before,after}.*` |
| ConViT `blocks.{i}.attn.{qk,v}.weight` | the first 2d and the last d rows of `core.blocks.{i}.attention.qkv.weight` |
| ConViT `blocks.{i}.attn.{gating_param,pos_proj.weight}` | `core.blocks.{i}.attention.{gate,positional}` |
| `blocks_token_only.{j}.*` | `core.class_blocks.{j}.*`; `attn.{q,k,v,proj}` are `query, key, value, proj` |
| `norm.*`, `head.*` | `core.norm.*`, `heads.*`, M = 1 |

Two of timm's biases have no place here, since a softmax does not see them: `blocks_token_only.{j}.attn.k.bias` adds the
same to all scores of the one query, `blocks.{i}.attn.pos_proj.bias` the same to all keys. They are dropped on the way in
and zero on the way out. (timm has no ConViT with class-attention blocks: its names for those are CaiT's.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from mixfast.models.state_dicts import copy_matching, unwrapped

NETWORK_PARTS = {"encoder": "patch_embed.proj", "heads": "head"}
ATTENTION_PARTS = {"before": "proj_l", "after": "proj_w"}
ATTENTION_PARAMETERS = {"gate": "gating_param", "positional": "pos_proj.weight"}
CLASS_ATTENTION_PARTS = {"query": "q", "key": "k", "value": "v", "proj": "proj"}
UNSEEN_BIASES = re.compile(r"blocks_token_only\.\d+\.attn\.k\.bias|blocks\.\d+\.attn\.pos_proj\.bias")


def timm_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network (`encoder`, `core`, `heads`) or of a TokenCore alone under timm's names.

    The tensors share memory with the model, but for the zeros that stand for the biases that it does not have. Raises
    ValueError if the model is neither, has more than one input, or holds an entry that timm has no name for.
    """
    named = _named_views(unwrapped(model.state_dict()))
    for name, weight in list(named.items()):
        bias = f"{name.removesuffix('.weight')}.bias"
        if UNSEEN_BIASES.fullmatch(bias):
            named[bias] = weight.new_zeros(weight.shape[0])
    return named


def load_timm_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copies a state of timm's into a network or into a TokenCore alone, casting to the model's types.

    A TokenCore takes its own entries and leaves `patch_embed.*` and `head.*` to others. Names may all begin with `module.`
    or `_orig_mod.`. Positions must be those of the model's grid: load first, then `resize`.

    Raises ValueError if the model is neither or has more than one input, and for missing, unexpected or wrongly shaped
    entries, all of them named; the model is then as it was.
    """
    target = _named_views(unwrapped(model.state_dict()))
    source = {name: value for name, value in unwrapped(state_dict).items() if not UNSEEN_BIASES.fullmatch(name)}
    parts = tuple(f"{part}." for part in NETWORK_PARTS.values())
    if not any(name.startswith(parts) for name in target):
        source = {name: value for name, value in source.items() if not name.startswith(parts)}
    copy_matching(source, target)


def _named_views(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's or a core's own state as views under timm's names."""
    if "core.position" in state:
        core = {name.removeprefix("core."): value for name, value in state.items() if name.startswith("core.")}
        rest = {name: value for name, value in state.items() if not name.startswith("core.")}
    elif "position" in state:
        core, rest = dict(state), {}
    else:
        raise ValueError(
            "model: expected a TokenCore, or a network that holds one as `core`; its state has no position"
        )
    named: dict[str, Tensor] = {}
    for name, value in core.items():
        named.update(_core_views(name, value, core))
    for name, value in rest.items():
        named[_network_name(name, value)] = value[0]
    return named


def _network_name(name: str, value: Tensor) -> str:
    part, _, entry = name.partition(".")
    if part not in NETWORK_PARTS:
        raise ValueError(f"model: timm has no name for its entry {name!r}; expected encoder.*, core.* and heads.* only")
    if len(value) != 1:
        raise ValueError(f"model: timm's networks have one input, got {len(value)} in {name!r}; load its core alone")
    return f"{NETWORK_PARTS[part]}.{entry}"


def _core_views(name: str, value: Tensor, core: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One entry of a core under its name in timm; a ConViT's packed projection under two."""
    if name == "position":
        return {"pos_embed": value.view(value.shape[0], -1).T[None]}
    if name == "class_token":
        return {"cls_token": value[None, None]}
    if name.startswith("norm."):
        return {name: value}
    block = re.fullmatch(r"(blocks|class_blocks)\.(\d+)\.(.+)", name)
    if block is None:
        raise ValueError(f"model: timm has no name for the core's entry {name!r}")
    kind, index, entry = block.groups()
    if kind == "class_blocks":
        return {f"blocks_token_only.{index}.{_class_block_entry(entry)}": value}
    if entry == "attention.qkv.weight" and f"blocks.{index}.attention.gate" in core:
        width = value.shape[1]
        attention = f"blocks.{index}.attn"
        return {f"{attention}.qk.weight": value[: 2 * width], f"{attention}.v.weight": value[2 * width :]}
    return {f"blocks.{index}.{_feature_block_entry(entry)}": value}


def _feature_block_entry(entry: str) -> str:
    if not entry.startswith("attention."):
        return _shared_entry(entry)
    part, _, parameter = entry.removeprefix("attention.").partition(".")
    if part in ATTENTION_PARAMETERS:
        return f"attn.{ATTENTION_PARAMETERS[part]}"
    return f"attn.{ATTENTION_PARTS.get(part, part)}.{parameter}"


def _class_block_entry(entry: str) -> str:
    part, _, parameter = entry.partition(".")
    if part in CLASS_ATTENTION_PARTS:
        return f"attn.{CLASS_ATTENTION_PARTS[part]}.{parameter}"
    return _shared_entry(entry)


def _shared_entry(entry: str) -> str:
    """What both kinds of block have: norms and MLP keep their names, LayerScale is gamma."""
    return re.sub(r"^scale([12])\.weight$", r"gamma_\1", entry)
