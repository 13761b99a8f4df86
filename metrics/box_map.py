"""COCO's average precision of boxes, for whole tables at once: what pycocotools' COCOeval gives (area range `all`).

Tables have `ImageID`, `class` (index), `x1,y1,x2,y2`, and detections a `score`. Equal scores count in the order of the
table inside an image, and of the images' names between images.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numba import njit

from cells.boxes import box_iou, by_group, to_centres, top
from cells.table import BOX

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU; the first is that of AP50
RECALLS = np.linspace(0, 1, 101)  # precision is read off at these


def coco_ap(
    truth: pd.DataFrame, found: pd.DataFrame, classes: int, max_dets: int = 100, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """The average precision of each class at each IoU threshold: (T, C), NaN for a class without truths.

    max_dets: the detections with the highest scores of an image and class that count, COCO's 100 unless images are
    more crowded. An image that only one of the tables names counts like any other.
    """
    true_group, group, images = _groups(truth, found)
    rows = top(found["score"].to_numpy(float), group, max_dets)
    scores, group = found["score"].to_numpy(float)[rows], group[rows]
    hits = _hits(truth, true_group, found[BOX].to_numpy(float)[rows], scores, group, thresholds)
    counts = np.bincount(truth["class"].to_numpy(np.int64), minlength=classes)
    ends = np.searchsorted(group, np.arange(classes + 1) * images)
    result = np.full((len(thresholds), classes), np.nan)
    for index in np.flatnonzero(counts[:classes]):
        own = slice(ends[index], ends[index + 1])
        result[:, index] = _area(scores[own], hits[:, own], counts[index])
    return result


def ap_table(names: Sequence[str], truth: pd.DataFrame, found: pd.DataFrame, max_dets: int = 100) -> pd.DataFrame:
    """COCO's mAP as a score table: `Class,AP,AP50,Truths,Detections` and a last row `mean`, of the classes with truths.

    AP is the mean over the IoU thresholds .50:.05:.95. Detections counts all rows, beyond max_dets too.
    """
    precision = coco_ap(truth, found, len(names), max_dets)
    count = {
        what: np.bincount(table["class"].to_numpy(np.int64), minlength=len(names))
        for what, table in (("Truths", truth), ("Detections", found))
    }
    table = pd.DataFrame({"Class": list(names), "AP": precision.mean(axis=0), "AP50": precision[0], **count})
    known = table[table["Truths"] > 0]
    last = {"Class": "mean", "AP": known["AP"].mean(), "AP50": known["AP50"].mean()}
    last |= {what: int(values.sum()) for what, values in count.items()}
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def centre_recall(truth: pd.DataFrame, found: pd.DataFrame, times: Sequence[int] = (1, 3, 10)) -> np.ndarray:
    """The share of true centres that are found with k detections a true cell, for each k of `times`: (K,).

    An image with n true cells has its k x n detections of the highest score looked at, of whatever class. A true cell
    is found when the centre of one of them is at most half the shorter side of its box from its own. For images where
    only some cells are marked, in which precision says little. NaN without any truth.
    """
    images, _ = pd.factorize(pd.concat([truth["ImageID"], found["ImageID"]]))
    own, other = images[: len(truth)], images[len(truth) :]
    counts = np.bincount(own, minlength=images.max(initial=-1) + 1)
    true, guess = to_centres(truth[BOX].to_numpy(float)), to_centres(found[BOX].to_numpy(float))
    reached = [
        _reached(true, own, guess, other, top(found["score"].to_numpy(float), other, k * counts[other])) for k in times
    ]
    return np.array([part.mean() if len(part) else np.nan for part in reached])


def _reached(true: np.ndarray, own: np.ndarray, guess: np.ndarray, other: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which of the true boxes (centre, size) has a guess of `rows`, sorted by image, near enough: bool."""
    starts, ends = (np.searchsorted(other[rows], own, side) for side in ("left", "right"))
    near = np.zeros(len(true), bool)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        off = guess[rows[start:end], :2] - true[row, :2]
        near[row] = (np.hypot(off[:, 0], off[:, 1]) <= true[row, 2:].min() / 2).any()
    return near


def _groups(truth: pd.DataFrame, found: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Class and image of each row as one number, for both tables, and the number of images."""
    codes, names = pd.factorize(pd.concat([truth["ImageID"], found["ImageID"]]), sort=True)
    classes = np.concatenate([table["class"].to_numpy(np.int64) for table in (truth, found)])
    groups = classes * len(names) + codes
    return groups[: len(truth)], groups[len(truth) :], len(names)


def _hits(
    truth: pd.DataFrame, true_group: np.ndarray, boxes: np.ndarray, scores: np.ndarray, group: np.ndarray,
    thresholds: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Which detections, already by group and falling score, are hits at each threshold: (T, N) bool."""
    order = np.argsort(true_group, kind="stable")
    _, starts = by_group(scores, group)
    names = group[starts[:-1]]
    firsts, lasts = (np.searchsorted(true_group[order], names, side) for side in ("left", "right"))
    return _match(boxes, starts, truth[BOX].to_numpy(float)[order], firsts, lasts, thresholds)


@njit(cache=True)
def _match(found, starts, truths, firsts, lasts, thresholds):
    hits = np.zeros((len(thresholds), len(found)), np.bool_)
    for group in range(len(starts) - 1):
        begin, first = starts[group], firsts[group]
        many, true = starts[group + 1] - begin, lasts[group] - first
        overlaps = np.empty((many, true))
        for row in range(many):
            for column in range(true):
                overlaps[row, column] = box_iou(found[begin + row], truths[first + column])
        for level in range(len(thresholds)):
            taken = np.zeros(true, np.bool_)
            for row in range(many):
                best, which = min(thresholds[level], 1 - 1e-10), -1
                for column in range(true):
                    if not taken[column] and overlaps[row, column] >= best:  # of equals the last, as COCO has it
                        best, which = overlaps[row, column], column
                if which >= 0:
                    taken[which] = True
                    hits[level, begin + row] = True
    return hits


def _area(scores: np.ndarray, hits: np.ndarray, truths: int) -> np.ndarray:
    """The mean, over RECALLS, of the highest precision at that recall or a higher one: (T,) of hits (T, N)."""
    found = np.cumsum(hits[:, np.argsort(-scores, kind="stable")], axis=1)
    precision = found / np.arange(1, len(scores) + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.hstack([envelope, np.zeros((len(hits), 1))])  # a recall that is never reached
    places = [np.searchsorted(row / truths, RECALLS) for row in found]
    return np.array([row[place].mean() for row, place in zip(envelope, places, strict=True)])
