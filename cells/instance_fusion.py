"""One cell with its mask from what several folds or views found of it: boxes fused by overlap, masks averaged."""

from collections.abc import Sequence

import numpy as np

from cells.box_fusion import Fused, fuse
from cells.boxes import iou as box_iou
from cells.overlaps import Cut, average_masks


def fuse_instances(
    masks: Sequence[Cut], boxes: np.ndarray, scores: np.ndarray, models: np.ndarray, weights: np.ndarray,
    iou: float = 0.5, groups: np.ndarray | None = None, skip: float = 0.0, confidence: str = "avg",
) -> tuple[Fused, list[Cut]]:  # fmt: skip
    """The fused boxes of one image (`cells.box_fusion.fuse` says what the arguments are) and the mask of each.

    A fused box's mask is the mean of the masks of the boxes that fit it best and by more than `iou`, weighted by score
    x the model's weight: probabilities, which `remove_overlaps` takes as they are. groups: classes to be kept apart.
    """
    fused = fuse(boxes, scores, models, weights, iou, groups, skip, confidence)
    if not len(fused.boxes):
        return fused, []
    groups = np.zeros(len(boxes), np.int64) if groups is None else np.asarray(groups)
    overlaps = box_iou(np.asarray(boxes, float)[:, None], fused.boxes)
    overlaps[(groups[:, None] != fused.groups) | (np.asarray(scores) < skip)[:, None]] = -1
    best = overlaps.argmax(axis=1)
    sure = np.asarray(scores, float) * np.asarray(weights, float)[models]
    joined = []
    for place, own in enumerate(overlaps.T):
        members = np.flatnonzero((best == place) & (own > iou))
        members = members if len(members) else [own.argmax()]  # its members may have drifted apart
        joined.append(average_masks([masks[row] for row in members], np.maximum(sure[members], 1e-9)))
    return fused, joined
