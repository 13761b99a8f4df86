"""Two branches of one network, whole image and single cells, after HPA's 1st place (bestfitting's FCAN)."""

import torch

from models.bag import BagOfCells
from models.dropout import pooled


class DuoBranch(BagOfCells):
    """Whole images and some of their cells in. Cells are judged by their own features and as a bag (see BagOfCells);
    the image by the features of both.
    """

    def forward(self, images, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """As in BagOfCells, but "probs" of images with their cells are the whole images'."""
        out = super().forward(images, targets)
        return out | {"probs": out["image_probs"]} if "image_probs" in out else out

    def look(self, images: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """images: {"images": (N, C, H, W), "cells": (M, C, H, W) crops, image after image, "counts": (N,)}."""
        both = torch.cat([images["images"], images["cells"]])
        features = pooled(self.net.features(self.normalised(both)))
        whole, cells = features[: len(images["images"])], features[len(images["images"]) :]
        return cells, images["counts"], merge(whole, cells, images["counts"])


def merge(whole: torch.Tensor, cells: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The pooled features of images (N, 2C) with those of their cells (M, 2C): (N, 2C).

    Of the means (the first C) the image's and the mean of its cells' count half each; of the maxima the highest counts.
    """
    image = torch.arange(len(whole), device=whole.device).repeat_interleave(counts)
    (mean, highest), (cell_mean, cell_highest) = whole.chunk(2, dim=1), cells.chunk(2, dim=1)
    mean = (mean + torch.zeros_like(mean).index_add(0, image, cell_mean) / counts[:, None]) / 2
    return torch.cat(
        [mean, highest.scatter_reduce(0, image[:, None].expand_as(cell_highest), cell_highest, "amax")], dim=1
    )
