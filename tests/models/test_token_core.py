"""What the methods rely on: sizes and their changes, first values, refusals, and torch's machinery."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from mixfast_kernels import Mixing
from scipy import stats
from small_cores import KINDS, architecture, small_core, tokens_for
from torch import nn

from mixfast.models import Architecture, Stem, TokenCore, build_backbone
from mixfast.models.self_attention import Layout


def test_sizes_that_the_methods_read() -> None:
    core = TokenCore(architecture("talking-heads"), (24, 16), 8)
    assert core.stem == Stem(channels=24, kernel_size=8, stride=8, padding=0)
    assert core.grid == core.stem.grid((24, 16)) == (3, 2)
    assert (core.num_features, core.image_size, core.patch_size) == (24, (24, 16), 8)
    assert core.position.shape == (24, 3, 2)


def test_square_images_may_be_given_by_their_side() -> None:
    core = TokenCore(architecture("gated-positional"), 64)
    assert (core.image_size, core.patch_size, core.grid) == ((64, 64), 8, (8, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip_gives_the_same_bits(kind: str) -> None:
    core = small_core(kind)
    other = TokenCore(architecture(kind), (12, 8), 4).double()
    other.load_state_dict(core.state_dict(), strict=True)
    tokens = tokens_for(core)
    assert torch.equal(other(tokens), core(tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_resized_core_is_one_built_for_that_size(kind: str) -> None:
    """With the interpolated positions: nothing else depends on the size."""
    core = small_core(kind)
    before = core.position.detach().clone()
    core.position.requires_grad_(False)
    core.resize(image_size=(24, 24), patch_size=3)
    assert (core.grid, core.image_size, core.patch_size) == ((8, 8), (24, 24), 3)
    assert core.stem == Stem(channels=24, kernel_size=3, stride=3, padding=0)
    assert not core.position.requires_grad and core.position.dtype == torch.float64

    built = TokenCore(architecture(kind), 24, 3).double()
    state = {name: value for name, value in core.state_dict().items() if name != "position"}
    built.load_state_dict(state | {"position": core.position}, strict=True)
    tokens = tokens_for(core)
    assert torch.equal(core(tokens), built(tokens))
    core.resize(image_size=(12, 8), patch_size=4)
    assert core.position.shape == before.shape


def test_resize_to_the_same_grid_keeps_positions_and_either_size_alone_works() -> None:
    core = small_core("gated-positional", image_size=(16, 16))
    before = core.position.detach().clone()
    core.resize(image_size=32, patch_size=8)
    assert torch.equal(core.position, before)
    core.resize(patch_size=4)
    assert core.grid == (8, 8) and core.position.shape == (24, 8, 8)
    core.resize(image_size=(8, 12))
    assert core.grid == (2, 3)


def test_refused_resize_changes_nothing() -> None:
    core = small_core("gated-positional")
    position = core.position
    with pytest.raises(ValueError, match=r"image_size: expected sides that the patch size 5 divides, got \(12, 8\)"):
        core.resize(patch_size=5)
    assert (core.grid, core.patch_size, core.stem.kernel_size) == ((3, 2), 4, 4)
    assert core.position is position


@pytest.mark.parametrize("kind", KINDS)
def test_first_values(kind: str) -> None:
    core = TokenCore(architecture(kind, width=96), 32)
    core.reset_parameters(torch.Generator().manual_seed(0))
    parent = 0.02 / stats.truncnorm(-2, 2).std()
    convolution_like = {"positional", "gate"}
    for name, parameter in core.named_parameters():
        entry = name.rsplit(".", 1)[-1]
        if "norm" in name:
            assert (parameter == (1 if entry == "weight" else 0)).all(), name
        elif "scale" in name:
            assert (parameter == parameter.new_tensor(1e-5)).all(), name
        elif entry == "bias":
            assert not parameter.any(), name
        elif entry not in convolution_like:
            drawn = parameter[:192] if kind == "gated-positional" and name.endswith("qkv.weight") else parameter
            values = drawn.detach().double().flatten().numpy()
            assert stats.kstest(values, stats.truncnorm(-2, 2, scale=parent).cdf).pvalue > 1e-3, name


@pytest.mark.parametrize("kind", KINDS)
def test_reset_depends_on_the_generator_alone(kind: str) -> None:
    first, second = small_core(kind), TokenCore(architecture(kind), (12, 8), 4).double()
    first.reset_parameters(torch.Generator().manual_seed(3))
    second.reset_parameters(torch.Generator().manual_seed(3))
    for (name, ours), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_encoders_and_heads_first_values() -> None:
    core = TokenCore(architecture("gated-positional", width=96), 32)
    generator = torch.Generator().manual_seed(1)
    encoder = core.init_encoder(torch.empty(20, 96, 3, 4, 4), generator)
    bound = 1 / math.sqrt(3 * 4 * 4)
    values = encoder.double().flatten()[:100_000].numpy()
    assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3
    correlation = torch.corrcoef(encoder.flatten(1))
    assert (correlation - torch.eye(20)).abs().max() < 5 / math.sqrt(encoder[0].numel())
    head = core.init_head(torch.empty(2, 100, 96), generator).double().flatten().numpy()
    assert stats.kstest(head, stats.truncnorm(-2, 2, scale=0.02 / stats.truncnorm(-2, 2).std()).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((30, 4), r"image_size: expected sides that the patch size 4 divides, got \(30, 30\)"),
        (((32, 30), None), r"image_size: expected sides that the patch size 4 divides, got \(32, 30\)"),
        ((32, 0), "patch_size: expected a positive number of pixels, got 0"),
        ((32, 4.0), "patch_size: expected a positive number of pixels, got 4.0"),
        ((0, 4), "image_size: expected a positive number of pixels or .* got 0"),
        (((32, 32, 3), 4), r"image_size: expected .* got \(32, 32, 3\)"),
        ((32, 4, 1.0), "drop_path: expected a rate of at least 0 and below 1, got 1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: tuple, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TokenCore(architecture("talking-heads"), *arguments)


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ((24, 5, 1), "heads: expected a divisor of the width 24, got 5"),
        ((24, 0, 1), "heads: expected a positive integer, got 0"),
        ((24, 4, 0), "depth: expected a positive integer, got 0"),
        ((24, 4, 1, "gpsa"), "attention: expected one of gated-positional, talking-heads, got 'gpsa'"),
    ],
)
def test_architectures_that_make_no_network_are_refused(numbers: tuple, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Architecture(*numbers, *(("talking-heads",) if len(numbers) == 3 else ()))


def test_wrong_tokens_are_refused() -> None:
    core = small_core("gated-positional")
    with pytest.raises(ValueError, match=r"tokens: expected \[B, N, 24\], got shape \(2, 24, 3, 2\)"):
        core.features(torch.zeros(2, 24, 3, 2))
    with pytest.raises(ValueError, match=r"tokens: expected 2 x 3 x 2 = 12 of them .* got 6"):
        core.features(torch.zeros(2, 6, 24), copies=2)
    with pytest.raises(ValueError, match=r"tokens: expected \[B, N, 24\], got shape \(2, 6, 23\)"):
        core.classify(torch.zeros(2, 6, 23))


def test_mixing_without_a_source_is_refused() -> None:
    core = small_core("gated-positional")
    mixing = Mixing(torch.ones(3, 2), torch.ones(3, 2), core.grid)
    with pytest.raises(ValueError, match="source"):
        core.classify(tokens_for(core), mixing=mixing)


def loss(core: nn.Module, tokens: torch.Tensor, source: torch.Tensor, mixing: Mixing | None) -> torch.Tensor:
    classes = core.classify(core.features(tokens), source=source, mixing=mixing)
    return classes.square().sum() + classes.sum(1)[:, 0].mean()


@pytest.mark.parametrize("mixed", [False, True], ids=["a set for each source", "mixed sources"])
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_into_one_graph(kind: str, mixed: bool) -> None:
    core = small_core(kind)
    tokens = tokens_for(core)
    source = torch.randn(2, 24, dtype=torch.float64)
    mixing = None
    if mixed:
        inside = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(3, 1)
        box = torch.tensor([[0, 0, 2, 1]], dtype=torch.int32).repeat(3, 1)
        mixing = Mixing(inside, inside.flip(1), core.grid, box)
    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        core.zero_grad()
        value = run(core, tokens, source, mixing)
        value.backward()
        gradients = {name: p.grad.clone() for name, p in core.named_parameters() if name != "position"}
        results.append((value.detach(), gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_stochastic_depth_draws_anew(kind: str) -> None:
    core = small_core(kind, drop_path=0.5)
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    tokens = tokens_for(core, batch=16)
    torch.manual_seed(0)
    first = compiled(tokens)
    second = compiled(tokens)
    torch.manual_seed(0)
    assert torch.equal(compiled(tokens), first) and not torch.equal(second, first)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_stays_near_float32_and_reaches_every_parameter(kind: str) -> None:
    core = small_core(kind).float()
    tokens = tokens_for(core)
    source = torch.randn(2, 24)
    exact = core.classify(core.features(tokens), source=source)
    with torch.autocast("cpu", torch.bfloat16):
        classes = core.classify(core.features(tokens), source=source)
    # A bfloat16 has 8 bits; two blocks of each kind lose a few of them.
    assert (classes - exact).square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()
    classes.float().square().sum().backward()
    for name, parameter in core.named_parameters():
        assert name == "position" or (parameter.grad.isfinite().all() and parameter.grad.dtype == torch.float32), name


def test_a_deep_copy_is_independent() -> None:
    core = small_core("gated-positional")
    twin = copy.deepcopy(core)
    twin.resize(patch_size=2)
    assert core.grid == (3, 2) and core.position.shape == (24, 3, 2)


def test_layout_is_one_image_by_default() -> None:
    assert Layout((3, 2)).copies == 1


def test_default_drop_path_and_patch_of_named_backbones() -> None:
    core = build_backbone("convit96-1", image_size=(224, 192))
    assert (core.patch_size, core.grid, core.num_features) == (16, (14, 12), 96)
    assert core.blocks[0].attention.heads == 3 and core.blocks[0].drop_path.rate == 0
