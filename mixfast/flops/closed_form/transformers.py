"""Closed forms over transformers (thesis A.7.3, exactly): N tokens of d values, h heads, M inputs, K classes.

A linear layer costs its weights for every token that it sees, twice that backward. Attention costs 2 N^2 d; backward, from
queries, keys and values alone, 5 N^2 d.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mixfast.flops.closed_form.setup import Piece, Setup

CAIT_WIDTHS = {"xxs": 192, "xs": 288, "s": 384, "m": 768}


@dataclass(frozen=True)
class Numbers:
    """Of an architecture; ``mixes_heads`` and ``scaled`` (LayerScale) tell CaiT from ConViT."""

    width: int
    heads: int
    depth: int
    mixes_heads: bool
    scaled: bool


def transformer_form(setup: Setup, as_published: bool) -> dict[str, Piece] | None:
    """The cost of each part, or None for another kind of backbone."""
    numbers = _numbers(setup.backbone)
    if numbers is None:
        return None
    d, patch = numbers.width, _patch_size(setup)
    tokens = (setup.shape.image_shape[0] // patch) * (setup.shape.image_shape[1] // patch)
    flow = (_mixvit_flow if setup.is_mixvit else _mixmo_flow)(setup, tokens, d, as_published)
    weights = d * setup.shape.channels * patch**2
    encoded = weights * tokens
    training = flow.encoded_training * encoded
    encoder = Piece(setup.encoders * (weights + d), flow.encoded * encoded, training, training)
    blocks = {f"blocks.{i}": _feature_block(numbers, flow, as_published) for i in range(numbers.depth)}
    class_blocks = {f"class_blocks.{i}": _class_block(numbers, flow, as_published, first=i == 0) for i in range(2)}
    classes = setup.shape.num_classes
    read = setup.heads * d * classes
    heads = Piece(read + setup.heads * classes, flow.heads * d * classes, read, 2 * read)
    embeddings, norm = Piece(tokens * d + d), Piece(2 * d)
    sources = {"sources": flow.sources} if any(flow.sources) else {}
    return {
        "embeddings": embeddings, "encoder": encoder, **blocks, **class_blocks, "norm": norm, **sources, "heads": heads
    }  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """How many tokens go where. A pair is (sets, tokens a set).

    encoded, encoded_training    encodings of all positions
    features, classified         what inference sends through the feature blocks and through class attention
    trained                      tokens of a training sample, in one set
    heads                        predictions that are read
    """

    encoded: int
    encoded_training: int
    features: tuple[int, int]
    classified: tuple[int, int]
    trained: int
    heads: int
    sources: Piece = Piece()


def _mixmo_flow(setup: Setup, tokens: int, width: int, as_published: bool) -> Flow:
    """Plain transformers, MIMO and MixMo: tokens of all inputs are mixed first (thesis 4.3.1)."""
    separate = setup.method.inference == "separate" and setup.inputs > 1
    sets = setup.inputs if separate else 1
    return Flow(
        encoded=setup.inputs if as_published or separate else 1,
        encoded_training=setup.inputs if as_published else setup.seen,
        features=(sets, tokens),
        classified=(sets, tokens),
        trained=tokens,
        heads=setup.inputs if separate else setup.heads,
    )


def _mixvit_flow(setup: Setup, tokens: int, width: int, as_published: bool) -> Flow:
    """MixViT and its ablations (thesis 4.3.3, table 4.6)."""
    method, inputs = setup.method, setup.inputs
    attributed = method.name != "mixvit-unattributed"
    every, early = method.tokens == "all", method.place == "early" and attributed
    separate = method.inference in (None, "separate") and not every
    # Equal copies of a token stay equal: one of them is enough. So do subnetworks that nothing tells apart.
    copies = inputs if every and (early or as_published) else 1
    sets = inputs if separate and (attributed or as_published) else 1
    return Flow(
        encoded=1,
        encoded_training=inputs if every or as_published else 1,
        features=(sets if early else 1, copies * tokens),
        classified=(sets, (inputs if every else 1) * tokens),
        trained=(inputs if every else 1) * tokens,
        heads=1 if method.inference == "single" else inputs,
        sources=_sources(setup, tokens, width, early, as_published) if attributed else Piece(),
    )


def _sources(setup: Setup, tokens: int, width: int, early: bool, as_published: bool) -> Piece:
    method, inputs = setup.method, setup.inputs
    every = method.tokens == "all"
    if method.name == "mixvit-embedding":
        # A vector that is chosen by a weight of the mix; late, class attention adds it on its way.
        chosen = tokens * width
        inference = chosen if method.inference == "single" else 0
        trained = chosen if early and not every else 0
        return Piece(inputs * width, 0, 0, 0) if as_published else Piece(inputs * width, inference, trained, trained)
    matrix = tokens * width**2
    inference = inputs * matrix if every or method.inference in (None, "separate") or as_published else matrix
    trained = inputs * matrix if every or as_published else matrix
    return Piece(inputs * (width**2 + width), inference, trained, 2 * trained)


def _feature_block(numbers: Numbers, flow: Flow, as_published: bool) -> Piece:
    d, h = numbers.width, numbers.heads
    positional = 3 * h + h
    biases = 3 * d + 2 * (h**2 + h) if numbers.mixes_heads else positional
    parameters = 12 * d**2 + 4 * d + 6 * d + biases + 2 * d * numbers.scaled
    pairs = d + h**2 if numbers.mixes_heads else d

    def forward(tokens: int) -> int:
        return 12 * tokens * d**2 + 2 * tokens**2 * pairs

    def backward(tokens: int) -> int:
        if as_published:
            return 2 * forward(tokens)
        # Scores are taken anew, and of talking heads also both mixtures.
        anew = 5 * d + (6 * h**2 if numbers.mixes_heads else 0)
        return 24 * tokens * d**2 + tokens**2 * anew

    sets, tokens = flow.features
    return Piece(parameters, sets * forward(tokens), forward(flow.trained), backward(flow.trained))


def _class_block(numbers: Numbers, flow: Flow, as_published: bool, *, first: bool) -> Piece:
    d, h = numbers.width, numbers.heads
    parameters = 12 * d**2 + 8 * d + 4 * d + 2 * d * numbers.scaled
    # In the first block the class token is still a weight, and so is what the query and the keys make of it.
    matrices = (2 if first else 4) + 8

    def forward(tokens: int) -> int:
        if as_published:
            # Query, output and MLP of the class token; keys and values, scores and sums of all.
            return (2 + 8) * d**2 + 2 * (tokens + 1) * d**2 + 2 * (tokens + 1) * d
        # Key and value matrices meet the query and the result, which then meet the tokens in full width, head by head.
        return matrices * d**2 + 2 * h * (tokens + 1) * d

    def backward(tokens: int) -> int:
        if as_published:
            return 2 * forward(tokens)
        return 2 * matrices * d**2 + 5 * h * (tokens + 1) * d

    sets, tokens = flow.classified
    return Piece(parameters, sets * forward(tokens), forward(flow.trained), backward(flow.trained))


def _numbers(backbone: str) -> Numbers | None:
    convit = re.fullmatch(r"convit(?:(\d+)-(\d+))?", backbone)
    if convit:
        width, depth = int(convit[1] or 384), int(convit[2] or 5)
        return Numbers(width, width // 32, depth, mixes_heads=False, scaled=False)
    cait = re.fullmatch(r"cait-([a-z]+)(\d+)", backbone)
    if cait:
        width = CAIT_WIDTHS[cait[1]]
        return Numbers(width, width // 48, int(cait[2]), mixes_heads=True, scaled=True)
    return None


def _patch_size(setup: Setup) -> int:
    """Thesis A.1.5: 4 on CIFAR, 8 on Tiny ImageNet, 16 on ImageNet-100."""
    if setup.model.patch_size is not None:
        return setup.model.patch_size
    side = max(setup.shape.image_shape)
    return 4 if side <= 32 else 8 if side <= 64 else 16
