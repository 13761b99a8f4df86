"""Panoptic quality of instances, image by image, and its means as PanNuke's official code takes them.

PQ = sum of the IoUs of the matched pairs (IoU > .5, so each cell has at most one) / (TP + FP / 2 + FN / 2). The
official code adds a millionth to one denominator, so that its values are lower by less than that.
Gamper et al., "PanNuke Dataset Extension, Insights and Baselines" (2020).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cells.instances import merge_channels
from metrics.instance_pairs import Pairs, pair_labels


def panoptic_quality(pairs: Pairs) -> float:
    """PQ of an image; NaN without true cells, whatever was found.

    >>> panoptic_quality(pair_labels(np.array([[1, 1, 1, 0]]), np.array([[1, 1, 0, 2]])))
    0.4444444444444444
    """
    if pairs.truths == 0:
        return float("nan")
    matched = pairs.iou[pairs.iou > 0.5]
    # TP + FP / 2 + FN / 2 = (TP + FP) / 2 + (TP + FN) / 2
    return float(matched.sum() / ((pairs.founds + pairs.truths) / 2))


def image_quality(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The PQ of an image's cells of any type, then of each type: (H, W, C) instance ids, twice -> (1 + C,).

    NaN where the truth has no cell. Where types overlap, the last one counts for the first number.
    """
    merged = pair_labels(merge_channels(truth), merge_channels(found))
    own = [pair_labels(truth[..., name], found[..., name]) for name in range(truth.shape[2])]
    return np.array([panoptic_quality(pairs) for pairs in (merged, *own)])


def tissue_table(qualities: np.ndarray, tissues: Sequence[str]) -> pd.DataFrame:
    """bPQ and mPQ by tissue from N images' `image_quality` (N, 1 + C): `Class,mPQ,bPQ,Images`, a row a tissue by name,
    and a last row `mean` over the tissues.

    An image's mPQ is the mean over the types it has; images and tissues without a cell are left out of the means.
    """
    binary, typed = qualities[:, 0], _nanmean(qualities[:, 1:], axis=1)
    rows = [
        {"Class": tissue, "mPQ": _nanmean(typed[own]), "bPQ": _nanmean(binary[own]), "Images": int(own.sum())}
        for tissue, own in ((tissue, np.array(tissues) == tissue) for tissue in sorted(set(tissues)))
    ]
    table = pd.DataFrame(rows)
    mean = {"Class": "mean", "mPQ": _nanmean(table["mPQ"]), "bPQ": _nanmean(table["bPQ"]), "Images": len(tissues)}
    return pd.concat([table, pd.DataFrame([mean])], ignore_index=True)


def _nanmean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean without NaN; NaN where nothing else is, without numpy's warning."""
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    number = known.sum(axis=axis)
    return np.where(number > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(number, 1), np.nan)[()]
