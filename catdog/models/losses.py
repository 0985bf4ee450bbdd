"""The loss of masks that overlap."""

import torch


def divergence_loss(masks_BMHW: torch.Tensor, by_area: bool = False) -> torch.Tensor:
    """Return how much the masks of an image overlap, as a scalar ≥ 0.

    Each mask (B, M, H, W) is flattened and divided by (its maximum + 0.01). All M×M inner products except
    the diagonal are squared and averaged over the batch and all M² entries (after Zhao et al. 2017, DVAN). Grows with
    the square of H·W: about 221 at the start for four 7×7 masks. With `by_area`, inner products are divided by H·W,
    which makes the loss independent of the map's size. Computed in float32 even under autocast.
    """
    with torch.autocast(masks_BMHW.device.type, enabled=False):
        flat_BMP = masks_BMHW.float().flatten(2)
        scaled_BMP = flat_BMP / (flat_BMP.amax(dim=2, keepdim=True) + 0.01)
        products_BMM = scaled_BMP @ scaled_BMP.transpose(1, 2)
        if by_area:
            products_BMM = products_BMM / scaled_BMP.shape[2]
        diagonal_BM = torch.diagonal(products_BMM, dim1=1, dim2=2)
        return (products_BMM.square().sum() - diagonal_BM.square().sum()) / products_BMM.numel()
