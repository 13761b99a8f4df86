"""One box from several models' boxes of the same cell: by overlap (Weighted Boxes Fusion) or by centre distance.

Solovyev, Wang, Gabruseva (2021): by falling confidence, a box joins the fused box that it fits best, which is the mean
of its members weighted by their confidences; without a fitting one it begins a new one. All images of a data set are
fused in one call; see cells/boxes.py for what a group is.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from cells.boxes import box_iou, by_group
from common.errors import choose


class Fused(NamedTuple):
    """Fused boxes (K, 4), their scores (K,) and groups (K,), by group and falling score."""

    boxes: np.ndarray
    scores: np.ndarray
    groups: np.ndarray


class Members(NamedTuple):
    """What the confidence of fused boxes is made of. (K,) each, but for the weights of the models (M,)."""

    count: np.ndarray  # boxes fused
    total: np.ndarray  # the sum of score x model weight
    highest: np.ndarray  # the highest score x model weight
    weight: np.ndarray  # the sum of the boxes' model weights
    models: np.ndarray  # the sum of the weights of the models that have a box among them
    weights: np.ndarray


# How sure a fused box is, by the names of the ensemble-boxes package. `avg` punishes a box that few models see.
CONFIDENCES = {
    "avg": lambda of: of.total / of.count * np.minimum(len(of.weights), of.count) / of.weights.sum(),
    "max": lambda of: of.highest / of.weights.max(),
    "box_and_model_avg": lambda of: of.total / of.weight * of.models / of.weights.sum(),
    "absent_model_aware_avg": lambda of: of.total / (of.weight + of.weights.sum() - of.models),
}


def fuse(
    boxes: np.ndarray, scores: np.ndarray, models: np.ndarray, weights: np.ndarray, iou: float,
    groups: np.ndarray | None = None, skip: float = 0.0, confidence: str = "avg",
) -> Fused:  # fmt: skip
    """Weighted Boxes Fusion: a box joins the fused box with the highest IoU if that exceeds `iou`.

    boxes (N, 4), in pixels or not; scores (N,); models (N,): which model a box is from, an index of weights (M,), where
    a model without any box counts too; groups (N,). Boxes with a score below `skip` or without area are left out.
    """
    return _fuse(boxes, scores, models, weights, groups, skip, confidence, iou, False)


def merge_centres(
    boxes: np.ndarray, scores: np.ndarray, models: np.ndarray, weights: np.ndarray, radius: float,
    groups: np.ndarray | None = None, skip: float = 0.0, confidence: str = "avg",
) -> Fused:  # fmt: skip
    """The same by distance: a box joins the fused box with the nearest centre if that is at most `radius` pixels away.

    For cells of one size, whose boxes are as good as their centres (the RIVA finals: 12 px).
    """
    return _fuse(boxes, scores, models, weights, groups, skip, confidence, radius, True)


def _fuse(boxes, scores, models, weights, groups, skip, confidence, limit, by_distance) -> Fused:
    formula = choose(CONFIDENCES, confidence, "confidence of fused boxes")
    boxes, scores, weights = np.asarray(boxes, np.float64), np.asarray(scores, np.float64), np.asarray(weights, float)
    groups = np.zeros(len(scores), np.int64) if groups is None else np.asarray(groups)
    use = np.flatnonzero((scores >= skip) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    order, starts = by_group(scores[use] * weights[models[use]], groups[use])
    rows = use[order]
    models, weight = np.asarray(models)[rows], weights[models[rows]]
    sure = scores[rows] * weight
    cluster, fused = _cluster(boxes[rows], sure, starts, float(limit), by_distance)
    members = _members(cluster, len(fused), sure, weight, models, weights)
    result = formula(members)
    owner = np.zeros(len(fused), groups.dtype)
    owner[cluster] = groups[rows]
    order, _ = by_group(result, owner)
    return Fused(fused[order], result[order], owner[order])


def _members(cluster, count, sure, weight, models, weights) -> Members:
    highest = np.zeros(count)
    np.maximum.at(highest, cluster, sure)
    pairs = np.unique(cluster * len(weights) + models)  # each model once a fused box
    return Members(
        np.bincount(cluster, minlength=count),
        np.bincount(cluster, sure, count),
        highest,
        np.bincount(cluster, weight, count),
        np.bincount(pairs // len(weights), weights[pairs % len(weights)], count),
        weights,
    )


@njit(cache=True)
def _centre_distance(a, b):
    return np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2


@njit(cache=True)
def _cluster(boxes, sure, starts, limit, by_distance):
    """Which fused box each box joins (N,), and the fused boxes (K, 4)."""
    cluster = np.empty(len(boxes), np.int64)
    sums, weights, fused = np.zeros((len(boxes), 4)), np.zeros(len(boxes)), np.zeros((len(boxes), 4))
    count = 0
    for group in range(len(starts) - 1):
        first = count
        for row in range(starts[group], starts[group + 1]):
            best, which = limit, -1
            for other in range(first, count):
                if by_distance:
                    distance = _centre_distance(boxes[row], fused[other])
                    if distance < best or (which == -1 and distance == best):
                        best, which = distance, other
                else:
                    overlap = box_iou(boxes[row], fused[other])
                    if overlap > best:
                        best, which = overlap, other
            if which == -1:
                which = count
                count += 1
            cluster[row] = which
            weights[which] += sure[row]
            for side in range(4):
                sums[which, side] += sure[row] * boxes[row, side]
                # Boxes of confidence 0 have no weighted mean: the last stands as it is.
                fused[which, side] = sums[which, side] / weights[which] if weights[which] > 0 else boxes[row, side]
    return cluster, fused[:count].copy()
