"""Stochastic depth: how often, how scaled, and only where it should be."""

from __future__ import annotations

import math

import pytest
import torch
from small_cores import KINDS, small_core, tokens_for

from mixfast.models import build_backbone
from mixfast.models.self_attention import Layout
from mixfast.models.transformer_blocks import DropPath


@pytest.mark.parametrize("rate", [0.05, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_whole_samples_are_dropped_at_the_rate_and_the_rest_scaled(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    count = 20_000
    x = torch.full((count, 2, 3), 5.0, dtype=dtype)
    out = DropPath(rate)(x)
    assert out.dtype == dtype
    dropped = (out == 0).flatten(1).all(1)
    # Five standard errors of a binomial share.
    assert abs(dropped.double().mean().item() - rate) < 5 * math.sqrt(rate * (1 - rate) / count)
    kept = out[~dropped]
    # 5 / 0.95 itself, rounded once: 5 times the bfloat16 next to 1 / 0.95 is another number.
    torch.testing.assert_close(kept, torch.full_like(kept, 5.0 / (1 - rate)), rtol=0, atol=0)


def test_the_generator_decides() -> None:
    drop, x = DropPath(0.5), torch.randn(64, 2)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(drop(x))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_nothing_happens_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(4, 2)
    before = torch.get_rng_state()
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_drops_attention_and_mlp_apart(kind: str) -> None:
    """With rate 1/2 each sample is one of four cases, built here from the block's own parts; and all four occur."""
    block = small_core(kind, drop_path=0.5, depth=1).blocks[0]
    torch.manual_seed(0)
    core = small_core(kind)
    tokens, layout = tokens_for(core, batch=40).detach(), Layout(core.grid)
    out = block(tokens, layout)

    seen = torch.zeros(len(tokens), 4, dtype=torch.bool)
    for case in range(4):
        attention, mlp = 2.0 * (case & 1), 2.0 * (case >> 1)
        expected = tokens + attention * block.scale1(block.attention(block.norm1(tokens), layout))
        expected = expected + mlp * block.scale2(block.mlp(block.norm2(expected)))
        seen[:, case] = (out - expected).abs().flatten(1).amax(1) < 1e-10
    assert (seen.sum(1) == 1).all()
    assert seen.any(0).all()


def test_every_feature_block_has_the_rate_and_evaluation_none() -> None:
    core = build_backbone("cait-xxs24", image_size=16, drop_path=0.1)
    assert {block.drop_path.rate for block in core.blocks} == {0.1}
    assert sum(isinstance(module, DropPath) for module in core.modules()) == len(core.blocks)
    small = small_core("gated-positional", drop_path=0.5).eval()
    tokens = tokens_for(small)
    assert torch.equal(small(tokens), small_core("gated-positional").eval()(tokens))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_rates_outside_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"drop_path: .* got {rate}"):
        DropPath(rate)
