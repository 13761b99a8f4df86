"""Cells found by networks that train.py trained: one or several checkpoints, in one or several views, fused."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional

import competitions
from augment.views import VIEWS, apply_view, undo_view
from cells.box_fusion import fuse, merge_centres
from cells.boxes import nms, top
from cells.finders import Found
from cells.found_maps import Masks, found_in_maps, label
from cells.found_masks import cut_from_box, frames_of
from cells.instance_fusion import fuse_instances
from cells.instances import scale_for
from cells.pieces import batches, in_image
from cells.tiling import taper
from common.errors import UserError, choose
from competitions import Competition, parse_classes
from engine.checkpoints import load_model, read
from engine.device import enough_memory
from engine.scenes import of_side
from models import build_detector, finds_masks, task_of
from tasks.detect import detector_options

FUSIONS = ("wbf", "centre", "nms")
LOOKS, NEAR = 3, 1.25  # at an image before its cells' size is believed, or until two sizes agree so far


class Fusing(NamedTuple):
    """How the finds of several networks and views become one set of cells; the flags of segment.py."""

    how: str  # a name of FUSIONS
    iou: float  # boxes of one cell overlap more than this
    distance: float  # pixels between the centres of one cell, for the fusion by centres
    threshold: float  # finds with a lower score are left out
    nms_iou: float  # within one network and view: of two boxes that overlap more, the better one stays
    most: int  # cells an image, those with the highest scores


class NetworkFinder:
    """Checkpoints of detectors, or of networks of class maps, as a finder.

    Images are read at the size that each was trained at; with `tile`, in tiles of so many pixels at that size, and
    smaller images at the same scale.
    """

    def __init__(
        self, paths: Sequence[str], competition: Competition, views: Sequence[str], fusing: Fusing, fabric: Fabric,
        tile: int = 0, zooms: Sequence[float] = (1.0,),
    ):  # fmt: skip
        choose(dict.fromkeys(FUSIONS), fusing.how, "--fuse")
        if tile < 0:
            raise UserError(f"--tile {tile} must be a number of pixels, or 0 for whole images")
        self.competition, self.fusing, self.fabric = competition, fusing, fabric
        self.views, self.tile, self.zooms = views, tile, zooms
        self.networks = [open_network(path, competition, fusing.most, fabric) for path in paths]
        kinds = {task_of(settings["arch"]) + "+masks" * finds_masks(settings["arch"]) for _, settings in self.networks}
        if len(kinds) > 1:
            raise UserError("--weights: boxes, masks and class maps cannot be fused; give networks of one kind")
        self.maps = kinds == {"segment"}
        if fusing.how != "wbf" and kinds != {"detect"}:
            raise UserError(f"--fuse {fusing.how} is for boxes; masks and class maps are averaged: wbf is right")
        forms = {(settings["num_classes"], has_depths(settings)) for _, settings in self.networks}
        if len(forms) > 1:
            raise UserError("--weights: networks of different --num_classes or --depths cannot be averaged or fused")
        self.named = all(knows_classes(settings, competition) for _, settings in self.networks)
        depths = has_depths(self.networks[0][1])
        self.label = partial(label, depths=depths, named=self.named, threshold=fusing.threshold)

    @enough_memory("a --tile, or a smaller one, needs less")
    def predict(self, images: list[np.ndarray]) -> list[Found | Masks | np.ndarray]:
        """What the networks say of each image, (H, W, C), in all views together: boxes, masks or class maps."""
        if self.maps:
            maps = mean_maps(self._mapped(*network, images) for network in self.networks)
            if not all(np.isfinite(own).all() for own in maps):
                raise UserError("--weights: a class map is not finite: that network's training failed, or float16 is "
                    "too small for it; with --gpu_id cpu it has float32")  # fmt: skip
            return maps
        parts = [self._finds(model, settings, images) for model, settings in self.networks]
        finds = [[find for part in parts for find in part[index]] for index in range(len(images))]
        return [self._fused(own, image.shape[:2]) for own, image in zip(finds, images, strict=True)]

    def _finds(self, model: nn.Module, settings: dict, images: list[np.ndarray]) -> list[list[dict]]:
        """What one network finds in each image: a dict of boxes in the image's pixels, scores, labels (and masks on the
        boxes) for each zoom and view.
        """
        found = [[[] for _ in range(len(self.zooms) * len(self.views))] for _ in images]
        for first, zoom in enumerate(self.zooms):
            for pieces, batch in batches(images, settings, self.tile, self.fabric.device, zoom):
                for place, view in enumerate(self.views, first * len(self.views)):
                    for piece, one in zip(pieces, predict_view(model, batch, view), strict=True):
                        found[piece.image][place].append(in_image(one, piece, images[piece.image].shape[:2]))
        return [[joined(parts) for parts in own] for own in found]

    def _mapped(self, model: nn.Module, settings: dict, images: list[np.ndarray]) -> list[np.ndarray]:
        """The class maps of each image, (K, H, W) float32."""
        if settings.get("diameter"):
            return [self._mapped_by_size(model, settings, image) for image in images]
        return self._mapped_by_tile(model, settings, images, self.tile)

    def _mapped_by_size(self, model: nn.Module, settings: dict, image: np.ndarray) -> np.ndarray:
        """The class maps of an image at the scale at which its cells are as large as those of training were. The scale
        is found by looking: first at --tile, then at what the cells that are found there say.
        """
        tile, size = self.tile or max(image.shape[:2]), settings["img_size"]
        for _ in range(LOOKS):
            maps = self._mapped_at(model, settings, [image], tile, self.views[:1])[0]
            before, cells = tile, found_in_maps(maps, has_depths(settings)).cells
            tile = round(size / scale_for(cells, settings["diameter"], size / tile))
            if max(tile / before, before / tile) < NEAR:
                break
        return self._mapped_by_tile(model, settings, [image], tile)[0]

    def _mapped_by_tile(
        self, model: nn.Module, settings: dict, images: list[np.ndarray], tile: int
    ) -> list[np.ndarray]:
        """The class maps of each image, the mean of all zooms and views."""
        return mean_maps(self._mapped_at(model, settings, images, tile, self.views, zoom) for zoom in self.zooms)

    def _mapped_at(
        self, model: nn.Module, settings: dict, images: list[np.ndarray], tile: int, views: Sequence[str],
        zoom: float = 1.0,
    ) -> list[np.ndarray]:  # fmt: skip
        """The class maps of each image at one zoom, the mean of the views and, where tiles overlap, of tiles."""
        count = settings["num_classes"] + has_depths(settings) + 1
        sums = [np.zeros((count, *image.shape[:2]), np.float32) for image in images]
        weights = [np.zeros(image.shape[:2], np.float32) for image in images]
        for pieces, batch in batches(images, settings, tile, self.fabric.device, zoom):
            mean = sum(map_view(model, batch, view) for view in views) / len(views)
            height, width = pieces[0].pixels.shape[:2]
            seen = mean[..., : pieces[0].size[0], : pieces[0].size[1]]
            seen = functional.interpolate(seen, (height, width), mode="bilinear", antialias=True).cpu().numpy()
            weight = taper(height, width)
            for piece, probs in zip(pieces, seen, strict=True):
                y, x = piece.corner
                sums[piece.image][:, y : y + height, x : x + width] += probs * weight
                weights[piece.image][y : y + height, x : x + width] += weight
        return [total / weight for total, weight in zip(sums, weights, strict=True)]

    def _fused(self, finds: list[dict], shape: tuple[int, int]) -> Found | Masks:
        finds = [self._good(one) for one in finds]
        if "masks" in finds[0]:
            names = "boxes", "scores", "labels", "masks", "frames"
            boxes, scores, labels, masks, frames = map(joined(finds).get, names)
            cuts = [cut_from_box(*own, shape) for own in zip(masks, boxes, frames, strict=True)]
            if len(finds) > 1:
                models = np.repeat(np.arange(len(finds)), [len(one["scores"]) for one in finds])
                weights = np.ones(len(finds))
                fused, cuts = fuse_instances(cuts, boxes, scores, models, weights, self.fusing.iou, labels.astype(int))
                scores, labels = fused.scores, fused.groups
            best = top(scores, np.zeros(len(scores), np.int64), self.fusing.most)
            return Masks([cuts[row] for row in best], scores[best], labels[best].astype(np.int64))
        boxes, scores, labels = fuse_finds(finds, self.fusing)
        if self.competition.BOX_SIZE is None:
            boxes = boxes.clip(0, [*shape[::-1], *shape[::-1]])
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)  # not wholly in what fills the canvas
            boxes, scores, labels = boxes[inside], scores[inside], labels[inside]
        best = top(scores, np.zeros(len(scores), np.int64), self.fusing.most)
        return Found(boxes=boxes[best], scores=scores[best], labels=labels[best])

    def _good(self, find: dict) -> dict:
        """The finds above the threshold that have an area and are not nearly the same as a better one."""
        if "masks" not in find:  # which lie on their own boxes
            find = find | {"boxes": of_side(find["boxes"], self.competition.BOX_SIZE)}
        sides = find["boxes"][:, 2:] - find["boxes"][:, :2]
        keep = np.flatnonzero((find["scores"] >= self.fusing.threshold) & (sides > 0).all(1))
        kept = nms(find["boxes"][keep], find["scores"][keep], self.fusing.nms_iou, find["labels"][keep])
        return {name: values[keep[kept]] for name, values in find.items()}


def mean_maps(parts: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
    """The mean of several class maps of each image; one at a time, as they are large."""
    sums, count = None, 0
    for maps in parts:
        sums = maps if sums is None else [total + own for total, own in zip(sums, maps, strict=True)]
        count += 1
    return [total / count for total in sums]


def joined(finds: list[dict]) -> dict:
    """Several finds in an image, of its pieces or of networks and views, as one."""
    return {name: np.concatenate([one[name] for one in finds]) for name in finds[0]}


def fuse_finds(finds: list[dict], fusing: Fusing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), scores (n,) and classes (n,) of an image from those of several networks and views, by class."""
    boxes, scores, labels = map(joined(finds).get, ("boxes", "scores", "labels"))
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


def has_depths(settings: dict) -> bool:
    """Whether a network's class maps are the depths of pixels in their cells, with one of what these lack of 1."""
    return bool(settings.get("depths"))


def knows_classes(settings: dict, competition: Competition) -> bool:
    """Whether a network of these settings tells the classes of `competition` apart: the same ones, in this order."""
    count, own = len(competition.CLASSES), settings.get("classes")
    if settings["num_classes"] != count or count == 1:
        return settings["num_classes"] == count
    # A file of class names may be gone since the training: then their number within the same competition must do.
    known = competitions.get(settings["competition"]).CLASSES if own is None else parse_classes(own)
    gone = settings["competition"] == competition.name and len(known) != count
    return gone or known == competition.CLASSES


def open_network(path: str, competition: Competition, most: int, fabric: Fabric) -> tuple[nn.Module, dict]:
    """A detector, or a network of class maps, of train.py with its settings, whatever classes it knows. One of red,
    green and blue sees these alone of images that have more.

    most: how many cells an image may have, for a detector that chooses whose masks to look at.
    """
    checkpoint = read(path, "--weights")
    settings = checkpoint["settings"]
    if task_of(settings["arch"]) not in ("detect", "segment"):
        raise UserError(f"--weights {path} is a {settings['arch']}, which finds no cells; a detector is right")
    trained = competitions.get(settings["competition"])  # which it goes on seeing images as in, and sizes of boxes
    if competition.CHANNELS[: len(trained.CHANNELS)] != trained.CHANNELS:
        raise UserError(
            f"--weights {path} was trained on {', '.join(trained.CHANNELS)}; images of {competition.name} have "
            f"{', '.join(competition.CHANNELS)}"
        )
    classes = settings["num_classes"] + has_depths(settings)
    options = detector_options(settings["arch"], settings["img_size"], trained)
    if "most" in options:
        options["most"] = max(options["most"], most)
    model = build_detector(
        settings["arch"], classes, settings["in_channels"], trained.MEAN, trained.STD, **options
    )
    load_model(model, checkpoint, path, "--weights")
    return fabric.setup(model).eval(), settings


@torch.inference_mode()
def predict_view(model: nn.Module, images: torch.Tensor, view: str) -> list[dict[str, np.ndarray]]:
    """What a detector finds in a view of images (N, C, H, W), with the boxes and masks on the images as they are."""
    found = []
    for one in model(apply_view(images, view)):
        if "masks" in one:
            one = {**one, "masks": undo_view(one["masks"], view)}
        values = {name: value.float().cpu().numpy() for name, value in one.items()}
        if "masks" in one:
            values["frames"] = undo_boxes(frames_of(values["boxes"]), view, images.shape[-2:])
        values["boxes"] = undo_boxes(values["boxes"], view, images.shape[-2:])
        found.append(values)
    return found


@torch.inference_mode()
def map_view(model: nn.Module, images: torch.Tensor, view: str) -> torch.Tensor:
    """The class maps (N, K, H, W) of images from a view of them."""
    return undo_view(model(apply_view(images, view))["map"].float(), view)


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
