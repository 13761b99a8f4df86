"""Every cell of an image from one pass of the network: its features are pooled from the map by its mask.

After HPA's 6th place (scumed), which multiplied the feature map by the masks before pooling.
"""

import torch

from common.errors import UserError
from models.bag import BagOfCells
from models.dropout import pooled


class MaskPooled(BagOfCells):
    """Whole images with the masks of their cells in; the cells of an image are a bag. See BagOfCells."""

    def look(self, images: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """images: {"images": (N, C, H, W), "labels": (N, H, W) label images, the cells of each counted from 1}."""
        maps = self.net.features(self.normalised(images["images"]))
        if maps.shape[2] > 1 == maps.shape[3]:
            raise UserError("--arch pooled_<timm> needs a map of rows and columns, which this transformer has not")
        labels = images["labels"].long()
        counts = labels.flatten(1).amax(1)
        return pool_masks(maps, cover(labels, counts, *maps.shape[2:]), counts), counts, pooled(maps)


def cover(labels: torch.Tensor, counts: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The share of each pixel of a map (height, width) that each cell covers: (M, height x width), image after image.

    labels (N, H, W): 0 = no cell, else 1 to counts[image]. A pixel of the label image belongs to that of the map in
    which its centre lies, so no cell is too small to be seen.
    """
    device = labels.device
    rows, columns = (
        (2 * torch.arange(size, device=device) + 1) * steps // (2 * size)
        for size, steps in zip(labels.shape[1:], (height, width), strict=True)
    )
    places = (rows[:, None] * width + columns).expand_as(labels)
    first = counts.cumsum(0) - counts - 1
    cells = labels + first[:, None, None]
    inside, total = labels > 0, int(counts.sum())
    pixels = torch.bincount((cells * height * width + places)[inside], minlength=total * height * width)
    whole = torch.bincount(places[0].flatten(), minlength=height * width).clamp(min=1)
    return pixels.view(total, -1) / whole


def pool_masks(maps: torch.Tensor, shares: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean and maximum of maps (N, C, h, w) within each cell, side by side: (M, 2C).

    shares (M, h x w) as of `cover`: the weights of the mean. The maximum is taken where the cell covers at least half
    as much of a map's pixel as it does anywhere, so that a small cell is not taken for its neighbour.
    """
    maps = maps.float().flatten(2).transpose(1, 2)
    image = torch.arange(len(maps), device=maps.device).repeat_interleave(counts)
    cell, place = shares.nonzero(as_tuple=True)
    values, weights = maps[image[cell], place], shares[cell, place]
    empty = maps.new_zeros(len(shares), maps.shape[2])
    mean = empty.index_add(0, cell, values * weights[:, None]) / shares.sum(1, keepdim=True)
    strong = weights >= shares.amax(1)[cell] / 2
    rows = cell[strong, None].expand(-1, maps.shape[2])
    highest = empty.scatter_reduce(0, rows, values[strong], "amax", include_self=False)
    return torch.cat([mean, highest], dim=1)
