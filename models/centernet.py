"""CenterNet (Zhou et al. 2019) on any timm backbone: cells as peaks of a heatmap at a quarter of the image's size.

`centernet_<timm>` is the published network of the RIVA system (ResNet-34/50/101): the last feature map, three
deconvolutions, two heads. `centernet_fpn_<timm>` also adds the backbone's finer maps on the way up, which small cells
(platelets) need: at stride 32 a cell of 30 pixels is one feature.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError
from losses.heatmap_focal import HeatmapFocal

STRIDE, DEEPEST = 4, 32  # pixels of the image a pixel of the heatmap, and one of the backbone's last map
WIDTHS = (256, 128, 64)  # channels of the neck at strides 16, 8 and 4
OVERLAP = 0.7  # a peak shifted by the gaussian's radius still overlaps its box by about this IoU
RARE = -2.19  # first bias of the heatmap: sigmoid .1, because nearly no pixel is a centre
UNIT = 32.0  # pixels; a size of exp(0)
MOST = 8.0  # exp(8) x UNIT pixels is larger than any image


class CenterNet(nn.Module):
    """Images of 0..255 in; losses or boxes out. See `centernet` for what the arguments mean."""

    def __init__(self, backbone: nn.Module, num_classes: int, in_channels: int, mean: Sequence[float],
                 std: Sequence[float], box_size: float | None, skips: bool, top_k: int, threshold: float):  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.box_size, self.top_k, self.threshold = box_size, top_k, threshold
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)
        deepest, finer = feature_channels(backbone, in_channels, skips)
        self.neck = nn.ModuleList(map(up_block, (deepest, *WIDTHS[:-1]), WIDTHS))
        self.skips = nn.ModuleList(map(lateral, finer, WIDTHS)) if skips else None
        self.heatmap = head(num_classes)
        self.offset = head(2)
        self.size = head(2) if box_size is None else None
        nn.init.constant_(self.heatmap[-1].bias, RARE)
        self.criterion = HeatmapFocal()
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None = None
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """images (N, C, H, W), uint8 or float in 0..255, of any size; targets: N dicts of "boxes" (n, 4) x1, y1, x2, y2
        in pixels and "labels" (n,) from 0; n may be 0. Boxes without area or with their centre outside are passed over.

        Training: the losses "heatmap", "offset" and, unless the size is fixed, "size", to be added up. Evaluation: N
        dicts of "boxes" (m, 4) in pixels, not clipped to the image, "scores" (m,), highest first, and "labels" (m,).
        """
        heatmap, offset, size = self.maps(images)
        if self.training:
            return self.losses(heatmap, offset, size, targets)
        found = decode(heatmap, offset, size, self.box_size, self.top_k)
        keep = [one["scores"] > self.threshold for one in found]
        return [{key: value[kept] for key, value in one.items()} for one, kept in zip(found, keep, strict=True)]

    def maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Logits (N, K, h, w), offsets (N, 2, h, w) and log sizes (N, 2, h, w), h = ceil(H / 4); all float32."""
        height, width = images.shape[2:]
        images = images.to(dtype=torch.float32, memory_format=torch.channels_last)
        images = functional.pad((images - self.mean) / self.std, (0, -width % DEEPEST, 0, -height % DEEPEST))
        deepest, finer = features(self.backbone, images, self.skips is not None)
        x = deepest
        for step, block in enumerate(self.neck):
            x = block(x)
            if self.skips is not None:
                x = x + self.skips[step](finer[step])
        rows, columns = math.ceil(height / STRIDE), math.ceil(width / STRIDE)  # what lies on the padding goes
        heads = (self.heatmap, self.offset, self.size)
        return tuple(None if head is None else head(x)[..., :rows, :columns].float() for head in heads)

    def losses(self, heatmap, offset, size, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Focal loss of the heatmap, L1 of the offsets and of the log sizes at the centres' pixels."""
        centres = find_centres(targets, *heatmap.shape[2:])
        sides = centres.size if self.box_size is None else torch.full_like(centres.size, self.box_size / STRIDE)
        truth = draw_heatmap(heatmap.shape, centres, gaussian_radius(sides))
        at = centres.image, slice(None), centres.row, centres.column
        losses = {"heatmap": self.criterion(heatmap, truth), "offset": mean_l1(offset[at], centres.offset)}
        if size is not None:
            losses["size"] = mean_l1(size[at], (centres.size * STRIDE / UNIT).log())
        return losses


def centernet(
    name: str,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    box_size: float | None = None,
    skips: bool = False,
    top_k: int = 500,
    threshold: float = 0.001,
    **options,
) -> CenterNet:
    """A CenterNet without trained weights; `model.backbone` is the timm network, which may learn slower.

    name: a timm network whose last map has stride 32. num_classes: heatmaps, 1 to find cells of any kind.
    mean, std: of pixels in 0..1, one number a channel. box_size: the side of every box in input pixels, as RIVA's 100;
    None learns width and height (L1 of their logarithms: an error of a tenth counts alike for platelets and for white
    cells). skips: add the backbone's maps of strides 16, 8 and 4 to the neck. top_k: at most so many boxes an image,
    those with a score above threshold. options: for timm. UserError when the network has no such maps.
    """
    try:
        backbone = timm.create_model(name, num_classes=0, global_pool="", in_chans=in_channels, **options)
        if isinstance(getattr(backbone, "head", None), nn.Module):
            backbone.head.requires_grad_(False)  # a norm of the classifier, which is not called
        return CenterNet(backbone, num_classes, in_channels, mean, std, box_size, skips, top_k, threshold)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"--arch: {name} cannot be a CenterNet's backbone ({error}); it needs a convolutional network of timm with "
            "a last map of stride 32, such as resnet34, tf_efficientnet_lite0 or convnext_tiny"
        ) from error


def features(backbone: nn.Module, images: torch.Tensor, skips: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A timm network's last map and, if asked for, its last maps of strides 16, 8 and 4, in this order."""
    if not skips:
        return backbone.forward_features(images), []
    deepest, stages = backbone.forward_intermediates(images)
    by_stride = {images.shape[-1] // stage.shape[-1]: stage for stage in stages}
    return deepest, [by_stride[stride] for stride in (16, 8, 4)]


@torch.no_grad()
def feature_channels(backbone: nn.Module, in_channels: int, skips: bool) -> tuple[int, list[int]]:
    """The channels of the maps that `features` gives, by trying; ValueError when a map is not there."""
    side = 2 * DEEPEST
    training = backbone.training
    try:
        deepest, finer = features(backbone.eval(), torch.zeros(1, in_channels, side, side), skips)
    except KeyError as error:
        raise ValueError(f"it has no map of stride {error}") from error
    finally:
        backbone.train(training)
    if deepest.ndim != 4 or deepest.shape[2:] != (2, 2):
        raise ValueError(f"its last map has the shape {tuple(deepest.shape[1:])} for an image of {side} pixels")
    return deepest.shape[1], [one.shape[1] for one in finer]


def up_block(channels: int, width: int) -> nn.Sequential:
    """Twice the size by a deconvolution."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def lateral(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))


def head(channels: int) -> nn.Sequential:
    width = WIDTHS[-1]
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, channels, 1),
    )


class Centres(NamedTuple):
    """The cells of a batch on the heatmap: image, label, row, column (n,) int64; offset, size (n, 2) as x, y in pixels
    of the heatmap, the offset from the pixel's upper left corner in 0..1.
    """

    image: torch.Tensor
    label: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    offset: torch.Tensor
    size: torch.Tensor


def find_centres(targets: list[dict[str, torch.Tensor]], rows: int, columns: int) -> Centres:
    """The cells that have an area and their centre on a heatmap of rows x columns."""
    boxes = torch.cat([target["boxes"].reshape(-1, 4) for target in targets]).float() / STRIDE
    label = torch.cat([target["labels"].reshape(-1) for target in targets]).long()
    counts = torch.tensor([len(target["boxes"]) for target in targets], device=boxes.device)
    image = torch.arange(len(targets), device=boxes.device).repeat_interleave(counts)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    limits = torch.tensor([columns, rows], device=boxes.device)
    good = ((centre >= 0) & (centre < limits) & (size > 0)).all(1)
    pixel = centre.floor()
    column, row = pixel.long().unbind(1)
    return Centres(*(values[good] for values in (image, label, row, column, centre - pixel, size)))


def gaussian_radius(size: torch.Tensor) -> torch.Tensor:
    """The radius (n,), whole pixels, of the gaussian of boxes of `size` (n, 2), both in pixels of the heatmap.

    As CenterNet's code has it: of its three cases this one is always the smallest. 25 x 25 gives 6.
    """
    total, area = size.sum(1), size.prod(1)
    root = ((OVERLAP * total) ** 2 + 4 * OVERLAP * (1 - OVERLAP) * area).sqrt()
    return (root - OVERLAP * total).clamp(min=0).floor().long()


def draw_heatmap(shape: Sequence[int], centres: Centres, radius: torch.Tensor) -> torch.Tensor:
    """Gaussians of 1 at the centres, sigma = (2 radius + 1) / 6, cut off beyond radius in x and in y; where they meet,
    the higher value. shape: N, K, h, w. Every gaussian is one row of values that are scattered onto the flat map.
    """
    images, classes, rows, columns = shape
    flat = torch.zeros(images * classes * rows * columns, device=radius.device)
    most = int(radius.max()) if len(radius) else 0
    reach = torch.arange(-most, most + 1, device=radius.device)
    y, x = (part.reshape(1, -1) for part in torch.meshgrid(reach, reach, indexing="ij"))
    r = radius[:, None]
    row, column = centres.row[:, None] + y, centres.column[:, None] + x
    seen = (y.abs() <= r) & (x.abs() <= r) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    value = torch.exp(-(x**2 + y**2) / (2 * ((2 * r + 1) / 6) ** 2))
    index = ((centres.image * classes + centres.label)[:, None] * rows + row) * columns + column
    return flat.scatter_reduce_(0, index[seen], value[seen], "amax").view(*shape)


def mean_l1(values: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean absolute error; 0, but still differentiable, where there is nothing to compare."""
    return (values - truth).abs().sum() / max(values.numel(), 1)


def decode(
    heatmap: torch.Tensor, offset: torch.Tensor, size: torch.Tensor | None, box_size: float | None, top_k: int
) -> list[dict[str, torch.Tensor]]:
    """The peaks (no neighbour of the 3 x 3 is higher) of each image's heatmap logits as boxes in input pixels, the
    top_k highest, highest first. size: log sizes, or None where every box has sides of box_size.
    """
    _, _, rows, columns = heatmap.shape
    scores = heatmap.sigmoid()
    peaks = scores * (highest_near(scores) == scores)
    scores, index = peaks.flatten(1).topk(min(top_k, peaks[0].numel()))
    label, pixel = index // (rows * columns), index % (rows * columns)
    at = pixel[:, None].expand(-1, 2, -1)
    corner = torch.stack([pixel % columns, pixel // columns], dim=1)
    centre = (corner + offset.flatten(2).gather(2, at)) * STRIDE
    if size is None:
        half = torch.full_like(centre, box_size / 2)
    else:
        half = size.flatten(2).gather(2, at).clamp(max=MOST).exp() * UNIT / 2
    boxes = torch.cat([centre - half, centre + half], dim=1).mT
    return [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(boxes, scores, label, strict=True)]


def highest_near(values: torch.Tensor) -> torch.Tensor:
    """The highest of the 3 x 3 about each of values (..., h, w) from 0 on; max_pool2d takes ten times as long."""
    padded = functional.pad(values, (1, 1, 1, 1))
    rows = torch.maximum(torch.maximum(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return torch.maximum(torch.maximum(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])
