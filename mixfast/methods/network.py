"""The network every convolutional method trains: M encoders, one backbone, M heads.

Legend: B samples, M inputs (and subnetworks), K classes, C stem channels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mixfast_kernels import Mixing, mask_mix_encode, unmix_pool
from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.models import Core, TokenCore


@dataclass(frozen=True)
class HiddenMix:
    """Manifold MixUp: before stage ``depth``, sample b becomes ``share_b * x_b + (1 - share_b) * x_partner(b)``."""

    depth: int
    partner: Tensor  # int64 [B]
    share: Tensor  # float32 [B]

    def rows(self, index: Tensor) -> HiddenMix:
        """The mix of some samples, int64 ``[B']``, whose partners are among them too."""
        place = torch.empty_like(self.partner).scatter_(0, index, torch.arange(len(index), device=index.device))
        return HiddenMix(self.depth, place[self.partner[index]], self.share[index])

    def apply(self, hidden: Tensor) -> Tensor:
        share = self.share.to(hidden.dtype)[:, None, None, None]
        return share * hidden + (1 - share) * hidden[self.partner]


class Encoders(nn.Module):
    """One stem convolution an input, or one for all: ``weight`` ``[M or 1, C, c, k, k]``, no bias (thesis 3.3.1)."""

    def __init__(self, core: Core, count: int, in_channels: int) -> None:
        super().__init__()
        kernel = (core.stem.kernel_size,) * 2
        self.weight = nn.Parameter(torch.empty(count, core.stem.channels, in_channels, *kernel))


class Heads(nn.Module):
    """M dense classifiers in one product: ``weight`` ``[M, K, F]``, ``bias`` ``[M, K]``."""

    def __init__(self, count: int, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(count, num_classes))

    def forward(self, pooled: Tensor) -> Tensor:
        """``[B, F]``, seen by all heads, or ``[B, M, F]``, one each, to logits ``[B, M, K]``."""
        if pooled.dim() == 2:
            logits = F.linear(pooled, self.weight.flatten(0, 1), self.bias.flatten())
            return logits.unflatten(1, self.bias.shape)
        # A head that is shared reads each of them.
        weight, bias = (value.expand(pooled.shape[1], *value.shape[1:]) for value in (self.weight, self.bias))
        each_head = torch.baddbmm(bias[:, None], pooled.transpose(0, 1), weight.transpose(1, 2))
        return each_head.transpose(0, 1)


ENCODER_INITS = ("independent", "same", "colinear")


@torch.no_grad()
def init_encoders(core: Core | TokenCore, weight: Tensor, encoder_init: str, generator: torch.Generator | None) -> None:
    """Fills encoders ``[M, C, c, k, k]`` as the backbone wants them: each by itself, all alike, or alike up to a factor.

    Raises:
        ValueError: ``encoder_init`` is not one of ``ENCODER_INITS``.
    """
    if encoder_init not in ENCODER_INITS:
        raise ValueError(f"encoder_init must be one of {', '.join(ENCODER_INITS)}; got {encoder_init!r}")
    if encoder_init == "independent":
        core.init_encoder(weight, generator)
    else:
        weight.copy_(core.init_encoder(weight[:1].clone(), generator).expand_as(weight))
    if encoder_init == "colinear":
        # Factors between a half and two, so that no input starts out invisible.
        factors = torch.empty(weight.shape[0]).uniform_(-1, 1, generator=generator).exp2()
        weight.mul_(factors.view(-1, 1, 1, 1, 1))


class MultiInputNetwork(nn.Module):
    """M images in, one pass through the backbone, M predictions out.

    Args:
        core: the backbone.
        num_classes: K.
        num_inputs: M; 1 is the plain network.
        in_channels: channels of an image.
        shared_encoder, shared_head: one for all inputs instead of one each (the ablation of thesis table 3.4).
        encoder_init: "independent"; "same" values; or "colinear", the same up to a positive factor each (A.6.2).
        unmixed_channels: how many of the F features are unmixed before pooling (MixShare); 0 pools plainly.
        generator: draws all initial weights.
    """

    def __init__(
        self,
        core: Core,
        num_classes: int,
        *,
        num_inputs: int = 1,
        in_channels: int = 3,
        shared_encoder: bool = False,
        shared_head: bool = False,
        encoder_init: str = "independent",
        unmixed_channels: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.unmixed_channels = unmixed_channels
        self.encoder = Encoders(core, 1 if shared_encoder else num_inputs, in_channels)
        self.core = core
        self.heads = Heads(1 if shared_head else num_inputs, num_classes, core.num_features)
        # How far unmixing has faded out, 0 to 1. A tensor, so that a compiled step needs no new graph every epoch.
        self.register_buffer("fade", torch.zeros(()), persistent=False)
        self._reset_parameters(encoder_init, generator)

    @torch.no_grad()
    def _reset_parameters(self, encoder_init: str, generator: torch.Generator | None) -> None:
        init_encoders(self.core, self.encoder.weight, encoder_init, generator)
        self.core.reset_parameters(generator)
        self.core.init_head(self.heads.weight, generator)
        nn.init.zeros_(self.heads.bias)

    def forward(
        self, images: Tensor, mixing: Mixing, index: Tensor | None = None, hidden_mix: HiddenMix | None = None
    ) -> Tensor:
        """Logits ``[B, M, K]`` (``[B, 1, K]`` with a shared head) of a batch mixed as ``mixing`` says.

        Args:
            images: ``[U, c, H, W]``, augmented and normalised.
            mixing: on the stem's output grid.
            index: int64 ``[B, M]``, the image of each slot; by default image b for all slots of sample b.
            hidden_mix: Manifold MixUp, for plain networks.
        """
        stem = self.core.stem
        encoded = mask_mix_encode(
            images,
            self.encoder.weight,
            mixing,
            index=index,
            stride=stem.stride,
            padding=stem.padding,
            scale=float(self.num_inputs),
        )
        features = self._features(encoded, hidden_mix)
        if self.unmixed_channels == 0:
            return self.heads(features.mean((2, 3)))
        return self.heads(unmix_pool(features, mixing, fade=self.fade, channels=self.unmixed_channels))

    def with_layout(self, channels_last: bool) -> MultiInputNetwork:
        """Puts the backbone's convolutions into channels-last memory, or back; returns the network itself."""
        self.core.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        return self

    def undecayed(self) -> set[str]:
        """Names of the parameters that are no matrices or kernels: biases and norms."""
        return {name for name, value in self.named_parameters() if value.dim() < 2} | {"heads.bias"}

    def predict(self, images: Tensor) -> Tensor:
        """Inference: every input is the same image, summed; each subnetwork's logits ``[B, M, K]``, not yet averaged.

        One convolution by the summed encoders gives exactly the sum of M convolutions (thesis 3.3.1).
        """
        stem = self.core.stem
        encoded = F.conv2d(images, self._summed_encoder(), stride=stem.stride, padding=stem.padding)
        return self.heads(self._features(encoded, None).mean((2, 3)))

    def fold(self) -> MultiInputNetwork:
        """The plain network with the same ensemble output: encoders summed, heads averaged (logits are averaged).

        Its ``predict`` gives ``[B, 1, K]``, equal to ``self.predict(images).mean(1, keepdim=True)``. The backbone is shared
        with this network, not copied.
        """
        num_classes, num_features = self.heads.weight.shape[1:]
        folded = MultiInputNetwork.__new__(MultiInputNetwork)
        nn.Module.__init__(folded)
        folded.num_inputs, folded.unmixed_channels = 1, 0
        folded.encoder = Encoders(self.core, 1, self.encoder.weight.shape[2])
        folded.core = self.core
        folded.heads = Heads(1, num_classes, num_features)
        folded.register_buffer("fade", torch.zeros_like(self.fade), persistent=False)
        folded.to(self.encoder.weight.device, self.encoder.weight.dtype)
        with torch.no_grad():
            folded.encoder.weight.copy_(self._summed_encoder()[None])
            folded.heads.weight.copy_(self.heads.weight.mean(0, keepdim=True))
            folded.heads.bias.copy_(self.heads.bias.mean(0, keepdim=True))
        return folded.train(self.training)

    def _summed_encoder(self) -> Tensor:
        weight = self.encoder.weight
        return weight.expand(self.num_inputs, *weight.shape[1:]).sum(0)

    def _features(self, encoded: Tensor, hidden_mix: HiddenMix | None) -> Tensor:
        if hidden_mix is None:
            return self.core(encoded)
        hidden = self.core.entry(encoded)
        for depth, stage in enumerate(self.core.stages):
            hidden = hidden_mix.apply(hidden) if depth == hidden_mix.depth else hidden
            hidden = stage(hidden)
        return self.core.exit(hidden)
