"""Cells that share no pixel: overlapping masks cleared in the order of their scores."""

from collections.abc import Sequence

import numpy as np

HALF = 0.5  # share of a network's mask that better ones must leave of it, else it is a cell that was found twice
Cut = tuple[np.ndarray, tuple[int, int]]  # a mask within its box, and the box's left and top (x, y) in the image


def remove_overlaps(
    masks: np.ndarray | Sequence[Cut], scores: np.ndarray, shape: tuple[int, int] | None = None,
    min_area: float | np.ndarray = 1, threshold: float = 0.5, share: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """A label image, int32 (height, width), in which mask i has the label i + 1 where no mask of a higher score lies.

    masks: (n, height, width), or cut to their boxes, which may leave the image of `shape`; boolean, or probabilities,
    which count above `threshold`. min_area: pixels, one number or one a mask; a mask of which less is left, or less
    than `share` of its own area, is left out, and its pixels stay free. Of equal scores the first comes first.

    >>> remove_overlaps(np.array([[[1, 1, 0]], [[0, 1, 1]]], bool), np.array([0.6, 0.9]))
    array([[1, 2, 2]], dtype=int32)
    """
    height, width = masks.shape[1:] if isinstance(masks, np.ndarray) else shape
    smallest = np.broadcast_to(np.maximum(min_area, 1), len(masks))
    labels = np.zeros(height * width, np.int32)
    for index in np.argsort(-np.asarray(scores), kind="stable").tolist():
        if isinstance(masks, np.ndarray):
            inside = np.flatnonzero(_binary(masks[index], threshold))
        else:
            inside = _place(*masks[index], height, width, threshold)
        left = inside[labels[inside] == 0]
        if len(left) >= max(smallest[index], share * len(inside)):
            labels[left] = index + 1
    return labels.reshape(height, width)


def cut_mask(mask: np.ndarray) -> Cut:
    """A boolean mask of a whole image, cut to the box of what is set of it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return mask[:0, :0], (0, 0)
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], (int(columns[0]), int(rows[0]))


def average_masks(masks: Sequence[Cut], weights: Sequence[float]) -> Cut:
    """The weighted mean of masks of one cell, where a mask is 0 outside its box: float32, cut to the box around all.

    What several folds or views say of a cell; above one half is what most of the weight takes for the cell.
    """
    left, top = np.min([corner for _, corner in masks], axis=0).tolist()
    ends = [(x + mask.shape[1], y + mask.shape[0]) for mask, (x, y) in masks]
    right, bottom = np.max(ends, axis=0).tolist()
    mean = np.zeros((bottom - top, right - left), np.float32)
    for (mask, (x, y)), weight in zip(masks, np.asarray(weights, float) / np.sum(weights), strict=True):
        mean[y - top : y - top + mask.shape[0], x - left : x - left + mask.shape[1]] += np.float32(weight) * mask
    return mean, (left, top)


def _binary(mask: np.ndarray, threshold: float) -> np.ndarray:
    return mask > threshold if np.issubdtype(mask.dtype, np.floating) else mask


def _place(mask: np.ndarray, corner: tuple[int, int], height: int, width: int, threshold: float) -> np.ndarray:
    """The pixels of a cut mask as positions in the flattened image, without those outside it."""
    x, y = corner
    seen = mask[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
    rows, columns = np.nonzero(_binary(seen, threshold))
    return (rows + max(0, y)) * width + columns + max(0, x)
