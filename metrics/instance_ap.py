"""Mean average precision of instances over IoU thresholds, as the Data Science Bowl 2018 and Sartorius scored it.

At a threshold t a true cell is a hit if a found one overlaps it by IoU > t. An image's precision at t is
TP / (TP + FP + FN): hits, found cells that hit none, true cells that none hits. Its score is the mean over
t = .50, .55, ..., .95; a data set's is the mean over its images.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metrics.instance_pairs import Pairs

THRESHOLDS = np.arange(10, 20) / 20  # .50 to .95, each the nearest number to its decimals


def counts(pairs: Pairs) -> np.ndarray:
    """True positives, false positives and false negatives of an image at each threshold: int (3, 10)."""
    over = pairs.iou > THRESHOLDS[:, None]
    hit, matched = np.zeros((len(THRESHOLDS), pairs.truths), bool), np.zeros((len(THRESHOLDS), pairs.founds), bool)
    level, pair = np.nonzero(over)
    hit[level, pairs.truth[pair]] = True
    matched[level, pairs.found[pair]] = True
    return np.stack([hit.sum(axis=1), (~matched).sum(axis=1), (~hit).sum(axis=1)])


def precisions(pairs: Pairs) -> np.ndarray:
    """An image's precision at each threshold, (10,); 1 where there is no cell and none was found."""
    true, wrong, missed = counts(pairs)
    total = true + wrong + missed
    return np.where(total > 0, true / np.maximum(total, 1), 1.0)


def ap_table(images: Sequence[Pairs], groups: Sequence[str]) -> pd.DataFrame:
    """The scores of a data set by group (the type of an image's cells): a row a group, in the order they come, and a
    last row `mean` of all images.

    Columns: Class, AP (mean over .50 to .95), AP50, Images, Truths, Detections.
    """
    own = np.array([precisions(pairs) for pairs in images]).reshape(-1, len(THRESHOLDS))
    table = pd.DataFrame(
        {
            "Class": list(groups), "AP": own.mean(axis=1), "AP50": own[:, 0], "Images": 1,
            "Truths": [pairs.truths for pairs in images], "Detections": [pairs.founds for pairs in images],
        }
    )  # fmt: skip
    how = {"AP": "mean", "AP50": "mean", "Images": "sum", "Truths": "sum", "Detections": "sum"}
    rows = table.groupby("Class", sort=False).agg(how).reset_index()
    return pd.concat([rows, table.assign(Class="mean").groupby("Class").agg(how).reset_index()], ignore_index=True)
