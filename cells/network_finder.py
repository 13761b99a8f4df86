"""Cells found by networks that train.py trained: one or several checkpoints, in one or several views, fused."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from augment.scenes import Scene, fitted, letterbox
from augment.views import VIEWS, apply_view
from cells.box_fusion import fuse, merge_centres
from cells.boxes import nms, top
from cells.crops import to_uint8
from cells.finders import Found
from common.errors import UserError, choose
from competitions import Competition
from engine.checkpoints import load_model, read
from engine.scenes import to_pixels
from models import build_detector, task_of
from tasks.detect import detector_options

MULTIPLE = 32  # what networks need of an input's sides
FUSIONS = ("wbf", "centre", "nms")


class Fusing(NamedTuple):
    """How the finds of several networks and views become one set of cells; the flags of segment.py."""

    how: str  # a name of FUSIONS
    iou: float  # boxes of one cell overlap more than this
    distance: float  # pixels between the centres of one cell, for the fusion by centres
    threshold: float  # finds with a lower score are left out
    nms_iou: float  # within one network and view: of two boxes that overlap more, the better one stays
    most: int  # cells an image, those with the highest scores


class NetworkFinder:
    """Checkpoints of detectors as a finder; images are read at the size that each was trained at."""

    def __init__(
        self, paths: Sequence[str], competition: Competition, views: Sequence[str], fusing: Fusing, fabric: Fabric
    ):
        choose(dict.fromkeys(FUSIONS), fusing.how, "--fuse")
        self.views, self.fusing, self.fabric = views, fusing, fabric
        self.box_size = competition.BOX_SIZE
        self.networks = [open_network(path, competition, fabric) for path in paths]

    def predict(self, images: list[np.ndarray]) -> list[Found]:
        """The fused cells of each image, (H, W, C)."""
        parts = [self._finds(model, settings, images) for model, settings in self.networks]
        finds = [[find for part in parts for find in part[index]] for index in range(len(images))]
        return [self._fused(own, image) for own, image in zip(finds, images, strict=True)]

    @staticmethod
    def label(image: np.ndarray, prediction: Found) -> Found:
        """The prediction is the cells already."""
        return prediction

    def _finds(self, model: nn.Module, settings: dict, images: list[np.ndarray]) -> list[list[dict]]:
        """What one network finds in each image, a dict of boxes in the image's pixels, scores, labels for each view."""
        found = [[] for _ in images]
        by_shape: dict[tuple, list[int]] = {}
        for index, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(index)
        for shape, members in by_shape.items():
            new = fitted(*shape[:2], settings["img_size"])
            canvas = tuple(-(-side // MULTIPLE) * MULTIPLE for side in new)
            batch = torch.stack([to_input(images[index], canvas) for index in members]).to(self.fabric.device)
            for view in self.views:
                for index, one in zip(members, predict_view(model, batch, view), strict=True):
                    found[index].append(one | {"boxes": to_pixels(one["boxes"], shape[:2], new)})
        return found

    def _fused(self, finds: list[dict], image: np.ndarray) -> Found:
        boxes, scores, labels = fuse_finds([self._good(one) for one in finds], self.fusing)
        best = top(scores, np.zeros(len(scores), np.int64), self.fusing.most)
        boxes, scores, labels = boxes[best], scores[best], labels[best]
        if self.box_size is None:
            height, width = image.shape[:2]
            boxes = boxes.clip(0, [width, height, width, height])
        return Found(boxes=boxes, scores=scores, labels=labels)

    def _good(self, find: dict) -> dict:
        """The finds above the threshold that have an area and are not nearly the same as a better one."""
        sides = find["boxes"][:, 2:] - find["boxes"][:, :2]
        keep = np.flatnonzero((find["scores"] >= self.fusing.threshold) & (sides > 0).all(1))
        kept = nms(find["boxes"][keep], find["scores"][keep], self.fusing.nms_iou, find["labels"][keep])
        return {name: values[keep[kept]] for name, values in find.items()}


def fuse_finds(finds: list[dict], fusing: Fusing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), scores (n,) and classes (n,) of an image from those of several networks and views, by class."""
    boxes, scores, labels = (np.concatenate([one[name] for one in finds]) for name in ("boxes", "scores", "labels"))
    labels = labels.astype(np.int64)
    if len(finds) == 1:
        return boxes, scores, labels
    if fusing.how == "nms":
        kept = nms(boxes, scores, fusing.iou, labels)
        return boxes[kept], scores[kept], labels[kept]
    models = np.repeat(np.arange(len(finds)), [len(one["scores"]) for one in finds])
    function, limit = (fuse, fusing.iou) if fusing.how == "wbf" else (merge_centres, fusing.distance)
    fused = function(boxes, scores, models, np.ones(len(finds)), limit, labels)
    return fused.boxes, fused.scores, fused.groups


def open_network(path: str, competition: Competition, fabric: Fabric) -> tuple[nn.Module, dict]:
    """A detector of train.py with its settings."""
    checkpoint = read(path, "--weights")
    settings = checkpoint["settings"]
    if task_of(settings["arch"]) != "detect":
        raise UserError(f"--weights {path} is a {settings['arch']}, which finds no cells; a detector is right")
    for name, right in (("in_channels", len(competition.CHANNELS)), ("num_classes", len(competition.CLASSES))):
        if settings[name] != right and not (name == "num_classes" and settings[name] == 1):
            raise UserError(f"--weights {path} was trained with --{name} {settings[name]}, {right} is right here")
    options = detector_options(settings["arch"], settings["img_size"], competition)
    model = build_detector(
        settings["arch"], settings["num_classes"], settings["in_channels"], competition.MEAN, competition.STD, **options
    )
    load_model(model, checkpoint, path, "--weights")
    return fabric.setup(model).eval(), settings


def to_input(image: np.ndarray, canvas: tuple[int, int]) -> torch.Tensor:
    """An image (H, W, C) letterboxed into `canvas` (height, width): uint8 (C, height, width)."""
    nothing = Scene(to_uint8(image), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    return torch.from_numpy(np.ascontiguousarray(letterbox(nothing, canvas).image.transpose(2, 0, 1)))


@torch.inference_mode()
def predict_view(model: nn.Module, images: torch.Tensor, view: str) -> list[dict[str, np.ndarray]]:
    """What a detector finds in a view of images (N, C, H, W), with the boxes on the images as they are."""
    found = []
    for one in model(apply_view(images, view)):
        values = {name: one[name].float().cpu().numpy() for name in ("boxes", "scores", "labels")}
        values["boxes"] = undo_boxes(values["boxes"], view, images.shape[-2:])
        found.append(values)
    return found


def undo_boxes(boxes: np.ndarray, view: str, shape: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) on a view of an image of `shape` (height, width), on the image itself."""
    flipud, fliplr, transpose = VIEWS[view]
    height, width = shape
    if transpose:
        boxes = boxes[:, [1, 0, 3, 2]]
    x1, y1, x2, y2 = boxes.T
    if fliplr:
        x1, x2 = width - x2, width - x1
    if flipud:
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)
