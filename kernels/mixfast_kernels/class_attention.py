"""class-attention: one query a head, from the class token, over the class token and all tokens (CaiT; thesis 4.3.2).

    q = W_q norm(c) + b_q,    attended_h = sum_j softmax_j(q_h . W_k,h norm(u_j) / sqrt(d / h)) W_v,h norm(u_j) + b_v,h

with ``u = (c, t_1, .., t_N)``. As there is one query, ``q . (W_k x) = (W_k^T q) . x`` and ``sum a_j W_v x_j = W_v (sum a_j x_j)``:
the query and the result are projected, never the tokens, which costs ``2 N d h`` instead of ``2 N d^2`` products. The norm's
affine moves out too: its weight scales the folded query and the result, its bias adds the same to all scores, where it
cancels, and once to the result, as the attention sums to 1. What is left is the registered operator: with ``x^`` a token
without its mean and of variance 1,

    result[b, s, h] = sum_j softmax_j(query[b, s, h] . x^_j) x^_j

MixViT's source embeddings (eq. 4.5) are added to the tokens on the way: mixed by the zones into one set of tokens (training),
or one source a set, for M sets from one reading of the tokens (inference).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfast_kernels._check import FLOATS, check_tensor
from mixfast_kernels._register import register_op
from mixfast_kernels.mixing import Mixing, check_mixing, zone_gradients


def _mixing(
    inside: Tensor | None, outside: Tensor | None, box: Tensor | None, bitmap: Tensor | None, grid: list[int]
) -> Mixing | None:
    return None if inside is None or outside is None else Mixing(inside, outside, (grid[0], grid[1]), box, bitmap)


def _with_source(tokens: Tensor, source: Tensor | None, mixing: Mixing | None) -> Tensor:
    """The sets of tokens that differ: ``[B, T, N, d]``, T = 1 where all S sets see the same tokens, else S."""
    tokens = tokens[:, None]
    if source is None:
        return tokens
    if mixing is None:
        return tokens + source[:, None]
    weights = mixing.weights().flatten(2).to(tokens.dtype)
    return tokens + (weights.transpose(1, 2) @ source)[:, None]


def _normalised(values: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Without mean and of variance 1 over the last dimension, and one over the standard deviation ``[..., 1]``."""
    centred = values - values.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * scale, scale


def _norm_gradient(grad: Tensor, normalised: Tensor, scale: Tensor) -> Tensor:
    """From the gradient of ``_normalised``'s values to that of what it was given."""
    along = (grad * normalised).mean(-1, keepdim=True)
    return scale * (grad - grad.mean(-1, keepdim=True) - along * normalised)


def _by_set(values: Tensor, sets: int) -> Tensor:
    """``[B, S, h, ...]`` to ``[B, T, S / T * h, ...]``: the queries that meet one set of tokens."""
    batch, count, heads, size = values.shape
    return values.reshape(batch, sets, count // sets * heads, size)


def _products(rows: Tensor, keys: Tensor, class_key: Tensor) -> Tensor:
    """Of ``[B, S, h, d]`` with all keys, the class token first: ``[B, S, h, 1 + N]``."""
    products = (_by_set(rows, keys.shape[1]) @ keys.transpose(2, 3)).view(*rows.shape[:3], keys.shape[2])
    return torch.cat((rows @ class_key[..., None], products), 3)


def class_attention_reference(
    tokens: Tensor,
    class_token: Tensor,
    query: Tensor,
    source: Tensor | None,
    inside: Tensor | None,
    outside: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    grid: list[int],
    eps: float,
) -> Tensor:
    """Plain PyTorch: tokens ``[B, N, d]``, class_token ``[B, S, d]`` and query ``[B, S, h, d]`` to ``[B, S, h, d]`` in float32, or
    float64 for float64 tokens. ``grid`` is that of the zones, empty without."""
    with torch.autocast(tokens.device.type, enabled=False):
        sums = torch.promote_types(tokens.dtype, torch.float32)
        wide_source = None if source is None else source.to(sums)
        mixing = _mixing(inside, outside, box, bitmap, grid)
        keys, _ = _normalised(_with_source(tokens.to(sums), wide_source, mixing), eps)
        class_key, _ = _normalised(class_token.to(sums), eps)
        attention = _products(query.to(sums), keys, class_key).softmax(3)
        result = (_by_set(attention[..., 1:], keys.shape[1]) @ keys).view(query.shape)
        return result + attention[..., :1] * class_key[:, :, None]


def class_attention_backward_reference(
    grad: Tensor,
    tokens: Tensor,
    class_token: Tensor,
    query: Tensor,
    source: Tensor | None,
    inside: Tensor | None,
    outside: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    grid: list[int],
    eps: float,
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of tokens, class_token, query, source, inside and outside; empty for what is absent or not wanted (``zones``).

    Nothing is kept from the forward pass: attention and its sums are taken anew, from one reading of the tokens.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        sums = torch.promote_types(tokens.dtype, torch.float32)
        wide_source = None if source is None else source.to(sums)
        mixing = _mixing(inside, outside, box, bitmap, grid)
        keys, scale = _normalised(_with_source(tokens.to(sums), wide_source, mixing), eps)
        class_key, class_scale = _normalised(class_token.to(sums), eps)
        sets, grad, wide = keys.shape[1], grad.to(sums), query.to(sums)
        attention = _products(wide, keys, class_key).softmax(3)
        products = _products(grad, keys, class_key)
        grad_scores = attention * (products - (attention * products).sum(3, keepdim=True))

        class_attention, class_scores = attention[..., :1], grad_scores[..., :1]
        attention, grad_scores = (_by_set(values[..., 1:], sets) for values in (attention, grad_scores))
        grad_query = (grad_scores @ keys).view(query.shape) + class_scores * class_key[:, :, None]
        grad_keys = torch.cat((attention, grad_scores), 2).transpose(2, 3) @ torch.cat(
            (_by_set(grad, sets), _by_set(wide, sets)), 2
        )
        grad_class_key = (class_attention * grad + class_scores * wide).sum(2)
        grad_class = _norm_gradient(grad_class_key, class_key, class_scale)
        grad_sets = _norm_gradient(grad_keys, keys, scale)
        return (
            grad_sets.sum(1).to(tokens.dtype),
            grad_class.to(class_token.dtype),
            grad_query.to(query.dtype),
            *_source_gradients(grad_sets, source, mixing, zones),
        )


def _source_gradients(
    grad_sets: Tensor, source: Tensor | None, mixing: Mixing | None, zones: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """From ``[B, T, N, d]``, those of the tokens with their source, to those of source, inside and outside."""
    if source is None or mixing is None:
        grad_source = grad_sets.new_empty(0) if source is None else grad_sets.sum((0, 2)).to(source.dtype)
        return grad_source, grad_sets.new_empty(0), grad_sets.new_empty(0)
    grad_tokens = grad_sets[:, 0]
    weights = mixing.weights().flatten(2).to(grad_tokens.dtype)
    grad_source = torch.einsum("bmn,bnd->md", weights, grad_tokens).to(source.dtype)
    if not zones:
        return grad_source, mixing.inside.new_empty(0), mixing.outside.new_empty(0)
    grad_weights = torch.einsum("bnd,md->bmn", grad_tokens, source.to(grad_tokens.dtype))
    return grad_source, *zone_gradients(mixing, grad_weights.unflatten(2, mixing.grid).to(mixing.inside.dtype))


def _fake(tokens: Tensor, class_token: Tensor, query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape, dtype=torch.promote_types(tokens.dtype, torch.float32))


def _backward_fake(
    grad: Tensor,
    tokens: Tensor,
    class_token: Tensor,
    query: Tensor,
    source: Tensor | None,
    inside: Tensor | None,
    outside: Tensor | None,
    box: Tensor | None,
    bitmap: Tensor | None,
    grid: list[int],
    eps: float,
    zones: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    sums = torch.promote_types(tokens.dtype, torch.float32)

    def like(value: Tensor | None, wanted: bool = True) -> Tensor:
        if value is None:
            return tokens.new_empty(0, dtype=sums)
        return value.new_empty(value.shape if wanted else 0)

    return like(tokens), like(class_token), like(query), like(source), like(inside, zones), like(outside, zones)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.grid, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # Training never asks for the gradients of the mix itself.
    zones = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
    grads = _class_attention_backward(grad, *ctx.saved_tensors, ctx.grid, ctx.eps, zones)
    grad_source = None if ctx.saved_tensors[3] is None else grads[3]
    grad_zones = grads[4:] if zones else (None, None)
    return *grads[:3], grad_source, *grad_zones, None, None, None, None


def _flops(tokens: tuple[int, ...], class_token: Any, query: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Scores and weighted sums."""
    batch, sets, heads, width = query
    return 2 * 2 * batch * sets * heads * (tokens[1] + 1) * width


def _backward_flops(grad: Any, *args: Any, **kwargs: Any) -> int:
    """Scores once more, their gradient, the query's, and two parts of the tokens'."""
    return 5 * _flops(*args) // 2


_MIX = "Tensor? inside, Tensor? outside, Tensor? box, Tensor? bitmap"
_ARGUMENTS = f"Tensor tokens, Tensor class_token, Tensor query, Tensor? source, {_MIX}"
_class_attention_backward = register_op(
    f"class_attention_backward(Tensor grad, {_ARGUMENTS}, SymInt[] grid, float eps, bool zones)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    class_attention_backward_reference,
    _backward_fake,
    differentiable_reference=True,
    flops=_backward_flops,
)
_class_attention = register_op(
    f"class_attention({_ARGUMENTS}, SymInt[] grid, float eps) -> Tensor",
    class_attention_reference,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    flops=_flops,
)


def class_attention(
    tokens: Tensor,
    class_token: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    query_bias: Tensor | None,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor | None,
    *,
    num_heads: int,
    source: Tensor | None = None,
    mixing: Mixing | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """The layer norm and attention of a class-attention block, up to its output projection, for S sets of tokens at once.

    Set s holds the class token and all tokens, ``u = cat(class_token[:, s], tokens)``, normalised: ``n = norm(u)``. The query
    is ``n_0 W_q^T + b_q``, keys are ``n W_k^T``, values ``n W_v^T + b_v``, all split in heads. A key bias would add the same
    to all scores of a query and cancel in the softmax: there is none.

    ``source`` holds MixViT's embeddings, added to the tokens (not to the class token) before the norm. With ``mixing`` token n
    gets ``sum_i w_i(b, n) source_i`` and there is one set; without, set i gets ``source_i`` everywhere, from one reading of the
    tokens. Without ``source`` all sets hold the same tokens, and differ by their class token.

    Args:
        tokens: ``[B, N, d]``, any floating-point dtype: the other arguments take part in it.
        class_token: ``[B, S, d]``, the class token of each set; a size of 1 in place of B or S where all have the same, whose
            query is then computed once.
        norm_weight, norm_bias: ``[d]``, the layer norm's affine.
        query_weight, key_weight, value_weight: ``[d, d]`` (output, input).
        query_bias, value_bias: ``[d]``, or None.
        num_heads: h, a divisor of d.
        source: ``[M, d]``, or None.
        mixing: the drawn mix of the M sources on the token grid, ``grid[0] * grid[1] == N``; needs ``source`` and S == 1.
        eps: added to the variance.

    Returns:
        ``[B, S, d]``, heads side by side, in the dtype of ``tokens``, under autocast in autocast's. Normalised tokens, scores and
        weighted sums are float32 (float64 for float64) in either case. Gradients reach every floating-point argument.

    Raises:
        TypeError, ValueError: an argument has the wrong type, dtype, shape or device, or they do not fit each other.
    """
    check_tensor(tokens, "tokens", ("B", "N", "d"), FLOATS)
    batch, _, width = tokens.shape
    check_tensor(class_token, "class_token", ("B", "S", width), FLOATS, tokens.device)
    if class_token.shape[0] not in (batch, 1):
        raise ValueError(f"class_token must be [B or 1, S, {width}] with B = {batch}, got {tuple(class_token.shape)}")
    vectors = {"norm_weight": norm_weight, "norm_bias": norm_bias, "query_bias": query_bias, "value_bias": value_bias}
    for name, value in vectors.items():
        if value is not None or name.startswith("norm"):
            check_tensor(value, name, (width,), FLOATS, tokens.device)
    matrices = {"query_weight": query_weight, "key_weight": key_weight, "value_weight": value_weight}
    for name, value in matrices.items():
        check_tensor(value, name, (width, width), FLOATS, tokens.device)
    _check_heads(num_heads, width)
    _check_sets(tokens, class_token, source, mixing)
    if not isinstance(eps, (int, float)):
        raise TypeError(f"eps must be a number, got {type(eps).__name__}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")

    parameters = (norm_weight, norm_bias, query_weight, query_bias, key_weight, value_weight, value_bias)
    return folded(_class_attention, tokens, class_token, *parameters, num_heads, source, mixing, eps)


def folded(
    core: Callable[..., Tensor],
    tokens: Tensor,
    class_token: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    query_bias: Tensor | None,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor | None,
    num_heads: int,
    source: Tensor | None,
    mixing: Mixing | None,
    eps: float,
) -> Tensor:
    """``class_attention`` around a core: the registered operator, or ``class_attention_reference``."""
    dtype, split = tokens.dtype, (num_heads, tokens.shape[2] // num_heads, tokens.shape[2])
    norm_weight, norm_bias = norm_weight.to(dtype), norm_bias.to(dtype)
    normal = F.layer_norm(class_token.to(dtype), split[2:], norm_weight, norm_bias, eps)
    query = F.linear(normal, query_weight.to(dtype), None if query_bias is None else query_bias.to(dtype))
    query = query.unflatten(2, split[:2]) / math.sqrt(split[1])
    key_weight, value_weight = key_weight.to(dtype), value_weight.to(dtype)
    sets = class_token.shape[1] if source is None or mixing is not None else source.shape[0]
    # The norm's weight scales the matrices, or what they make of the queries and take of the result: whichever is smaller.
    scale_rows = tokens.shape[0] * sets * num_heads < split[2]
    keys, values = (weight if scale_rows else weight * norm_weight for weight in (key_weight, value_weight))
    query = _each_head(query, keys.view(split))
    query = query * norm_weight if scale_rows else query
    zone, grid = (None,) * 4, []
    if mixing is not None:
        zone, grid = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap), list(mixing.grid)
    classes, query = (value.expand(tokens.shape[0], sets, *value.shape[2:]) for value in (class_token, query))
    result = core(tokens, classes, query, source, *zone, grid, float(eps)).to(dtype)
    result = result * norm_weight if scale_rows else result
    attended = _each_head(result, values.view(split).transpose(1, 2))
    bias = value_weight @ norm_bias
    bias = bias if value_bias is None else bias + value_bias.to(dtype)
    return (attended.flatten(2) + bias).to(attended.dtype)


def _each_head(rows: Tensor, matrices: Tensor) -> Tensor:
    """``[B, S, h, x]`` by one matrix a head, ``[h, x, y]``, to ``[B, S, h, y]``.

    The product that ``torch.einsum`` makes, which takes a third longer where there is one image.
    """
    products = torch.bmm(rows.flatten(0, 1).transpose(0, 1), matrices)
    return products.transpose(0, 1).unflatten(0, rows.shape[:2])


def _check_heads(num_heads: int, width: int) -> None:
    if not isinstance(num_heads, int) or isinstance(num_heads, bool):
        raise TypeError(f"num_heads must be an int, got {type(num_heads).__name__}")
    if num_heads < 1 or width < 1 or width % num_heads:
        raise ValueError(f"num_heads must divide the width of the tokens, {width}, got {num_heads}")


def _check_sets(tokens: Tensor, class_token: Tensor, source: Tensor | None, mixing: Mixing | None) -> None:
    """That there is a source for each set, or a mix of the sources for the only one."""
    batch, count, width = tokens.shape
    sets = class_token.shape[1]
    if sets < 1:
        raise ValueError("class_token must be [B, S, d] with at least one set, got S = 0")
    if source is not None:
        check_tensor(source, "source", ("M", width), FLOATS, tokens.device)
        if len(source) < 1:
            raise ValueError("source must be [M, d] with at least one row, got M = 0")
    if mixing is None:
        if source is not None and sets not in (source.shape[0], 1):
            raise ValueError(
                f"source must have a row for each of the {sets} sets, got {source.shape[0]}; or give mixing"
            )
        return
    if source is None:
        raise ValueError("mixing must come with source, which it mixes; got no source")
    check_mixing(mixing, "mixing", batch, None, tokens.device)
    if mixing.grid[0] * mixing.grid[1] != count:
        raise ValueError(f"mixing.grid must have as many positions as there are tokens, {count}; got {mixing.grid}")
    if mixing.num_inputs != source.shape[0]:
        raise ValueError(
            f"source must have a row for each of mixing's {mixing.num_inputs} inputs, got {source.shape[0]}"
        )
    if sets != 1:
        raise ValueError(f"class_token must have one set with mixing, S = 1, got {sets}")
