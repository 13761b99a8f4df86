"""Mask R-CNN (He et al. 2017) on the maps of any timm backbone, with torchvision's pyramid, proposals and heads.

torchvision's own input step, which scales and normalises images, is left out: images come at their size and are
normalised once, here. Evaluation gives each mask on its box alone (28 x 28): 600 whole masks of 704 x 520 pixels would
be a gigabyte.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN as Parts
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from models.pyramid import DEEPEST, feature_maps, make_backbone

STRIDES = (4, 8, 16, 32)
RATIOS = (0.5, 1.0, 2.0)
GROUPS = 16  # of channels that are normalised together in the pyramid
POOLED = 7  # the side of the pooled features that the box's head sees


class MaskRCNN(nn.Module):
    """Images of 0..255 in; losses or boxes with masks out. See `mask_rcnn` for what the arguments mean."""

    def __init__(self, backbone: nn.Module, widths: Sequence[int], channels: int, parts: Parts,
                 mean: Sequence[float], std: Sequence[float]):  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)
        # The maps of many backbones (EfficientNet, ConvNeXt) come without normalisation, far too large for the heads.
        norm = partial(nn.GroupNorm, GROUPS)
        self.pyramid = FeaturePyramidNetwork(list(widths), channels, LastLevelMaxPool(), norm)
        self.rpn, self.roi_heads = parts.rpn, parts.roi_heads
        last = self.roi_heads.mask_predictor.mask_fcn_logits  # torchvision's start gives logits of +-10
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.to(memory_format=torch.channels_last)  # a tenth faster on a CPU

    def forward(
        self, images: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None = None
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """images (N, C, H, W), uint8 or float in 0..255, of any size; targets: N dicts of "boxes" (n, 4) x1, y1, x2, y2
        in pixels, "labels" (n,) from 0 and "masks" (n, H, W) of 0 and 1; n may be 0. Boxes without area are passed by.

        Training: the losses "objectness", "proposals", "class", "box" and "mask", to be added up. Evaluation: N dicts
        of "boxes" (m, 4) inside the image, "scores" (m,), highest first, "labels" (m,) and "masks" (m, 28, 28), the
        probabilities on the boxes, float32 (see cells.found_masks for the pixels).
        """
        height, width = images.shape[2:]
        images = ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        images = functional.pad(images, (0, -width % DEEPEST, 0, -height % DEEPEST))
        maps = feature_maps(self.backbone, images)
        maps = self.pyramid({str(level): maps[stride] for level, stride in enumerate(STRIDES)})
        sizes = [(height, width)] * len(images)
        targets = [to_parts(target) for target in targets] if self.training else None
        # Not in half precision: torchvision computes boxes in that of the heads, and float16 knows no third of a pixel.
        with torch.autocast(images.device.type, enabled=False):
            maps = {name: one.float() for name, one in maps.items()}
            proposals, first = self.rpn(ImageList(images, sizes), maps, targets)
            found, second = self.roi_heads(maps, proposals, sizes, targets)
        if self.training:
            return {
                "objectness": first["loss_objectness"], "proposals": first["loss_rpn_box_reg"],
                "class": second["loss_classifier"], "box": second["loss_box_reg"], "mask": second["loss_mask"],
            }  # fmt: skip
        return [from_parts(one) for one in found]


def to_parts(target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A target as torchvision wants it, where the label 0 is the background; without boxes that have no area."""
    good = (target["boxes"][:, 2:] > target["boxes"][:, :2]).all(1)
    own = {name: target[name][good] for name in ("boxes", "labels", "masks")}
    return own | {"labels": own["labels"] + 1}


def from_parts(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's finds with labels from 0, highest score first."""
    order = found["scores"].argsort(descending=True, stable=True)
    return {
        "boxes": found["boxes"].float()[order], "scores": found["scores"].float()[order],
        "labels": found["labels"][order] - 1, "masks": found["masks"][order, 0].float(),
    }  # fmt: skip


def mask_rcnn(
    name: str,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    most: int = 600,
    threshold: float = 0.05,
    nms_iou: float = 0.5,
    sizes: Sequence[float] = (8, 16, 32, 64, 128),
    channels: int = 256,
    representation: int = 1024,
    rois: int = 512,
    **options,
) -> MaskRCNN:
    """A Mask R-CNN without trained weights; `model.backbone` is the timm network, which may learn slower.

    name: a timm network with maps of the strides 4 to 32. num_classes: without the background; 1 finds cells of any
    kind. mean, std: of pixels in 0..1, one number a channel. most: at most so many cells an image, those with a score
    above threshold, each overlapping a better one of its class by an IoU of nms_iou at most. sizes: of the anchors in
    pixels at the strides 4, 8, 16, 32 and 64. channels: of the pyramid and the mask's head; representation: numbers
    that the box's head makes of a cell; rois: boxes an image that the heads learn from; with 128, 256 and 128 it takes
    a CPU a fraction of the time. options: for timm.
    """
    backbone, widths = make_backbone(name, in_channels, STRIDES, **options)
    stand_in = nn.Identity()
    stand_in.out_channels = channels
    parts = Parts(
        stand_in,
        rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * len(sizes)),
        rpn_pre_nms_top_n_test=2000, rpn_post_nms_top_n_test=max(1000, 2 * most),
        box_head=TwoMLPHead(channels * POOLED**2, representation),
        box_predictor=FastRCNNPredictor(representation, num_classes + 1),
        box_score_thresh=threshold, box_nms_thresh=nms_iou, box_detections_per_img=most, box_batch_size_per_image=rois,
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
    )  # fmt: skip
    return MaskRCNN(backbone, [widths[stride] for stride in STRIDES], channels, parts, mean, std)
