"""Dice of class maps: how far the true and the found pixels of each class agree."""

import numpy as np


def class_pixels(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class in common, in the truth and in the finds: two class maps -> int (3, classes).

    Those of several images add up to those of a data set.
    """
    return np.stack([np.bincount(maps.ravel(), minlength=classes) for maps in (truth[truth == found], truth, found)])


def dice(pixels: np.ndarray) -> np.ndarray:
    """Dice of each class, 2 |A and B| / (|A| + |B|), from `class_pixels`; NaN for a class that is in neither.

    >>> dice(class_pixels(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3)).round(3)
    array([0.667, 0.8  ,   nan])
    """
    both, total = pixels[0], pixels[1] + pixels[2]
    return np.where(total > 0, 2 * both / np.maximum(total, 1), np.nan)


def weighted_dice(pixels: np.ndarray, weights: np.ndarray) -> float:
    """The mean of the classes' Dice by `weights` (classes,), over the classes of the truth; NaN without any.

    A class that is only found has no Dice of its own, as a single pixel would make it 0, and the rarest weighs most;
    its pixels are missing in the classes that they are of.
    """
    own = dice(pixels)
    known = pixels[1] > 0
    return float(np.average(own[known], weights=weights[known])) if known.any() else float("nan")


def frequency_weights(pixels: np.ndarray, highest: float = 10.0) -> np.ndarray:
    """What a class weighs by its share f of the pixels (classes,): sqrt(1 / f), at most `highest`, then of mean 1.

    A class without pixels weighs as the rarest can.
    """
    share = pixels / max(pixels.sum(), 1)
    weights = np.minimum(1 / np.sqrt(np.maximum(share, highest**-2)), highest)
    return weights / weights.mean()
