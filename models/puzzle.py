"""PuzzleCAM (Jo & Yu 2021): class activation maps that are the same for an image and for its tiles, and what they say
of the image's cells.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError
from models.classifier import Classifier
from models.dropout import FeaturesAndHead, backbone

CAM_POOLS = ("mean", "max")


class CamHead(nn.Module):
    """Feature map (N, C, h, w) -> class activation maps by a 1x1 convolution; their means are the logits."""

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        self.cams = nn.Conv2d(features, num_classes, 1, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.cams(maps).mean((2, 3))


def cam_network(name: str, num_classes: int, in_channels: int, **options) -> FeaturesAndHead:
    """The timm network `name` with activation maps for a head; options: further ones of timm.create_model."""
    core = backbone(name, in_channels, **options)
    return FeaturesAndHead(core, CamHead(core.num_features, num_classes))


class PuzzleCAM(Classifier):
    """A classifier by activation maps, which also says where: of whole images or, with label images, of their cells.

    net: of `cam_network`. puzzle: the image's quarters go through the network as well. Their maps, put together, shall
    give the same labels ("tile_loss") and be the same maps ("reconstruction": alpha x the mean of |full - merged|, 0 on
    classes that the image has not). alpha grows linearly from 0 over the first `ramp` batches (published: 4.0, half of
    the training). cam_pool: how a cell's pixels are pooled, see `cell_scores`.
    """

    def __init__(
        self, net: FeaturesAndHead, criterion: nn.Module, mean: Sequence[float], std: Sequence[float], *,
        puzzle: bool = True, alpha: float = 4.0, ramp: int = 0, cam_pool: str = "mean",
    ):  # fmt: skip
        super().__init__(net, criterion, mean, std)
        self.puzzle, self.alpha, self.ramp, self.cam_pool = puzzle, alpha, ramp, cam_pool
        self.register_buffer("seen", torch.tensor(0))  # batches; saved, so that a resumed run goes on with its alpha

    def forward(self, images, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """images (N, C, H, W), or {"images": those, "labels": (N, H, W)}, the M cells of each image counted from 1.

        In evaluation "probs" (N, K), with labels those of the cells (M, K), and "cams" (N, K, h, w).
        """
        labels = None if isinstance(images, torch.Tensor) else images["labels"]
        pixels = self.normalised(images if labels is None else images["images"])
        cams = self.net.head.cams(self.net.features(pixels))
        logits = cams.mean((2, 3))
        out = {} if targets is None else {"loss": self.criterion(logits, targets)}
        if self.training:
            return out | (self.puzzle_losses(pixels, cams, targets) if self.puzzle else {})
        probs, cams = self.probabilities(logits), cams.float()
        if labels is not None:
            triples = zip(cams, labels, probs, strict=True)
            probs = torch.cat([cell_scores(*triple, pool=self.cam_pool) for triple in triples])
        return out | {"probs": probs, "cams": cams}

    def puzzle_losses(self, pixels: torch.Tensor, cams: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses that tie the quarters to the whole."""
        merged = join(self.net.head.cams(self.net.features(quarters(pixels))))
        if merged.shape != cams.shape:
            merged = functional.interpolate(merged, cams.shape[2:], mode="bilinear")
        difference = (cams.float() - merged.float()).abs() * targets.nan_to_num()[:, :, None, None]
        alpha = self.alpha * (self.seen / self.ramp).clamp(max=1) if self.ramp else self.alpha
        self.seen += 1
        return {"tile_loss": self.criterion(merged.mean((2, 3)), targets), "reconstruction": alpha * difference.mean()}


def quarters(images: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> the upper left, upper right, lower left and lower right of each image: (4N, C, H/2, W/2)."""
    count, channels, height, width = images.shape
    if height % 2 or width % 2:
        raise UserError(f"--puzzle 1 halves images of {width} x {height} pixels: --crop_size must be even")
    tiles = images.reshape(count, channels, 2, height // 2, 2, width // 2).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(4 * count, channels, height // 2, width // 2)


def join(tiles: torch.Tensor) -> torch.Tensor:
    """The inverse of `quarters`."""
    count, channels, height, width = tiles.shape
    tiles = tiles.reshape(count // 4, 2, 2, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(count // 4, channels, 2 * height, 2 * width)


def cell_scores(cams: torch.Tensor, labels: torch.Tensor, probs: torch.Tensor, pool: str = "mean") -> torch.Tensor:
    """What an image's activation maps say of its cells: (M, K) in 0..1.

    cams (K, h, w), of one view that is undone or of several, averaged; labels (H, W): the cells, counted from 1; probs
    (K,) of the image. A cell scores the image's probability times the pool (mean or max) of the map within the cell,
    where the map is stretched to the label image, zero where it is negative, and 1 at its highest.
    """
    maps = functional.interpolate(cams.clamp(min=0)[None], labels.shape, mode="bilinear")[0].flatten(1)
    maps = maps / maps.amax(1, keepdim=True).clamp(min=1e-12)
    labels = labels.flatten().long()
    scores = maps.new_zeros(len(maps), int(labels.max()) + 1)
    if pool == "max":
        scores.scatter_reduce_(1, labels.expand_as(maps), maps, "amax")
    else:
        scores.index_add_(1, labels, maps)
        scores /= labels.bincount()
    return scores[:, 1:].T * probs
