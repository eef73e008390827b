"""MixViT's network (thesis 4.3.3, Algorithms A.8 and A.9): one encoder, shared feature blocks, source attribution, M heads.

Legend: B samples, M inputs (and subnetworks), N tokens, K classes, d features, S token sets.
"""

from __future__ import annotations

import torch
from mixfast_kernels import Mixing, source_attribution
from torch import Tensor, nn
from torch.nn import functional as F

from mixfast.methods.network import HiddenMix
from mixfast.methods.token_network import TokenNetwork
from mixfast.mixing import all_from, single_mixing
from mixfast.models import TokenCore

ATTRIBUTIONS = ("none", "embedding", "encoding")
PLACES = ("late", "early")
TOKENS = ("mixed", "all")
# Which subnetwork each token goes to in alternating inference: drawn once, the same for every image.
ALTERNATION_SEED = 0


class Sources(nn.Module):
    """What tells the inputs apart: ``bias`` ``[M, d]`` (eq. 4.6), and for the encoding ``weight`` ``[M, d, d]`` (eq. 4.5)."""

    def __init__(self, num_inputs: int, num_features: int, encoding: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(num_inputs, num_features))
        size = (num_inputs, num_features, num_features)
        self.weight = nn.Parameter(torch.empty(size)) if encoding else None

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None) -> None:
        """Embeddings as position embeddings; encodings as the transformer's linear layers."""
        if self.weight is None:
            nn.init.trunc_normal_(self.bias, std=0.02, generator=generator)
        else:
            nn.init.trunc_normal_(self.weight, std=0.02, generator=generator)
            nn.init.zeros_(self.bias)


class MixViTNetwork(TokenNetwork):
    """One patch projection for all inputs; each token learns late which input it shows; M heads.

    Args:
        core: the backbone.
        num_classes: K.
        num_inputs: M, at least 2.
        attribution: "embedding" (eq. 4.6), "encoding" (eq. 4.5) or "none" (table 4.6).
        place: "late", between feature and class-attention blocks; or "early", before the feature blocks (table 4.6).
        tokens: "mixed", N tokens of M inputs; or "all" M * N of them side by side (table 4.6).
        inference: of the M subnetworks for one image (table 4.6). "separate": each sees all tokens as its own; "sum": the
            average of these sets; "alternating": each token goes to one subnetwork, by a random pattern; "single": only
            the first subnetwork predicts. With all tokens there is but one way: every slot shows the image.
        in_channels, generator: as for ``TokenNetwork``.

    Raises:
        ValueError: a setting that is not one of these.
    """

    def __init__(
        self,
        core: TokenCore,
        num_classes: int,
        *,
        num_inputs: int = 2,
        attribution: str = "embedding",
        place: str = "late",
        tokens: str = "mixed",
        inference: str = "separate",
        in_channels: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value, known in (
            ("attribution", attribution, ATTRIBUTIONS),
            ("place", place, PLACES),
            ("tokens", tokens, TOKENS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        super().__init__(
            core,
            num_classes,
            num_inputs=num_inputs,
            in_channels=in_channels,
            shared_encoder=True,
            inference=None,
            generator=generator,
        )
        self.place, self.tokens = place, tokens
        self.set_inference(inference)
        self.sources: Sources | None = None
        if attribution != "none":
            self.sources = Sources(num_inputs, core.num_features, attribution == "encoding")
            self.sources.reset_parameters(generator)

    def inferences(self) -> tuple[str, ...]:
        return ("separate",) if self.tokens == "all" else ("separate", "sum", "alternating", "single")

    @property
    def early(self) -> bool:
        """Whether the feature blocks see attributed tokens."""
        return self.sources is not None and self.place == "early"

    @property
    def late(self) -> bool:
        """Whether only the class-attention blocks do."""
        return self.sources is not None and self.place == "late"

    def forward(
        self, images: Tensor, mixing: Mixing, index: Tensor | None = None, hidden_mix: HiddenMix | None = None
    ) -> Tensor:
        """Algorithm A.8: logits ``[B, M, K]``; arguments and errors as for ``TokenNetwork.forward``."""
        if hidden_mix is not None:
            raise ValueError("hidden_mix must be None: Manifold MixUp is not defined for a transformer")
        if self.tokens == "all":
            return self._forward_all(images, mixing, index)
        tokens = self._tokens(images, mixing, index)
        if self.early:
            tokens = self._attributed(tokens, mixing)
        tokens = self.core.features(tokens)
        if self.late and self.sources.weight is None:
            classes = self.core.classify(tokens, source=self.sources.bias, mixing=mixing)
        else:
            classes = self.core.classify(self._attributed(tokens, mixing) if self.late else tokens)
        return self.heads(classes[:, 0])

    def predict(self, images: Tensor) -> Tensor:
        """Algorithm A.9: each subnetwork's logits ``[B, M, K]``, not yet averaged; ``[B, 1, K]`` with ``inference="single"``."""
        batch = images.shape[0]
        tokens = self._tokens(images, single_mixing(batch, self.core.grid, images.device), None)
        if self.tokens == "all":
            return self._predict_all(tokens)
        if self.early:
            tokens = self._sourced_sets(tokens)
        tokens = self.core.features(tokens)
        separate = self.inference == "separate"
        if self.late and separate and self.sources.weight is None:
            return self._logits(self.core.classify(tokens, source=self.sources.bias))
        classes = self.core.classify(self._sourced_sets(tokens) if self.late else tokens)[:, 0]
        if self.sources is not None and separate:
            return self._logits(classes.view(self.num_inputs, batch, -1).transpose(0, 1))
        return self._logits(classes)

    def why_not_foldable(self) -> str | None:
        """Each subnetwork's class attention sees tokens of its own, or all tokens M times."""
        if self.sources is not None:
            return "a network with source attribution has no plain equivalent; predict costs little more than one"
        return "a network of all tokens has no plain equivalent" if self.tokens == "all" else None

    def undecayed(self) -> set[str]:
        """As for ``TokenNetwork``; source embeddings are left alone as position embeddings are."""
        return super().undecayed() | ({"sources.bias"} if self.sources is not None else set())

    def _logits(self, classes: Tensor) -> Tensor:
        """Class tokens ``[B, d]``, seen by all heads, or ``[B, M, d]``, one each, to ``[B, M, K]``, or ``[B, 1, K]`` (single)."""
        if self.inference == "single":
            return F.linear(classes, self.heads.weight[0], self.heads.bias[0])[:, None]
        return self.heads(classes)

    def _attributed(self, tokens: Tensor, mixing: Mixing) -> Tensor:
        return source_attribution(tokens, mixing, self.sources.bias, self.sources.weight)

    def _sourced_sets(self, tokens: Tensor) -> Tensor:
        """``[B, N, d]`` as the inference scheme attributes them: ``[M * B, N, d]``, a set a subnetwork, or one ``[B, N, d]``."""
        batch, grid = tokens.shape[0], self.core.grid
        if self.inference == "separate":
            return self._each_source(tokens).flatten(0, 1)
        if self.inference == "single":
            return self._attributed(tokens, all_from(0, batch, self.num_inputs, grid, tokens.device))
        if self.inference == "sum":
            tokens_and_bias = tokens + self.sources.bias.mean(0)
            return (
                tokens_and_bias
                if self.sources.weight is None
                else tokens_and_bias + F.linear(tokens, self.sources.weight.mean(0))
            )
        return self._alternating(tokens)

    def _each_source(self, tokens: Tensor) -> Tensor:
        """All tokens as each input's own: ``[B, N, d]`` to ``[M, B, N, d]``, in one batched product."""
        attributed = tokens + self.sources.bias[:, None, None]
        if self.sources.weight is None:
            return attributed
        flat = tokens.flatten(0, 1).expand(self.num_inputs, -1, -1)
        matrices = self.sources.weight.transpose(1, 2)
        return torch.baddbmm(attributed.flatten(1, 2), flat, matrices).unflatten(1, tokens.shape[:2])

    def _alternating(self, tokens: Tensor) -> Tensor:
        """Each token attributed to one subnetwork. Class attention does not see the order of tokens, the feature blocks do:
        the tokens come back in their own order."""
        generator = torch.Generator().manual_seed(ALTERNATION_SEED)
        owner = torch.randint(self.num_inputs, (tokens.shape[1],), generator=generator)
        result = torch.empty_like(tokens)
        for source in range(self.num_inputs):
            own = (owner == source).nonzero()[:, 0].to(tokens.device)
            part, bias = tokens[:, own], self.sources.bias[source]
            encoded = part if self.sources.weight is None else part + F.linear(part, self.sources.weight[source])
            result[:, own] = encoded + bias
        return result

    def _forward_all(self, images: Tensor, mixing: Mixing, index: Tensor | None) -> Tensor:
        """All M * N tokens: each input encoded by itself, side by side (table 4.6)."""
        batch = mixing.batch_size
        if index is None:
            index = torch.arange(batch, device=images.device)[:, None].expand(-1, self.num_inputs)
        slots = self._tokens(
            images, single_mixing(index.numel(), self.core.grid, images.device), index.reshape(-1, 1)
        ).unflatten(0, (batch, self.num_inputs))
        slots = self._own_sources(slots) if self.early else slots
        features = self.core.features(slots.flatten(1, 2), copies=self.num_inputs)
        features = features.unflatten(1, (self.num_inputs, -1))
        features = self._own_sources(features) if self.late else features
        return self.heads(self.core.classify(features.flatten(1, 2))[:, 0])

    def _predict_all(self, tokens: Tensor) -> Tensor:
        """Every slot shows the same image.

        Copies of a token stay equal through the feature blocks, which therefore need to see one of them only, unless the
        copies were attributed early. (Class attention sees them all: its class token is there once.)
        """
        copies = self.num_inputs
        if self.early:
            slots = self._own_sources(tokens[:, None].expand(-1, copies, -1, -1))
            features = self.core.features(slots.flatten(1, 2), copies=copies)
        else:
            slots = self.core.features(tokens, repeats=copies)[:, None].expand(-1, copies, -1, -1)
            features = (self._own_sources(slots) if self.late else slots).flatten(1, 2)
        return self.heads(self.core.classify(features)[:, 0])

    def _own_sources(self, slots: Tensor) -> Tensor:
        """Slot i's tokens attributed to input i, ``[B, M, N, d]``."""
        attributed = slots + self.sources.bias[:, None]
        if self.sources.weight is None:
            return attributed
        return attributed + torch.einsum("bmnk,mdk->bmnd", slots, self.sources.weight)
