"""Attention over several maps, each asked by the mean of the last one (Jetley et al. 2018, "Learn to Pay Attention").

Of the paper's two scores this is the dot product; behind a softmax the other one, u·(l + g), would not depend on g.
Maps are divided by their root mean square, since those of pretrained stages differ in scale by orders of magnitude.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from catdog.models.heads.masked import MaskControl, Masked, masked_pool, softmax_masks
from catdog.models.petnet import ModelOutput
from catdog.models.stages import Shape, key_of


class StageReadingHead(Masked):
    """g = GAP(last map). For each stage s with map l: mask = softmax over positions of l·(W_s g) / √C_s, times H·W;
    l × mask → GAP. All pooled maps, concatenated → dropout → linear.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: float,
        stages: Sequence[str],
        places: Mapping[str, Shape],
        masks: MaskControl = "trained",
    ) -> None:
        super().__init__(masks)
        self._stages, self._last = tuple(stages), list(places)[-1]
        channels = {stage: places[stage][0] for stage in stages}
        queries = {key_of(stage): nn.Linear(in_channels, count, bias=False) for stage, count in channels.items()}
        self.queries = nn.ModuleDict(queries)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(sum(channels.values()), num_classes)
        self.keep_untrained()

    @property
    def reads(self) -> tuple[str, ...]:
        """Return the places whose maps `forward` gets, the last one always."""
        return (*(stage for stage in self._stages if stage != self._last), self._last)

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the queries."""
        return self.queries.parameters()

    def forward(self, maps: Mapping[str, torch.Tensor]) -> ModelOutput:
        """Return the logits, the last place's mask (B, 1, H, W) if it is among the stages, and those of the others."""
        global_BC = maps[self._last].mean(dim=(2, 3))
        masks, pooled = {}, []
        for stage in self._stages:
            map_BCHW = maps[stage]
            mask_B1HW = self._mask(map_BCHW, self.queries[key_of(stage)](global_BC))
            pooled.append(masked_pool(map_BCHW, self.controlled(mask_B1HW)).squeeze(1))
            if (shown := self.shown(mask_B1HW)) is not None:
                masks[stage] = shown
        logits_BK = self.classifier(self.dropout(torch.cat(pooled, dim=1)))
        return ModelOutput(logits_BK, masks.pop(self._last, None), logits_BK.new_zeros(()), masks or None)

    def _mask(self, map_BCHW: torch.Tensor, query_BC: torch.Tensor) -> torch.Tensor:
        channels = map_BCHW.shape[1]
        scale_B11 = (map_BCHW.square().mean(dim=(1, 2, 3)) * channels + 1e-5).rsqrt()[:, None, None]
        scores_BHW = torch.einsum("bchw,bc->bhw", map_BCHW, query_BC) * scale_B11
        return softmax_masks(scores_BHW.unsqueeze(1))
