"""What networks say of an image, turned into its cells. Without torch, which each worker process would have to load."""

from typing import NamedTuple

import numpy as np

from cells.finders import Found
from cells.instances import map_instances
from cells.overlaps import HALF, Cut, remove_overlaps
from cells.regions import number


class Masks(NamedTuple):
    """The cells of an image as masks cut to their boxes, with scores (n,) and classes (n,); they may overlap."""

    cuts: list[Cut]
    scores: np.ndarray
    labels: np.ndarray


def label(
    image: np.ndarray, prediction: Found | Masks | np.ndarray, depths: bool, named: bool, threshold: float
) -> Found:
    """Boxes as they are; of masks that overlap the one with the higher score keeps the pixels, and one of which less
    than half is left goes; class maps split, whose cells with a score below the threshold go.

    depths: the class maps are of networks of --depths. named: the networks tell the competition's classes apart;
    without it they find cells of any kind, which class these have is left open.
    """
    if isinstance(prediction, Found):
        found = prediction
    elif isinstance(prediction, Masks):
        cells = remove_overlaps(prediction.cuts, prediction.scores, image.shape[:2], share=HALF)
        found = found_masks(cells, prediction)
    else:
        found = found_in_maps(prediction, depths, threshold)
    return found if named else found._replace(labels=None)


def found_masks(cells: np.ndarray, masks: Masks) -> Found:
    """A label image of `masks` (label i + 1 is mask i, some may be gone) with the labels in a row from 1."""
    left = np.unique(cells)
    left = left[left > 0]
    cells = number(np.isin(np.arange(len(masks.scores) + 1), left))[cells]
    return Found(cells, np.zeros_like(cells), scores=masks.scores[left - 1], labels=masks.labels[left - 1])


def found_in_maps(probs: np.ndarray, depths: bool = False, threshold: float = 0.0) -> Found:
    """The cells of class maps (K, H, W), the last the background's; a cell's score is its class' mean probability, with
    `depths` that of being a cell. Those below the threshold are left out.
    """
    cells, classes = map_instances(probs, depths)
    areas = np.bincount(cells.ravel(), minlength=len(classes) + 1)[1:]
    own = 1 - probs[-1] if depths else np.take_along_axis(probs, np.append(len(probs) - 1, classes)[cells][None], 0)[0]
    sums = np.bincount(cells.ravel(), own.ravel(), len(classes) + 1)[1:]
    scores = sums / np.maximum(areas, 1)
    keep = scores >= threshold
    cells = number(np.append(False, keep))[cells]
    return Found(cells, np.zeros_like(cells), scores=scores[keep], labels=classes[keep])
