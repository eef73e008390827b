"""The same numbers in channels-last memory and under torch.compile."""

from __future__ import annotations

import pytest
import torch

from mixfast.models import build_backbone


@pytest.mark.parametrize("name", ["wrn10-1", "preact-resnet18-1", "resnet18-1"])
def test_channels_last_in_and_out(name: str) -> None:
    torch.manual_seed(0)
    core = build_backbone(name).double().eval()
    x = torch.randn(2, core.stem.channels, 16, 16, dtype=torch.float64)
    expected = core(x)
    features = core.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_compiles_into_one_graph() -> None:
    torch.manual_seed(0)
    core = build_backbone("wrn10-1").double().eval()  # eval: both runs see the same batch-norm statistics
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, core.stem.channels, 16, 16, dtype=torch.float64)

    expected = core(x)
    expected.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in core.named_parameters()}
    core.zero_grad()
    features = compiled(x)
    features.square().sum().backward()

    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)
    for name, parameter in core.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-9)
