"""Attention pooling: learned queries, or the image's own mean, choose positions by a softmax over all of them.

Each mask a (scaled by H·W, so that a uniform one is 1) pools the features first, and values are projected afterwards:
Σ a_p · W x_p = W · Σ a_p x_p, so neither keys nor values ever exist at all positions. docs/heads.md has the formulas.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from catdog.models.heads.masked import MaskControl, MaskedHead, kernel_scores, masked_pool, softmax_masks

QUERY_STD = 0.02
"""Of queries before training, as in vision transformers: masks begin almost uniform."""


class QueryHead(MaskedHead):
    """Attentive probe: Q learned queries attend with H heads; values → concatenated → dropout → linear.

    The cross-attention of V-JEPA's (Bardes et al. 2024) and CAPI's (Darcet et al. 2025) probes, without the
    transformer block around it. Masks: Q·H, those of the first query first.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_queries: int,
        num_heads: int,
        head_features: int,
        dropout: float,
        masks: MaskControl = "trained",
    ) -> None:
        super().__init__(masks)
        self.queries_QHD = nn.Parameter(torch.empty(num_queries, num_heads, head_features))
        nn.init.trunc_normal_(self.queries_QHD, std=QUERY_STD)
        # Without a bias: the same number at all positions, it would not change a softmax over them.
        self.key = nn.Linear(in_channels, num_heads * head_features, bias=False)
        self.value = nn.Linear(in_channels, num_heads * head_features)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(num_queries * num_heads * head_features, num_classes)
        self.keep_untrained()

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the queries and the weights of the keys."""
        yield self.queries_QHD
        yield from self.key.parameters()

    def make_masks(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the masks (B, Q·H, H, W)."""
        keys_HDC = self.key.weight.unflatten(0, self.queries_QHD.shape[1:])
        kernels_QHC = torch.einsum("qhd,hdc->qhc", self.queries_QHD, keys_HDC) / math.sqrt(keys_HDC.shape[1])
        return softmax_masks(kernel_scores(kernels_QHC.flatten(0, 1), features_BCHW))

    def classify(self, features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K)."""
        queries, *slices = self.queries_QHD.shape
        pooled_BQHC = masked_pool(features_BCHW, masks_BMHW).unflatten(1, (queries, slices[0]))
        values_HDC, bias_HD = self.value.weight.unflatten(0, slices), self.value.bias.unflatten(0, slices)
        values_BQHD = torch.einsum("bqhc,hdc->bqhd", pooled_BQHC, values_HDC) + bias_HD
        logits_BK: torch.Tensor = self.classifier(self.dropout(values_BQHD.flatten(1)))
        return logits_BK


class EfficientProbingHead(MaskedHead):
    """EP: M learned queries meet the features themselves; each pools its slice of the values → dropout → linear.

    Psomas et al. 2025, "Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency". No key
    projection; the C / reduction value channels are shared out evenly, rounded down, at least one to each query.

    The parameters are the queries divided by √C, so that scores are plain inner products. LARS, with which the authors
    train, takes the same steps either way, since its steps grow with the weights. Adam's do not: behind a
    division it would move the scores √C times more slowly, and masks would stay uniform.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_queries: int,
        reduction: int,
        dropout: float,
        masks: MaskControl = "trained",
    ) -> None:
        super().__init__(masks)
        self.kernels_MC = nn.Parameter(torch.empty(num_queries, in_channels))
        nn.init.trunc_normal_(self.kernels_MC, std=QUERY_STD / math.sqrt(in_channels))
        self.slice_features = max(1, in_channels // (reduction * num_queries))
        self.value = nn.Linear(in_channels, num_queries * self.slice_features, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(num_queries * self.slice_features, num_classes)
        self.keep_untrained()

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the queries."""
        yield self.kernels_MC

    def make_masks(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the masks (B, M, H, W)."""
        return softmax_masks(kernel_scores(self.kernels_MC, features_BCHW))

    def classify(self, features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K)."""
        values_MDC = self.value.weight.unflatten(0, (-1, self.slice_features))
        values_BMD = torch.einsum("bmc,mdc->bmd", masked_pool(features_BCHW, masks_BMHW), values_MDC)
        logits_BK: torch.Tensor = self.classifier(self.dropout(values_BMD.flatten(1)))
        return logits_BK


class SimPoolHead(MaskedHead):
    """SimPool: the mean of the features is the query; values are pooled by a generalised mean → dropout → linear.

    Psomas et al. 2023, "Keep It SimPool: Who Said Supervised Transformers Suffer from Attention Deficit?". Keys and
    values are the features after a layer norm (here without weights, which the layers after it make up for); the
    image's least value is subtracted, since only numbers ≥ 0 have powers.
    """

    LEAST_MEAN = 1e-30
    """Of powers: a root has no gradient at 0."""

    def __init__(
        self, in_channels: int, num_classes: int, *, gamma: float, dropout: float, masks: MaskControl = "trained"
    ) -> None:
        super().__init__(masks)
        self.gamma = gamma
        self.query = nn.Linear(in_channels, in_channels, bias=False)
        self.key = nn.Linear(in_channels, in_channels, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        self.keep_untrained()

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of query and keys."""
        for layer in (self.query, self.key):
            yield from layer.parameters()

    def make_masks(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mask (B, 1, H, W)."""
        normed_BCHW = self._layer_norm(features_BCHW)
        query_BC = self.query(features_BCHW.mean(dim=(2, 3)))
        kernel_BC = query_BC @ self.key.weight / math.sqrt(query_BC.shape[1])
        return softmax_masks(torch.einsum("bc,bchw->bhw", kernel_BC, normed_BCHW).unsqueeze(1))

    def classify(self, features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K)."""
        normed_BCHW = self._layer_norm(features_BCHW)
        values_BCHW = normed_BCHW - normed_BCHW.amin(dim=(1, 2, 3), keepdim=True)
        powers_BC = masked_pool(values_BCHW.pow(self.gamma), masks_BMHW).squeeze(1)
        pooled_BC = powers_BC.clamp_min(self.LEAST_MEAN).pow(1 / self.gamma)
        logits_BK: torch.Tensor = self.classifier(self.dropout(pooled_BC))
        return logits_BK

    @staticmethod
    def _layer_norm(features_BCHW: torch.Tensor) -> torch.Tensor:
        features_BHWC = features_BCHW.permute(0, 2, 3, 1)
        features_BHWC = features_BHWC.to(torch.promote_types(features_BHWC.dtype, torch.float32))
        return F.layer_norm(features_BHWC, features_BHWC.shape[3:]).permute(0, 3, 1, 2)


class GatedAttentionHead(MaskedHead):
    """ABMIL, gated: softmax over the positions of w · (tanh(V x + b) ⊙ sigmoid(U x + c)) → dropout → linear.

    Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning"; the positions are the instances of a bag.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden_features: int,
        dropout: float,
        masks: MaskControl = "trained",
    ) -> None:
        super().__init__(masks)
        self.content = nn.Linear(in_channels, hidden_features)
        self.gate = nn.Linear(in_channels, hidden_features)
        self.score = nn.Linear(hidden_features, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        self.keep_untrained()

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the scores."""
        for layer in (self.content, self.gate, self.score):
            yield from layer.parameters()

    def make_masks(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mask (B, 1, H, W)."""
        features_BHWC = features_BCHW.permute(0, 2, 3, 1)
        hidden_BHWD = self.content(features_BHWC).tanh() * self.gate(features_BHWC).sigmoid()
        return softmax_masks(self.score(hidden_BHWD).permute(0, 3, 1, 2))

    def classify(self, features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K)."""
        logits_BK: torch.Tensor = self.classifier(self.dropout(masked_pool(features_BCHW, masks_BMHW).squeeze(1)))
        return logits_BK
