"""Every rewriting at once: a whole core equals its plain form in float64, with the gradient of every parameter."""

from __future__ import annotations

import plain_transformer as plain
import pytest
import torch
from mixfast_kernels import Mixing
from small_cores import KINDS, plain_state, small_core, tokens_for
from torch import Tensor

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def mixing_on(grid: tuple[int, int], batch: int) -> Mixing:
    """Two inputs: a box of the first over the second, not binary, another box for every sample."""
    box = torch.tensor([[0, 0, 2, 1], [1, 0, 3, 2], [0, 1, 1, 2]], dtype=torch.int32)[:batch]
    inside = torch.tensor([[0.75, 0.25]], dtype=torch.float64).repeat(batch, 1)
    return Mixing(inside, inside.flip(1), grid, box)


def assert_same_gradients(core: torch.nn.Module, state: dict[str, Tensor], untouched: set[str]) -> None:
    for name, parameter in core.named_parameters():
        expected = state[name].grad
        if name in untouched:
            assert parameter.grad is None and expected is None, name
        else:
            torch.testing.assert_close(
                parameter.grad, expected, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_the_plain_form(kind: str, copies: int) -> None:
    core = small_core(kind)
    state = plain_state(core)
    tokens = tokens_for(core, copies=copies)
    tokens_plain = tokens.detach().clone().requires_grad_()

    ours = core.features(tokens, copies=copies)
    expected = plain.features(state, tokens_plain, core.grid, copies)
    torch.testing.assert_close(ours, expected, **TIGHT)

    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(tokens.grad, tokens_plain.grad, **TIGHT)
    classifier = {name for name in state if not name.startswith("blocks.")}
    assert_same_gradients(core, state, untouched=classifier)


@pytest.mark.parametrize("case", ["no source", "one source", "a set for each of three sources", "mixed sources"])
@pytest.mark.parametrize("kind", KINDS)
def test_classes_equal_the_plain_form(kind: str, case: str) -> None:
    core = small_core(kind)
    state = plain_state(core)
    tokens = tokens_for(core)
    tokens_plain = tokens.detach().clone().requires_grad_()
    count = {"no source": 0, "one source": 1, "a set for each of three sources": 3, "mixed sources": 2}[case]
    source = torch.randn(count, core.num_features, dtype=torch.float64).requires_grad_() if count else None
    source_plain = source.detach().clone().requires_grad_() if count else None
    mixing = mixing_on(core.grid, len(tokens)) if case == "mixed sources" else None

    ours = core.classify(tokens, source=source, mixing=mixing)
    weights = None if mixing is None else mixing.weights().flatten(2)
    expected = plain.classify(state, tokens_plain, core.class_blocks[0].heads, source_plain, weights)
    assert ours.shape == (3, 3 if count == 3 else 1, core.num_features)
    torch.testing.assert_close(ours, expected, **TIGHT)

    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(tokens.grad, tokens_plain.grad, **TIGHT)
    if source is not None:
        torch.testing.assert_close(source.grad, source_plain.grad, **TIGHT)
    features = {name for name in state if name.startswith(("blocks.", "position"))}
    assert_same_gradients(core, state, untouched=features)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_features_then_classes(kind: str) -> None:
    core = small_core(kind)
    tokens = tokens_for(core)
    assert torch.equal(core(tokens), core.classify(core.features(tokens)))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_are_a_view_of_channels(kind: str) -> None:
    """As `mask_mix_encode` leaves them: [B, d, H', W'] in channels-last memory, or in the usual one."""
    core = small_core(kind)
    tokens = tokens_for(core).detach()
    expected = core(tokens)
    usual = tokens.transpose(1, 2).contiguous().transpose(1, 2)
    assert not usual.is_contiguous()
    torch.testing.assert_close(core(usual), expected, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch(kind: str) -> None:
    core = small_core(kind)
    classes = core(tokens_for(core, batch=0))
    assert classes.shape == (0, 1, core.num_features)
    classes.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for n, p in core.named_parameters() if n != "position")
