"""The ConViT variant: positional maps, its first weights, timm's block on the same weights, and its size."""

from __future__ import annotations

import plain_transformer as plain
import pytest
import torch
from small_cores import randomised, small_core
from timm.models.convit import ConVit
from torch import nn

from mixfast.models import build_backbone
from mixfast.models.self_attention import GatedPositionalAttention, Layout


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (3, 2), (4, 4)])
def test_position_map_is_the_softmax_of_the_offsets_scores(grid: tuple[int, int], copies: int) -> None:
    """Written as a product of a softmax over rows and one over columns."""
    attention = randomised(GatedPositionalAttention(24, 6).double())
    scores = (plain.offsets(grid, copies) @ attention.positional.T).permute(2, 0, 1)
    torch.testing.assert_close(attention.position_map(Layout(grid, copies)), scores.softmax(-1), rtol=1e-12, atol=1e-14)


def test_position_map_stays_float32_for_bfloat16_weights() -> None:
    """Squares of offsets beyond 16 do not fit bfloat16."""
    attention = GatedPositionalAttention(24, 6).bfloat16()
    attention.reset_parameters()
    rounded = attention.position_map(Layout((1, 24)))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, attention.float().position_map(Layout((1, 24))))


@pytest.mark.parametrize(("heads", "side"), [(4, 2), (9, 3), (12, 3)])
def test_fresh_heads_look_at_one_offset_each(heads: int, side: int) -> None:
    """The mean place that a local head looks at is its own offset; heads beyond the kernel look nearly everywhere."""
    attention = GatedPositionalAttention(heads * 4, heads)
    attention.reset_parameters(torch.Generator().manual_seed(0))
    grid = (5, 5)
    maps = attention.position_map(Layout(grid)).detach()
    # A bell exp(-|delta - offset|^2), which this grid hardly cuts at its centre.
    places = torch.tensor([(x, y) for y in range(5) for x in range(5)], dtype=torch.float32)
    centre = 12
    means = maps[: side * side, centre] @ (places - places[centre])
    kernel = torch.arange(side) - (side - 1) / 2
    expected = torch.tensor([(dx, dy) for dx in kernel.tolist() for dy in kernel.tolist()])
    torch.testing.assert_close(means, expected, rtol=0, atol=0.1)
    for spare in maps[side * side :]:
        assert spare.max() < 3 / len(places)
    assert torch.equal(attention.qkv.weight[2 * heads * 4 :], torch.eye(heads * 4))
    assert (attention.gate == 1).all()


def timm_convit(embed_per_head: int = 8, heads: int = 4, depth: int = 2) -> nn.Module:
    """timm multiplies `embed_dim` by the heads; its last blocks are not GPSA."""
    torch.manual_seed(0)
    return ConVit(
        img_size=16, patch_size=4, embed_dim=embed_per_head, num_heads=heads, depth=depth, local_up_to_layer=depth
    )


@pytest.mark.parametrize("heads", [4, 9, 12])
def test_fresh_local_heads_are_timms(heads: int) -> None:
    theirs = timm_convit(4, heads).blocks[0].attn
    ours = build_backbone(f"convit{32 * heads}-1", image_size=16).blocks[0].attention
    kernel = int(heads**0.5) ** 2
    assert torch.equal(ours.positional[:kernel], theirs.pos_proj.weight[:kernel])
    assert torch.equal(ours.gate, theirs.gating_param)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_block_equals_timms(dtype: torch.dtype, tolerance: float) -> None:
    """On the same weights, with gradients; timm's positional bias is random and cancels."""
    theirs = randomised(timm_convit().to(dtype)).blocks[0]
    core = small_core("gated-positional", image_size=(16, 16), width=32, heads=4, depth=1).to(dtype)
    ours = core.blocks[0]
    named = dict(theirs.named_parameters())
    pairs = {
        "attention.qkv.weight": torch.cat((named.pop("attn.qk.weight"), named.pop("attn.v.weight"))),
        "attention.positional": named.pop("attn.pos_proj.weight"),
        "attention.gate": named.pop("attn.gating_param"),
    }
    assert named.pop("attn.pos_proj.bias").abs().min() > 0
    pairs |= {name.replace("attn.", "attention."): value for name, value in named.items()}
    ours.load_state_dict(pairs, strict=True)

    x = torch.randn(2, 16, 32, dtype=dtype, requires_grad=True)
    x_theirs = x.detach().clone().requires_grad_()
    out, expected = ours(x, Layout((4, 4))), theirs(x_theirs)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(x.grad, x_theirs.grad, rtol=tolerance, atol=tolerance)
    gate, positional = theirs.attn.gating_param.grad, theirs.attn.pos_proj.weight.grad
    torch.testing.assert_close(ours.attention.gate.grad, gate, rtol=10 * tolerance, atol=10 * tolerance)
    torch.testing.assert_close(ours.attention.positional.grad, positional, rtol=10 * tolerance, atol=10 * tolerance)


def test_numbers_of_the_thesis() -> None:
    """A.1.5: 384 wide, 12 heads, 5 GPSA and 2 class-attention blocks; 12 M parameters (table A.19) on CIFAR-100."""
    with torch.device("meta"):
        core = build_backbone("convit", image_size=32)
    assert (core.num_features, len(core.blocks), len(core.class_blocks)) == (384, 5, 2)
    assert {block.attention.heads for block in core.blocks} | {block.heads for block in core.class_blocks} == {12}
    assert core.blocks[0].mlp.fc1.out_features == 4 * 384
    assert (core.grid, core.patch_size) == ((8, 8), 4)
    counted = sum(parameter.numel() for parameter in core.parameters())
    assert counted == 12440688
    projection, head = 384 * (3 * 4 * 4 + 1), 100 * (384 + 1)
    assert counted + projection + head == 12498004
