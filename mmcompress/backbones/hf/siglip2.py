"""What SigLIP 2 reads: patches, which of them are padding, and the grid that they stand in.

"SigLIP 2", Tschannen et al. 2025, arXiv:2502.14786 (NaFlex): a picture keeps its aspect ratio
and has as many patches as fit.
"""

import torch
from torch import Tensor


def packed(pixel_values: Tensor, pixel_attention_mask: Tensor, spatial_shapes: Tensor) -> Tensor:
    """SigLIP 2's three inputs as one tensor: behind each patch the grid that it stands in.

    Args:
        pixel_values: (B, N, D).
        pixel_attention_mask: (B, N), 0 where there is padding.
        spatial_shapes: (B, 2), rows and columns of patches.
    Returns:
        (B, N, D + 2) float32; the last two values are 0 where there is padding.

    Example:
        >>> packed(torch.ones(1, 2, 1), torch.tensor([[1, 0]]), torch.tensor([[1, 1]]))
        tensor([[[1., 1., 1.],
                 [1., 0., 0.]]])
    """
    grids = spatial_shapes[:, None] * pixel_attention_mask[..., None]  # B N 2
    return torch.cat([pixel_values.float(), grids.float()], dim=-1)


def unpacked(pixels: Tensor) -> dict[str, Tensor]:
    """The counterpart of `packed`: arguments of SigLIP 2's image tower."""
    values, grids = pixels[..., :-2], pixels[..., -2:].long()
    mask = (grids[..., 0] > 0).long()
    return {"pixel_values": values, "pixel_attention_mask": mask, "spatial_shapes": grids[:, 0]}


def patches_of(pixels: Tensor, size: int) -> dict[str, Tensor]:
    """Square images as SigLIP 2 reads them, patches row by row, none of them padding.

    Args:
        pixels: (B, 3, S, S).
        size: of a patch, in pixels.
    """
    side = pixels.shape[-1] // size
    patches = pixels.unflatten(-1, (side, size)).unflatten(-3, (side, size))  # B C h p w q
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # B hw pqC
    shapes = torch.full((pixels.shape[0], 2), side, device=pixels.device)
    mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=pixels.device)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
