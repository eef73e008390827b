"""What the published composition costs, of which the closed forms know, is what the restated networks do."""

from __future__ import annotations

import pytest
import restatement
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixfast.config.sections import MethodSection, ModelSection
from mixfast.data import DataShape
from mixfast.flops.closed_form import Setup, closed_form, totals


@pytest.mark.parametrize("inputs", [1, 2, 4])
@pytest.mark.parametrize(("backbone", "size"), [("wrn16-3", (20, 28)), ("preact-resnet18-1", (64, 64))])
def test_published_composition_of_convolutional_networks(backbone, size, inputs):
    """Every image through its own first convolution, then one network, then every head."""
    shape = DataShape(3, size, 7)
    with torch.device("meta"):
        sizes = (inputs, inputs, shape.num_classes)
        twin = (
            restatement.PublishedWideResNet(16, 3, sizes)
            if backbone.startswith("wrn")
            else restatement.PublishedPreActResNet18([64, 128, 256, 512], sizes)
        )
        image = torch.empty(3, *shape.image_shape, dtype=torch.float64)
        with FlopCounterMode(display=False) as counter:
            mixed = sum(twin.encode(slot, image) for slot in range(inputs))
            pooled = twin.features(mixed[None]).mean((2, 3))
            for head in range(inputs):
                twin.classify(pooled, head)
    setup = Setup(
        ModelSection(name=backbone), MethodSection(name="mimo" if inputs > 1 else "single", num_inputs=inputs), shape
    )
    form = totals(closed_form(setup, as_published=True))
    assert counter.get_total_flops() == 2 * form.inference == 2 * form.forward
    assert sum(parameter.numel() for parameter in twin.parameters()) == form.parameters
