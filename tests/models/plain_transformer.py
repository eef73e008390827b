"""Vision transformers written out plainly over a state dictionary: every key, value, map and offset is materialised.

What the tests hold the cores to. Legend: B samples, N tokens, d values a token, h heads of e values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(state: State, name: str, x: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (var + 1e-6).sqrt() * weight + bias


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    hidden = linear(state, f"{name}.fc1", x)
    return linear(state, f"{name}.fc2", hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))


def scaled(state: State, name: str, x: Tensor) -> Tensor:
    return x * state[f"{name}.weight"] if f"{name}.weight" in state else x


def by_head(x: Tensor, heads: int) -> Tensor:
    """[B, N, d] to [B, h, N, e]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def offsets(grid: tuple[int, int], copies: int) -> Tensor:
    """(dx, dy, dx^2 + dy^2) from each query to each key [N, N, 3]; copies of the grid lie on top of each other."""
    places = [(y, x) for _ in range(copies) for y in range(grid[0]) for x in range(grid[1])]
    rows = [[(kx - qx, ky - qy, (kx - qx) ** 2 + (ky - qy) ** 2) for ky, kx in places] for qy, qx in places]
    return torch.tensor(rows, dtype=torch.float64)


def gated_positional(state: State, name: str, x: Tensor, grid: tuple[int, int], copies: int) -> Tensor:
    """Both softmaxes over all N keys, mixed by the gate, and the maps renormalised, as ConViT is published."""
    positional = state[f"{name}.positional"]
    query, key, value = (by_head(part, len(positional)) for part in linear(state, f"{name}.qkv", x).chunk(3, -1))
    content = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
    by_place = (offsets(grid, copies).to(x.dtype) @ positional.T).permute(2, 0, 1).softmax(-1)
    gate = torch.sigmoid(state[f"{name}.gate"])[:, None, None]
    maps = (1 - gate) * content + gate * by_place
    maps = maps / maps.sum(-1, keepdim=True)
    return linear(state, f"{name}.proj", (maps @ value).transpose(1, 2).flatten(2))


def talking_heads(state: State, name: str, x: Tensor) -> Tensor:
    heads = len(state[f"{name}.before.weight"])
    query, key, value = (by_head(part, heads) for part in linear(state, f"{name}.qkv", x).chunk(3, -1))
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    maps = linear(state, f"{name}.before", scores.permute(0, 2, 3, 1)).softmax(2)
    maps = linear(state, f"{name}.after", maps).permute(0, 3, 1, 2)
    return linear(state, f"{name}.proj", (maps @ value).transpose(1, 2).flatten(2))


def features(state: State, tokens: Tensor, grid: tuple[int, int], copies: int = 1) -> Tensor:
    index = 0
    while f"blocks.{index}.norm1.weight" in state:
        name = f"blocks.{index}"
        normed = norm(state, f"{name}.norm1", tokens)
        if f"{name}.attention.gate" in state:
            attended = gated_positional(state, f"{name}.attention", normed, grid, copies)
        else:
            attended = talking_heads(state, f"{name}.attention", normed)
        tokens = tokens + scaled(state, f"{name}.scale1", attended)
        tokens = tokens + scaled(
            state, f"{name}.scale2", mlp(state, f"{name}.mlp", norm(state, f"{name}.norm2", tokens))
        )
        index += 1
    return tokens


def classify_one(state: State, tokens: Tensor, heads: int, added: Tensor | None) -> Tensor:
    """One set: class token and tokens, keys and values of all, [B, d]. `added` is what the source puts on the tokens."""
    classes = state["class_token"].expand(len(tokens), 1, -1)
    seen = tokens if added is None else tokens + added
    index = 0
    while f"class_blocks.{index}.norm1.weight" in state:
        name = f"class_blocks.{index}"
        normed = norm(state, f"{name}.norm1", torch.cat((classes, seen), 1))
        query = by_head(linear(state, f"{name}.query", normed[:, :1]), heads)
        key, value = (by_head(linear(state, f"{name}.{part}", normed), heads) for part in ("key", "value"))
        maps = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
        attended = linear(state, f"{name}.proj", (maps @ value).transpose(1, 2).flatten(2))
        classes = classes + scaled(state, f"{name}.scale1", attended)
        hidden = mlp(state, f"{name}.mlp", norm(state, f"{name}.norm2", classes))
        classes = classes + scaled(state, f"{name}.scale2", hidden)
        index += 1
    return norm(state, "norm", classes)[:, 0]


def classify(
    state: State, tokens: Tensor, heads: int, source: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """[B, S, d]; `weights` [B, M, N] are those of the mixed sources, for one set."""
    if source is None:
        return classify_one(state, tokens, heads, None)[:, None]
    if weights is not None:
        return classify_one(state, tokens, heads, torch.einsum("bmn,md->bnd", weights, source))[:, None]
    return torch.stack([classify_one(state, tokens, heads, vector) for vector in source], 1)
