"""What a method is: the network it needs, the Mixing it draws, and how it weighs the losses.

Legend: B samples, M inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from mixfast_kernels import Mixing
from torch import Tensor

from mixfast.methods.network import MultiInputNetwork
from mixfast.methods.token_network import TokenNetwork
from mixfast.models import Core, TokenCore

Network = MultiInputNetwork | TokenNetwork


@dataclass(frozen=True)
class Moment:
    """Where in the training a batch is drawn: ``epoch`` counts from 1."""

    epoch: int
    epochs: int


@dataclass(frozen=True)
class Method(ABC):
    """The base of all methods: M inputs of weight 1, each with an encoder and a head of its own.

    A method overrides ``draw``, and what else differs. Settings are those of the ``method`` section of a recipe that
    have meaning here; ``from_settings`` picks them.
    """

    num_inputs: int = 1

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Method:
        """The method with those of ``settings`` that it has a field for; None leaves its own default."""
        given = {name: value for name, value in settings.items() if value is not None}
        return cls(**{name: given[name] for name in cls.setting_names() if name in given})

    @classmethod
    def setting_names(cls) -> list[str]:
        """The method's fields, in their order."""
        return [field.name for field in fields(cls)]

    def network(self, core: Core | TokenCore, num_classes: int, **common: Any) -> Network:
        """The whole network over a backbone; ``common`` are ``in_channels`` and ``generator``.

        Raises:
            ValueError: the method is not defined for this kind of backbone.
        """
        if isinstance(core, TokenCore):
            return TokenNetwork(core, num_classes, **self.token_network_options(), **common)
        return MultiInputNetwork(core, num_classes, **self.network_options(core.num_features), **common)

    def network_options(self, num_features: int) -> dict[str, Any]:
        """Keyword arguments for ``MultiInputNetwork``, over a convolutional backbone."""
        return {"num_inputs": self.num_inputs}

    def token_network_options(self) -> dict[str, Any]:
        """Keyword arguments for ``TokenNetwork``, over a transformer."""
        return {"num_inputs": self.num_inputs}

    def fitted_to(self, core: Core | TokenCore) -> Method:
        """The method as it draws for this backbone."""
        return self

    @abstractmethod
    def draw(
        self,
        batch: int,
        grid: tuple[int, int],
        moment: Moment,
        *,
        generator: torch.Generator | None,
        device: torch.device | str,
    ) -> Mixing:
        """The mix of one training batch, drawn on the device."""

    def visible_inputs(self) -> int:
        """The most inputs that one position of a drawn mix shows. An encoder works only where its input is seen, so that a
        training step costs that many encoders' products; here all M."""
        return self.num_inputs

    def loss_weights(self, mixing: Mixing) -> Tensor:
        """The weight of each head's loss, ``[B, M]``: here 1."""
        return torch.ones_like(mixing.inside)

    def target_order(self, mixing: Mixing, *, generator: torch.Generator | None) -> Tensor | None:
        """Which input each head learns, int64 ``[B, M]``; None: head i learns input i."""
        return None

    def begin_epoch(self, network: Network, moment: Moment) -> None:  # noqa: B027  (a hook, not a duty)
        """Called before the first batch of every epoch, and after a resume in the middle of one."""
