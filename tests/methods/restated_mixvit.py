"""Algorithms A.8 and A.9 sample by sample and token by token: masks as tensors, every token set spelled out.

The blocks themselves (``core.features``, ``core.classify`` without a source) are held to plain forms in tests/models.
"""

from __future__ import annotations

import torch


def patch_tokens(network, image, encoder=0):
    """One image ``[c, H, W]`` to tokens ``[N, d]``: each patch by itself, no position."""
    weight, bias = network.encoder.weight[encoder], network.encoder.bias[encoder]
    size = weight.shape[-1]
    rows, columns = image.shape[1] // size, image.shape[2] // size
    return torch.stack(
        [
            torch.einsum("chw,dchw->d", image[:, i * size : (i + 1) * size, j * size : (j + 1) * size], weight) + bias
            for i in range(rows)
            for j in range(columns)
        ]
    )


def positions(network):
    return network.core.position.flatten(1).T


def source(network, index, tokens):
    """``s_i(t)``, eq. 4.5 and 4.6."""
    if network.sources is None:
        return torch.zeros_like(tokens)
    encoded = network.sources.bias[index].expand_as(tokens)
    return encoded if network.sources.weight is None else encoded + tokens @ network.sources.weight[index].T


def attributed(network, tokens, masks):
    """``t* = t + sum_i M_i * s_i(t)`` with masks ``[M, N]``."""
    return tokens + sum(mask[:, None] * source(network, i, tokens) for i, mask in enumerate(masks))


def class_token(network, tokens):
    return network.core.classify(tokens[None])[0, 0]


def head(network, index, features):
    return network.heads.weight[index] @ features + network.heads.bias[index]


def training_logits(network, images, masks):
    """Algorithm A.8 for one sample: M images, masks ``[M, N]``, to ``[M, K]``."""
    tokens = sum(mask[:, None] * patch_tokens(network, image) for image, mask in zip(images, masks, strict=True))
    tokens = tokens + positions(network)
    if network.place == "early":
        tokens = attributed(network, tokens, masks)
    tokens = network.core.features(tokens[None])[0]
    if network.place == "late":
        tokens = attributed(network, tokens, masks)
    features = class_token(network, tokens)
    return torch.stack([head(network, i, features) for i in range(network.num_inputs)])


def all_tokens_logits(network, images):
    """Table 4.6, "all tokens", for one sample."""
    sets = [patch_tokens(network, image) + positions(network) for image in images]
    if network.place == "early":
        sets = [tokens + source(network, i, tokens) for i, tokens in enumerate(sets)]
    joined = network.core.features(torch.cat(sets)[None], copies=len(sets))[0]
    sets = joined.chunk(len(sets))
    if network.place == "late":
        sets = [tokens + source(network, i, tokens) for i, tokens in enumerate(sets)]
    features = class_token(network, torch.cat(sets))
    return torch.stack([head(network, i, features) for i in range(network.num_inputs)])
