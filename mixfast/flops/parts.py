"""The parts a network's cost is told by: its encoder, each stage or block, its sources, its heads.

A part is a child of the network or, inside the backbone, a child of that; of a list of stages or blocks, each is one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mixfast.methods import Network

# Parameters that the backbone itself holds: positions and the class token.
EMBEDDINGS = "embeddings"


def modules_by_part(network: Network) -> dict[str, nn.Module]:
    """The parts that are modules: encoder, backbone, what a method adds, heads."""
    outside, inside = dict(_children(network)), dict(_children(network.core))
    heads = {"heads": outside.pop("heads")}
    encoder = {"encoder": outside.pop("encoder")}
    return {**encoder, **inside, **outside, **heads}


def parameters_by_part(network: Network) -> dict[str, list[nn.Parameter]]:
    """Every parameter of the network, each once."""
    result = {EMBEDDINGS: list(network.core.parameters(recurse=False))}
    result.update((part, list(module.parameters())) for part, module in modules_by_part(network).items())
    return {part: parameters for part, parameters in result.items() if parameters}


def whole(network: Network) -> dict[str, nn.Module]:
    """The parts as a ``Meter`` takes them: what the backbone does between its own parts is the ``core``'s."""
    return {"core": network.core, **modules_by_part(network)}


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", element) for index, element in enumerate(child))
        elif name != "core":
            yield name, child
