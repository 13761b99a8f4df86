"""Which true and which found cells of an image overlap, and how far: what all instance scores are made of."""

from typing import NamedTuple

import numpy as np
from numba import njit


class Pairs(NamedTuple):
    """The pairs of a true and a found cell that share pixels; cells are counted from 0 in the order of their labels."""

    truth: np.ndarray  # (P,) the true cell of each pair
    found: np.ndarray  # (P,) the found one
    iou: np.ndarray  # (P,) their intersection over union
    truths: int  # true cells of the image
    founds: int  # found cells


def pair_labels(truth: np.ndarray, found: np.ndarray) -> Pairs:
    """The pairs of two integer label images of one shape (0 = background), from one look at the pixels.

    >>> pair_labels(np.array([[1, 1, 0]]), np.array([[0, 7, 7]])).iou
    array([0.33333333])
    """
    return pair_layers([truth], found)


def pair_layers(truth: list[np.ndarray], found: np.ndarray) -> Pairs:
    """The same when true cells lie over each other: each is whole in one of several label images of the truth."""
    if any(layer.shape != found.shape for layer in truth):
        raise ValueError(f"truth {truth[0].shape} and finds {found.shape} must be of one shape")
    true, own = _small(np.stack(truth)), _small(found)
    true_areas, own_areas = np.bincount(true.ravel()), np.bincount(own.ravel())
    first, second, lengths = _shared_runs(true, own)
    pairs, which = np.unique(first.astype(np.int64) * len(own_areas) + second, return_inverse=True)
    pixels = np.bincount(which, lengths, len(pairs))
    row, column = np.divmod(pairs, len(own_areas))
    true_areas[0] = own_areas[0] = 0
    return Pairs(
        np.cumsum(true_areas > 0)[row] - 1, np.cumsum(own_areas > 0)[column] - 1,
        pixels / (true_areas[row] + own_areas[column] - pixels),
        np.count_nonzero(true_areas), np.count_nonzero(own_areas),
    )  # fmt: skip


def _small(labels: np.ndarray) -> np.ndarray:
    """A label image as int32, numbered anew in the same order when a label is far larger than the image."""
    if labels.max(initial=0) > 4 * labels.size:
        names, places = np.unique(labels, return_inverse=True)
        labels = places.reshape(labels.shape) + (names[0] > 0)
    return np.ascontiguousarray(labels, np.int32)


@njit(cache=True)
def _shared_runs(truth, found):
    """Stretches of a row that lie in one true and one found cell: their labels and lengths. truth: (layers, H, W)."""
    layers, height, width = truth.shape
    first, second = np.empty(truth.size, np.int32), np.empty(truth.size, np.int32)
    lengths = np.empty(truth.size, np.int32)
    run = -1
    for layer in range(layers):
        for y in range(height):
            inside = False
            for x in range(width):
                true, own = truth[layer, y, x], found[y, x]
                if true > 0 and own > 0:
                    if not (inside and first[run] == true and second[run] == own):
                        run += 1
                        first[run], second[run], lengths[run] = true, own, 0
                    lengths[run] += 1
                    inside = True
                else:
                    inside = False
    return first[: run + 1].copy(), second[: run + 1].copy(), lengths[: run + 1].copy()
