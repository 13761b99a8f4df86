"""The detection mAP of cells given as mask text, image by image, against a table of true cells."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from cells.masks import decode_rles
from common.errors import UserError, some
from metrics.detection_map import DetectionMAP


class MaskMAP:
    """Scores detections against true cells; memory does not grow with the detections' masks.

    `truth` has ImageID, ImageWidth, ImageHeight and PredictionString (mask text), one row a cell, and `labels` its
    classes, (rows, C) bool; a row without a class names its image and is not looked for. `name` is the truth's file,
    for messages.
    """

    def __init__(self, truth: pd.DataFrame, labels: np.ndarray, threshold: float, name: str):
        self.name = name
        self.labels = labels
        self.tally = DetectionMAP(labels.shape[1], threshold)
        self._rows = truth.groupby("ImageID", sort=False).indices
        self._sizes = truth[["ImageHeight", "ImageWidth"]].to_numpy()
        self._texts = truth["PredictionString"].to_numpy()
        self._seen: set[str] = set()

    @property
    def images(self) -> Iterable[str]:
        """The images that the truth knows."""
        return self._rows.keys()

    def size(self, image_id: str) -> tuple[int, int]:
        """Height and width of an image of the truth."""
        height, width = self._sizes[self._rows[image_id][0]].tolist()
        return height, width

    def add(
        self, image_id: str, size: tuple[int, int], where: str, texts: Sequence[str],
        which: np.ndarray, classes: np.ndarray, scores: np.ndarray,
    ) -> None:  # fmt: skip
        """Add the detections of an image of `size` (height, width): D distinct mask texts, and N detections, each the
        index `which` of its mask, its class and its score. UserError, beginning with `where`, for an image that is
        unknown, doubled or of another size, or a mask that is not one.
        """
        if image_id not in self._rows:
            raise UserError(f"{where}: {self.name} does not know the image {image_id}")
        if image_id in self._seen:
            raise UserError(f"{where}: the image {image_id} is there a second time")
        self._seen.add(image_id)
        rows = self._rows[image_id]
        rows = rows[self.labels[rows].any(axis=1)]
        self._check_size(image_id, size, where)
        found = _decode(texts, size, f"{where} ({image_id})")
        true = _decode(self._texts[rows], size, f"{self.name}, image {image_id}")
        self.tally.add(classes, scores, _overlaps(found, true)[which], self.labels[rows])

    def _check_size(self, image_id: str, size: tuple[int, int], where: str) -> None:
        other = self._sizes[self._rows[image_id]]
        other = other[(other != size).any(axis=1)]
        if len(other):
            height, width = other[0]
            raise UserError(
                f"{where}: {image_id} has {size[1]} x {size[0]} pixels, but {width} x {height} in {self.name}"
            )

    def table(self, names: Sequence[str], where: str) -> pd.DataFrame:
        """The scores: `Class,AP,Truths,Detections,Hits`, a row a class and a last row `mean` (of the classes that have
        truths). UserError when an image of the truth was not added, or there is no truth at all.
        """
        missing = [image_id for image_id in self.images if image_id not in self._seen]
        if missing:
            raise UserError(f"{where} lacks the image {some(missing)} of {self.name}")
        detections, hits = self.tally.counts()
        return score_table(names, self.tally.average_precision(), self.name, Truths=self.tally.truths,
                           Detections=detections, Hits=hits)  # fmt: skip


def score_table(names: Sequence[str], scores: np.ndarray, truth: str, **counts: np.ndarray) -> pd.DataFrame:
    """A score table `Class,AP,<counts>` with a last row `mean`; UserError when no class of `truth` can be scored."""
    if np.isnan(scores).all():
        raise UserError(f"{truth} has no labelled row to score against")
    table = pd.DataFrame({"Class": list(names), "AP": scores, **counts})
    last = {"Class": "mean", "AP": np.nanmean(scores), **{name: int(count.sum()) for name, count in counts.items()}}
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def _decode(texts: Sequence[str], size: tuple[int, int], where: str) -> list[dict]:
    try:
        return decode_rles(texts, *size)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _overlaps(found: list[dict], true: list[dict]) -> np.ndarray:
    """Intersection over union of every found and every true mask, (D, M)."""
    if not found or not true:  # pycocotools gives a list then
        return np.zeros((len(found), len(true)))
    return coco.iou(found, true, np.zeros(len(true), np.uint8))
