"""Which true and which found cells of an image overlap, and how far: what all instance scores are made of."""

from typing import NamedTuple

import numpy as np
from scipy import sparse


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
    found_names, found_at, found_areas = _compact(found)
    shared, areas = [], []
    for layer in truth:
        names, at, own = _compact(layer)
        both = (at >= 0) & (found_at >= 0)
        counts = sparse.coo_array(
            (np.ones(both.sum(), np.int64), (at[both], found_at[both])), (len(names), len(found_names))
        )
        counts = counts.tocsr().tocoo()  # adds up equal places
        shared.append((names[counts.row], counts.col, counts.data, own[counts.row]))
        areas.append(names)
    label, column, pixels, area = (np.concatenate(parts) for parts in zip(*shared, strict=True))
    names = np.sort(np.concatenate(areas))
    return Pairs(
        np.searchsorted(names, label), column, pixels / (area + found_areas[column] - pixels),
        len(names), len(found_names),
    )  # fmt: skip


def _compact(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels in use (n,), each pixel's place among them (-1 = background), and each label's pixels (n,)."""
    flat = labels.ravel()
    if flat.size and flat.min() >= 0 and flat.max() <= 4 * flat.size:  # counting is far faster than sorting
        areas = np.bincount(flat)
        areas[:1] = 0
        names = np.flatnonzero(areas)
        place = np.full(len(areas), -1)
        place[names] = np.arange(len(names))
        return names, place[flat], areas[names]
    names, place, areas = np.unique(flat, return_inverse=True, return_counts=True)
    background = int(np.searchsorted(names, 1))
    return names[background:], np.maximum(place - background, -1), areas[background:]
