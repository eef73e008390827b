"""The network of vision transformers with M encoders or one: images to mixed tokens to one class token to M predictions.

Plain transformers (M = 1), and MIMO and MixMo transposed to transformers (thesis 4.3.1, figure A.9).
Legend: B samples, M inputs (and subnetworks), N tokens, K classes, d features, c image channels, k pixels a side of a patch.
"""

from __future__ import annotations

import torch
from mixfast_kernels import Mixing, mask_mix_encode
from torch import Tensor, nn

from mixfast.methods.network import Heads, HiddenMix, init_encoders
from mixfast.mixing import all_from, single_mixing
from mixfast.models import TokenCore


class PatchEncoders(nn.Module):
    """One patch projection an input, or one for all: ``weight`` ``[M or 1, d, c, k, k]``, ``bias`` ``[M or 1, d]``."""

    def __init__(self, core: TokenCore, count: int, in_channels: int) -> None:
        super().__init__()
        patch = (core.stem.kernel_size,) * 2
        self.weight = nn.Parameter(torch.empty(count, core.stem.channels, in_channels, *patch))
        self.bias = nn.Parameter(torch.zeros(count, core.stem.channels))


class TokenNetwork(nn.Module):
    """M images in, one pass through a transformer, M predictions out.

    Args:
        core: the backbone.
        num_classes: K.
        num_inputs: M; 1 is the plain network.
        in_channels: channels of an image.
        shared_encoder, shared_head: one for all inputs instead of one each.
        encoder_init: "independent"; "same" values (thesis A.7.2); or "colinear", the same up to a positive factor each.
        inference: "sum", one pass for all subnetworks, whose tokens are averaged; or "separate", a pass for each with
            its own tokens alone (4.3.1.2); None: a subclass will choose.
        generator: draws all initial weights.

    Raises:
        ValueError: an unknown ``inference`` or ``encoder_init``.
    """

    def __init__(
        self,
        core: TokenCore,
        num_classes: int,
        *,
        num_inputs: int = 1,
        in_channels: int = 3,
        shared_encoder: bool = False,
        shared_head: bool = False,
        encoder_init: str = "independent",
        inference: str | None = "sum",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        if inference is not None:
            self.set_inference(inference)
        self.encoder = PatchEncoders(core, 1 if shared_encoder else num_inputs, in_channels)
        self.core = core
        self.heads = Heads(1 if shared_head else num_inputs, num_classes, core.num_features)
        self._reset_parameters(encoder_init, generator)

    @torch.no_grad()
    def _reset_parameters(self, encoder_init: str, generator: torch.Generator | None) -> None:
        init_encoders(self.core, self.encoder.weight, encoder_init, generator)
        self.core.reset_parameters(generator)
        self.core.init_head(self.heads.weight, generator)

    def inferences(self) -> tuple[str, ...]:
        """The ways of inference that this network has, its own default first."""
        return ("sum", "separate")

    def set_inference(self, inference: str) -> None:
        """Chooses how ``predict`` works; training is the same for all.

        Raises:
            ValueError: not one of ``inferences``.
        """
        known = self.inferences()
        if inference not in known:
            raise ValueError(f"inference must be one of {', '.join(known)} for this network, got {inference!r}")
        self.inference = inference

    def forward(
        self, images: Tensor, mixing: Mixing, index: Tensor | None = None, hidden_mix: HiddenMix | None = None
    ) -> Tensor:
        """Logits ``[B, M, K]`` (``[B, 1, K]`` with a shared head) of a batch mixed as ``mixing`` says.

        Args:
            images: ``[U, c, H, W]``, augmented and normalised.
            mixing: on the patch grid.
            index: int64 ``[B, M]``, the image of each slot; by default image b for all slots of sample b.
            hidden_mix: must be None: Manifold MixUp is defined for convolutional stages.

        Raises:
            ValueError: ``hidden_mix`` is given, or images of another size than the core's.
        """
        if hidden_mix is not None:
            raise ValueError("hidden_mix must be None: Manifold MixUp is not defined for a transformer")
        tokens = self.core.features(self._tokens(images, mixing, index))
        return self.heads(self.core.classify(tokens)[:, 0])

    def predict(self, images: Tensor) -> Tensor:
        """Each subnetwork's logits for the same images, ``[B, M, K]``, not yet averaged."""
        batch, grid = images.shape[0], self.core.grid
        if self.inference == "sum" or self.num_inputs == 1:
            tokens = self._encoded(images, self._mean_encoder(), single_mixing(batch, grid, images.device))
            return self.heads(self.core.classify(self.core.features(tokens))[:, 0])
        sets = [
            self._tokens(images, all_from(i, batch, self.num_inputs, grid, images.device), None)
            for i in range(self.num_inputs)
        ]
        classes = self.core.classify(self.core.features(torch.cat(sets)))
        return self.heads(classes.view(self.num_inputs, batch, -1).transpose(0, 1))

    def fold(self) -> TokenNetwork:
        """The plain network with the same ensemble output: encoders and heads averaged (logits are averaged).

        Its ``predict`` gives ``[B, 1, K]``, equal to ``self.predict(images).mean(1, keepdim=True)``. The backbone is shared
        with this network, not copied.

        Raises:
            ValueError: each subnetwork sees tokens of its own, which no single pass gives.
        """
        why_not = self.why_not_foldable()
        if why_not is not None:
            raise ValueError(why_not)
        folded = TokenNetwork.__new__(TokenNetwork)
        nn.Module.__init__(folded)
        folded.num_inputs, folded.inference, folded.core = 1, "sum", self.core
        folded.encoder = PatchEncoders(self.core, 1, self.encoder.weight.shape[2])
        folded.heads = Heads(1, *self.heads.weight.shape[1:])
        folded.to(self.encoder.weight.device, self.encoder.weight.dtype)
        with torch.no_grad():
            for mine, whole in zip(folded.encoder.parameters(), self._mean_encoder(), strict=True):
                mine.copy_(whole)
            for mine, whole in zip(folded.heads.parameters(), self.heads.parameters(), strict=True):
                mine.copy_(whole.mean(0, keepdim=True))
        return folded.train(self.training)

    def why_not_foldable(self) -> str | None:
        """Why there is no plain network with the same ensemble output; None where there is one."""
        if self.inference == "separate" and self.num_inputs > 1:
            return "a network with inference='separate' has no plain equivalent: its subnetworks see other tokens"
        return None

    def with_layout(self, channels_last: bool) -> TokenNetwork:
        """The network itself: tokens have one layout."""
        return self

    def undecayed(self) -> set[str]:
        """Names of the parameters that are no matrices or kernels: biases, norms, gates, embeddings, the class token."""
        vectors = {name for name, value in self.core.named_parameters(prefix="core") if value.dim() < 2}
        return vectors | {"core.position", "encoder.bias", "heads.bias"}

    def _tokens(self, images: Tensor, mixing: Mixing, index: Tensor | None) -> Tensor:
        """Mixed tokens with their position embedding, ``[B, N, d]``."""
        return self._encoded(images, (self.encoder.weight, self.encoder.bias), mixing, index)

    def _encoded(
        self, images: Tensor, encoder: tuple[Tensor, Tensor], mixing: Mixing, index: Tensor | None = None
    ) -> Tensor:
        if tuple(images.shape[2:]) != self.core.image_size:
            raise ValueError(
                f"images must be {self.core.image_size} pixels for this network, got {tuple(images.shape[2:])}: "
                "core.resize changes it"
            )
        weight, bias = encoder
        patch = self.core.patch_size
        encoded = mask_mix_encode(
            images, weight, mixing, index=index, bias=bias, position=self.core.position, stride=patch, padding=0
        )
        return encoded.flatten(2).transpose(1, 2)

    def _mean_encoder(self) -> tuple[Tensor, Tensor]:
        """The one encoder whose tokens are the average of all encoders' tokens."""
        if self.encoder.weight.shape[0] == 1:
            return self.encoder.weight, self.encoder.bias
        return self.encoder.weight.mean(0, keepdim=True), self.encoder.bias.mean(0, keepdim=True)
