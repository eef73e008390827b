"""The operators' mathematics once more, position by position in float64 numpy: slow, and written apart from them."""

from __future__ import annotations

import numpy as np


def zone_weights(inside, outside, grid, box=None, bitmap=None):
    """w[b, i, y, x] of METHODS 1."""
    inside, outside = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    batch, inputs = inside.shape
    weights = np.zeros((batch, inputs, *grid))
    for b in range(batch):
        for y in range(grid[0]):
            for x in range(grid[1]):
                share = 0.0
                if box is not None:
                    top, left, bottom, right = (int(edge) for edge in box[b])
                    share = float(top <= y < bottom and left <= x < right)
                elif bitmap is not None:
                    share = float(bitmap[b, y, x])
                weights[b, :, y, x] = share * inside[b] + (1 - share) * outside[b]
    return weights


def encode(image, kernel, bias, stride, padding):
    """One convolution of one image, [c, H, W] by [C, c, k, k]."""
    channels, height, width = image.shape
    out_channels, _, size, _ = kernel.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding))
    padded[:, padding : padding + height, padding : padding + width] = image
    rows = (height + 2 * padding - size) // stride + 1
    columns = (width + 2 * padding - size) // stride + 1
    out = np.zeros((out_channels, rows, columns))
    for y in range(rows):
        for x in range(columns):
            window = padded[:, y * stride : y * stride + size, x * stride : x * stride + size]
            out[:, y, x] = (kernel * window).sum((1, 2, 3))
    return out if bias is None else out + bias[:, None, None]


def mask_mix_encode(images, weight, weights, index, bias, position, stride, padding, scale):
    """Images already normalised; ``weights`` dense."""
    batch, inputs = weights.shape[:2]
    samples = []
    for b in range(batch):
        total = 0.0
        for i in range(inputs):
            encoder = 0 if len(weight) == 1 else i
            image = images[b if index is None else index[b, i]]
            encoded = encode(image, weight[encoder], None if bias is None else bias[encoder], stride, padding)
            total = total + weights[b, i] * encoded
        samples.append(scale * total + (0.0 if position is None else position))
    return np.stack(samples)


def unmix_pool(features, weights, fade, channels, affine):
    batch, count, height, width = features.shape
    inputs = weights.shape[1]
    if affine is not None:
        features = np.maximum(features * affine[0][:, None, None] + affine[1][:, None, None], 0)
    pooled = np.zeros((batch, inputs, count))
    for b in range(batch):
        for i in range(inputs):
            for c in range(count):
                seen = weights[b, i] + fade * (1 - weights[b, i]) if c < channels else np.ones((height, width))
                pooled[b, i, c] = (seen * features[b, c]).sum() / (height * width)
    return pooled


def source_attribution(tokens, weights, bias, weight):
    result = tokens.copy()
    for b, n in np.ndindex(tokens.shape[:2]):
        for i in range(bias.shape[0]):
            source = bias[i] if weight is None else weight[i] @ tokens[b, n] + bias[i]
            result[b, n] += weights[b, i].reshape(-1)[n] * source
    return result


def mixed_cross_entropy(logits, target, weight, other, share, smoothing):
    batch, heads, classes = logits.shape
    total = 0.0
    for b, m in np.ndindex(batch, heads):
        aim = np.full(classes, smoothing / classes)
        first = 1.0 if share is None else share[b, m]
        aim[target[b, m]] += (1 - smoothing) * first
        if other is not None:
            aim[other[b, m]] += (1 - smoothing) * (1 - first)
        shifted = logits[b, m] - logits[b, m].max()
        log_probabilities = shifted - np.log(np.exp(shifted).sum())
        total += weight[b, m] * -(aim * log_probabilities).sum()
    return total / batch


def talking_heads_attention(qkv, pre_weight, pre_bias, post_weight, post_bias, scale):
    batch, count, _, heads, width = qkv.shape
    out = np.zeros((batch, count, heads, width))
    for b, n in np.ndindex(batch, count):
        query, keys, values = qkv[b, n, 0], qkv[b, :, 1], qkv[b, :, 2]
        logits = np.array([scale * keys[:, h] @ query[h] for h in range(heads)])
        probabilities = np.zeros((heads, count))
        for g in range(heads):
            mixed = sum(pre_weight[g, h] * logits[h] for h in range(heads)) + pre_bias[g]
            probabilities[g] = np.exp(mixed - mixed.max())
            probabilities[g] /= probabilities[g].sum()
        for g in range(heads):
            mixed = sum(post_weight[g, h] * probabilities[h] for h in range(heads)) + post_bias[g]
            out[b, n, g] = mixed @ values[:, g]
    return out


def augment(images, index, crop, flip, pad, weights, mean, std, out_size):
    """Before rounding to any dtype."""
    batch, sources = index.shape
    channels = images.shape[1]
    out = np.zeros((batch, channels, *out_size))
    for b in range(batch):
        for s in range(sources):
            image = images[index[b, s]].astype(np.float64)
            padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
            top, left = crop[b, s]
            window = padded[:, top : top + out_size[0], left : left + out_size[1]]
            if flip is not None and flip[b, s]:
                window = window[:, :, ::-1]
            out[b] += window if weights is None else weights[b, s] * window
    out = out / 255
    if mean is None:
        return out
    return (out - np.asarray(mean)[:, None, None]) / np.asarray(std)[:, None, None]
