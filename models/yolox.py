"""YOLOX (Ge et al. 2021): `yolox_s` and its sisters, with the layers and the SimOTA matching of pixeltable-yolox.

The library's own forward pass of a training step is not used: under mixed precision it decodes boxes in half precision,
it keeps grids from a device that the network has left, empties CUDA's cache after every image, and takes a box whose
numbers add up to nothing for padding. Here the layers run in the precision of the caller and the rest in float32.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cells.boxes import nms, top
from common.errors import choose

# name -> depth and width as parts of yolox_l's; nano's convolutions are split into depthwise and pointwise ones
SIZES = {
    "yolox_nano": (0.33, 0.25), "yolox_tiny": (0.33, 0.375), "yolox_s": (0.33, 0.5), "yolox_m": (0.67, 0.75),
    "yolox_l": (1.0, 1.0), "yolox_x": (1.33, 1.25),
}  # fmt: skip
DEEPEST, GREY = 32, 114.0  # pixels; the value of what is padded
BOX_WEIGHT = 5.0
PRIOR = 0.01  # first score of every place
MOST = 10.0  # exp(10) strides are larger than any image


class YOLOX(nn.Module):
    """Images of 0..255 in; losses or boxes out. See `yolox` for what the arguments mean."""

    def __init__(self, backbone: nn.Module, head: nn.Module, threshold: float, nms_iou: float, top_k: int):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.threshold, self.nms_iou, self.top_k = threshold, nms_iou, top_k
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: torch.Tensor, targets: list[dict[str, torch.Tensor]] | None = None
    ) -> dict[str, torch.Tensor] | list[dict[str, torch.Tensor]]:
        """images (N, C, H, W), uint8 or float in 0..255, RGB where C is 3, of any size; targets: N dicts of "boxes"
        (n, 4) x1, y1, x2, y2 in pixels and "labels" (n,) from 0; n may be 0. Boxes without area or with their centre
        outside are passed over. With "late", true where mosaics have ended, the L1 loss of the boxes counts, too, as
        published.

        Training: the losses "iou", "objectness", "class" (and "l1"), weighted, to be added up. Evaluation: N dicts of
        "boxes" (m, 4) in pixels, not clipped to the image, "scores" (m,), highest first, and "labels" (m,), in the
        CPU's memory.
        """
        height, width = images.shape[2:]
        raw, places = self.raw(images)
        with torch.autocast(raw.device.type, enabled=False):
            if not self.training:
                return self.best(raw, places)
            late = any(one.get("late", False) for one in targets)
            centres = [centred(one, height, width) for one in targets]
            return self.losses(raw, decode(raw, places), places, centres, late)

    def raw(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The heads' float32 output (N, A, 5 + K) at all places: x, y, log width, log height in strides, the logits of
        objectness and of the classes; and the places (A, 3): column, row, stride.
        """
        height, width = images.shape[2:]
        images = images.to(dtype=torch.float32, memory_format=torch.channels_last)
        if images.shape[1] == 3:
            images = images.flip(1)  # the published weights were trained on BGR
        images = functional.pad(images, (0, -width % DEEPEST, 0, -height % DEEPEST), value=GREY)
        head, raw, places = self.head, [], []
        for level, features in enumerate(self.backbone(images)):
            x = head.stems[level](features)
            box, kind = head.reg_convs[level](x), head.cls_convs[level](x)
            maps = head.reg_preds[level](box), head.obj_preds[level](box), head.cls_preds[level](kind)
            raw.append(torch.cat(maps, dim=1).flatten(2).mT.float())
            rows, columns = (torch.arange(side, device=x.device, dtype=torch.float32) for side in x.shape[2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            places.append(torch.stack([x, y, torch.full_like(x, head.strides[level])], dim=2).reshape(-1, 3))
        return torch.cat(raw, dim=1), torch.cat(places)

    def losses(
        self, raw: torch.Tensor, boxes: torch.Tensor, places: torch.Tensor, targets: list[dict[str, torch.Tensor]],
        late: bool,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Sums over the places that are matched to a cell (objectness: over all), divided by their number."""
        matches = [self.match(raw[row], boxes[row], places, target) for row, target in enumerate(targets)]
        mine, truth, labels, overlaps = (torch.cat(parts) for parts in zip(*matches, strict=True))
        mine = mine.view(len(targets), -1)
        count = mine.sum().clamp(min=1)
        wanted = functional.one_hot(labels, raw.shape[2] - 5) * overlaps[:, None]
        kinds, entropy = raw[mine][:, 5:], functional.binary_cross_entropy_with_logits
        losses = {
            "iou": BOX_WEIGHT * self.head.iou_loss(boxes[mine], truth).sum() / count,
            "objectness": entropy(raw[..., 4], mine.float(), reduction="sum") / count,
            "class": entropy(kinds, wanted, reduction="sum") / count,
        }
        if late:
            x, y, stride = places.expand(len(targets), -1, -1)[mine].T
            place = torch.stack([truth[:, 0] / stride - x, truth[:, 1] / stride - y], dim=1)
            wanted = torch.cat([place, (truth[:, 2:] / stride[:, None]).log()], dim=1)
            losses["l1"] = (raw[mine][:, :4] - wanted).abs().sum() / count
        return losses

    def match(
        self, raw: torch.Tensor, boxes: torch.Tensor, places: torch.Tensor, target: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """SimOTA for one image: which places (A,) are matched, and of those m the true boxes (m, 4) as centre and size,
        labels (m,) and overlaps (m,) of what is found there with the truth.
        """
        truth, labels = target["boxes"], target["labels"]
        if not len(truth):
            return torch.zeros(len(raw), dtype=torch.bool, device=raw.device), truth, labels, truth[:, 0]
        x, y, stride = places.T[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the library's spelling of autocast
            found = self.head.get_assignments(
                0, len(truth), truth, labels, boxes, stride, x, y, raw[None, :, 5:], raw[None, :, 4:5]
            )
        labels, mine, overlaps, rows, _ = found
        return mine, truth[rows], labels, overlaps

    def best(self, raw: torch.Tensor, places: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Each image's finds, from `raw`: those above the threshold that no better one of the same class overlaps. Few
        places are above it, and only theirs are decoded, those of all images at once.
        """
        likely = torch.tensor(self.threshold).logit()  # no score is above the objectness
        image, place = (raw[..., 4] > likely).nonzero(as_tuple=True)
        (count, _, width), raw = raw.shape, raw[image, place]
        logits, labels = raw[:, 5:].max(dim=1)
        scores = raw[:, 4].sigmoid() * logits.sigmoid()
        boxes = decode(raw, places[place])
        boxes = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
        found = image, boxes, scores, labels
        image, boxes, scores, labels = (values[scores > self.threshold].detach().cpu().numpy() for values in found)
        keep = nms(boxes, scores, self.nms_iou, image * width + labels)
        keep = keep[top(scores[keep], image[keep], self.top_k)]
        starts = np.searchsorted(image[keep], np.arange(1, count))
        finds = zip(*(np.split(values[keep], starts) for values in (boxes, scores, labels)), strict=True)
        return [dict(zip(("boxes", "scores", "labels"), map(torch.from_numpy, find), strict=True)) for find in finds]


def yolox(
    name: str,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    *,
    iou_loss: str = "giou",
    threshold: float = 0.001,
    nms_iou: float = 0.3,
    top_k: int = 300,
) -> YOLOX:
    """A YOLOX without trained weights, which has the names and shapes of Megvii's files (yolox_s.pth and so on): they
    load as they are, but for the class layers of other class counts and the first layer of other channel counts.

    name: of SIZES. mean, std: not used, YOLOX takes values of 0..255 as they are. iou_loss: "giou" or "iou" (COCO's).
    threshold, nms_iou, top_k: of the boxes given in evaluation. Images of three channels are RGB and become BGR inside,
    which the published weights want.
    """
    # Not at the top: seconds of data loaders and loggers that only this network needs.
    from yolox.models import IouLoss, YoloPafpn, YoloxHead
    from yolox.models.network_blocks import Focus

    depth, width = choose(SIZES, name, "--arch")
    losses = {kind: IouLoss(reduction="none", loss_type=kind) for kind in ("giou", "iou")}
    backbone = YoloPafpn(depth, width, depthwise=name == "yolox_nano")
    if in_channels != 3:
        backbone.backbone.stem = Focus(in_channels, int(64 * width), ksize=3, act="silu")
    head = YoloxHead(num_classes, width, depthwise=name == "yolox_nano")
    head.iou_loss = choose(losses, iou_loss, "iou_loss")
    head.initialize_biases(PRIOR)
    model = YOLOX(backbone, head, threshold, nms_iou, top_k)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps, layer.momentum = 1e-3, 0.03
    return model


def decode(raw: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Boxes (..., A, 4) as centre x, y, width, height in pixels; see `YOLOX.raw`."""
    corner, stride = places[:, :2], places[:, 2:]
    return torch.cat([(raw[..., :2] + corner) * stride, raw[..., 2:4].clamp(max=MOST).exp() * stride], dim=-1)


def centred(target: dict[str, torch.Tensor], height: int, width: int) -> dict[str, torch.Tensor]:
    """The boxes that have an area and their centre in the image, as centre and size."""
    boxes, labels = target["boxes"].reshape(-1, 4).float(), target["labels"].reshape(-1).long()
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    good = ((centre >= 0) & (centre < centre.new_tensor([width, height])) & (size > 0)).all(1)
    return {"boxes": torch.cat([centre, size], dim=1)[good], "labels": labels[good]}
