"""The self-check finds every operator right, and says so when one is not."""

from __future__ import annotations

import mixfast_kernels as mk
import pytest
import torch
from mixfast_kernels import selfcheck

CPU = torch.device("cpu")
OPERATORS = {
    "augment",
    "bias_gelu",
    "class_attention",
    "gated_positional_attention",
    "mask_mix_encode",
    "mixed_cross_entropy",
    "source_attribution",
    "talking_heads_attention",
    "unmix_pool",
}


def test_every_operator_is_right_here():
    checks = list(selfcheck.run(CPU))
    assert {check.operator.split(",")[0] for check in checks} == OPERATORS
    assert all(check.passed for check in checks), checks


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_a_wrong_operator_is_found(monkeypatch, operator):
    right = getattr(mk, operator)
    monkeypatch.setattr(selfcheck, operator, lambda *args, **kwargs: right(*args, **kwargs) * (1 + 1e-4))
    wrong = {check.operator.split(",")[0] for check in selfcheck.run(CPU) if not check.passed}
    assert wrong == {operator}


def test_a_wrong_gradient_is_found(monkeypatch):
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits):
            return logits.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad / 2

    right = mk.mixed_cross_entropy
    monkeypatch.setattr(
        selfcheck, "mixed_cross_entropy", lambda x, *args, **more: right(Halved.apply(x), *args, **more)
    )
    assert [check.operator for check in selfcheck.run(CPU) if not check.passed] == ["mixed_cross_entropy"]


def test_an_operator_that_raises_is_reported(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(selfcheck, "unmix_pool", broken)
    failed = [check for check in selfcheck.run(CPU) if not check.passed]
    assert [check.operator for check in failed] == ["unmix_pool"] and failed[0].problem == "RuntimeError: no such luck"


def test_a_result_that_is_not_a_number_is_wrong(monkeypatch):
    right = mk.augment
    monkeypatch.setattr(selfcheck, "augment", lambda *args, **kwargs: right(*args, **kwargs) * float("nan"))
    assert [check.operator for check in selfcheck.run(CPU) if not check.passed] == ["augment"]
