"""Boxes as arrays: `x1,y1,x2,y2` in pixels (x2, y2 exclusive), fractional or not, inside an image or not.

`iou` and `giou` work element by element and broadcast: `iou(a[:, None], b)` is the matrix of N boxes against M.
A *group* is what may be compared: the boxes of one image, or of one class of one image. Functions that take `groups`,
(N,) integers, treat all groups of a whole data set in one call: with `image` they are class-agnostic, with
`image * classes + label` they keep the classes apart.
"""

from collections.abc import Callable

import numpy as np
from numba import njit

PAIRS = 2_000_000  # of boxes that are compared at a time, some 350 MB


def areas(boxes: np.ndarray) -> np.ndarray:
    """The areas of boxes (..., 4): (...,) float; 0 where a box is empty or turned inside out."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) and (..., 4), broadcast; 0 for two boxes without area.

    >>> iou(np.array([[0, 0, 2, 2], [0, 0, 1, 1]])[:, None], np.array([[0, 1, 2, 3]]))
    array([[0.33333333],
           [0.        ]])
    """
    common, union = _overlap(one, other)
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def giou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Generalised IoU (Rezatofighi et al. 2019), broadcast: IoU minus the share of the hull outside the union, -1..1.

    >>> giou(np.array([0, 0, 1, 1]), np.array([[1, 0, 2, 1], [3, 0, 4, 1]]))
    array([ 0. , -0.5])
    """
    common, union = _overlap(one, other)
    low, high = np.minimum(one[..., :2], other[..., :2]), np.maximum(one[..., 2:], other[..., 2:])
    hull = areas(np.concatenate([low, high], axis=-1))
    overlap = np.divide(common, union, out=np.zeros_like(union), where=union > 0)
    return overlap - np.divide(hull - union, hull, out=np.zeros_like(union), where=hull > 0)


def _overlap(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    common = areas(np.concatenate([low, high], axis=-1))
    return common, areas(one) + areas(other) - common


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) as centre x, centre y, width, height -> x1, y1, x2, y2."""
    half = boxes[:, 2:] / 2
    return np.hstack([boxes[:, :2] - half, boxes[:, :2] + half])


def to_centres(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) as x1, y1, x2, y2 -> centre x, centre y, width, height."""
    return np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])


def clip(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) cut at their images' borders; sizes: width, height, of all (2,) or of each (N, 2)."""
    sizes = np.asarray(sizes)
    return np.clip(boxes, 0, np.concatenate([sizes, sizes], axis=-1))


def by_group(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by group and, inside it, falling score (equal scores as given), and where each group starts in it.

    order (N,), starts (G + 1,): the g-th group's rows are order[starts[g]:starts[g + 1]].
    """
    order = np.lexsort((-np.asarray(scores, float), groups))
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    return order, np.concatenate([np.zeros(min(len(order), 1), np.int64), ends, [len(order)]])


def top(scores: np.ndarray, groups: np.ndarray, most: int | np.ndarray) -> np.ndarray:
    """The rows of the `most` highest scores of each group, by group and falling score.

    most: one number, or (N,): how many the group of each row may keep.

    >>> top(np.array([0.1, 0.9, 0.5]), np.array([0, 0, 1]), 1)
    array([1, 2])
    """
    order, starts = by_group(scores, groups)
    rank = np.arange(len(order)) - np.repeat(starts[:-1], np.diff(starts))
    return order[rank < np.broadcast_to(most, len(order))[order]]


def best_match(
    boxes: np.ndarray, groups: np.ndarray, others: np.ndarray, other_groups: np.ndarray, overlap: Callable = giou
) -> tuple[np.ndarray, np.ndarray]:
    """For each box (N, 4) the row of the other (M, 4) of its group that it overlaps most, and how far: two (N,).

    overlap: `giou` or `iou`. -1 and -1 where the group has no other; of equals the first.
    """
    order = np.argsort(other_groups, kind="stable")
    first, last = (np.searchsorted(other_groups[order], groups, side) for side in ("left", "right"))
    parts = np.array_split(np.arange(len(boxes)), int((last - first).sum()) // PAIRS + 1)
    found = [_best_match(boxes[part], first[part], last[part] - first[part], others, order, overlap) for part in parts]
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _best_match(boxes, first, counts, others, order, overlap) -> tuple[np.ndarray, np.ndarray]:
    """The same for boxes whose group's others are counts[i] rows from order[first[i]] on."""
    one = np.repeat(np.arange(len(boxes)), counts)  # every pair within a group
    other = order[np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)]
    values = overlap(boxes[one], others[other])
    best = np.lexsort((other, -values, one))[np.searchsorted(one, np.flatnonzero(counts))]
    rows, highest = np.full(len(boxes), -1), np.full(len(boxes), -1.0)
    rows[one[best]], highest[one[best]] = other[best], values[best]
    return rows, highest


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, groups: np.ndarray | None = None) -> np.ndarray:
    """Rows that non-maximum suppression keeps, by group and falling score.

    In each group, by falling score (equal scores as given), a box goes when its IoU with a kept one exceeds
    `threshold`. Boxes (N, 4), scores (N,); groups (N,), without them all boxes are one group.
    """
    groups = np.zeros(len(scores), np.int64) if groups is None else groups
    order, starts = by_group(scores, groups)
    return order[_keep(np.ascontiguousarray(boxes[order], np.float64), starts, threshold)]


@njit(cache=True)
def box_iou(a, b):
    """The IoU of two boxes, for other compiled loops; 0 when they do not touch."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


@njit(cache=True)
def _keep(boxes, starts, threshold):
    keep = np.ones(len(boxes), np.bool_)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for group in range(len(starts) - 1):
        for row in range(starts[group], starts[group + 1]):
            if not keep[row]:
                continue
            x1, y1, x2, y2 = boxes[row]
            for other in range(row + 1, starts[group + 1]):  # most do not touch: ten times as fast as box_iou
                width = min(x2, boxes[other, 2]) - max(x1, boxes[other, 0])
                if width <= 0:
                    continue
                height = min(y2, boxes[other, 3]) - max(y1, boxes[other, 1])
                if height > 0:
                    common = width * height
                    keep[other] &= common / (areas[row] + areas[other] - common) <= threshold
    return keep
