"""Average precision of detections that are matched to truths by their overlap, as OpenImages and the HPA challenge do it.

One class at a time: `match` decides in each image which detections are hits, `average_precision` scores the hits of all
images together.
"""

import numpy as np


def match(scores: np.ndarray, overlaps: np.ndarray, threshold: float) -> np.ndarray:
    """Which detections of one image and class are hits: (N,) scores and (N, M) overlaps with the truths -> (N,) bool.

    By falling score (equal scores in the order given), each detection looks at the truth it overlaps most (the first of
    equals). It is a hit if that overlap reaches `threshold` and no detection before it has hit that truth; it does not
    turn to its second-best truth.

    >>> match(np.array([0.9, 0.8]), np.array([[0.7], [0.9]]), 0.6)
    array([ True, False])
    """
    hits = np.zeros(len(scores), bool)
    if not overlaps.size:
        return hits
    order = np.argsort(-scores, kind="stable")
    best = overlaps.argmax(axis=1)
    reaching = order[overlaps[order, best[order]] >= threshold]
    first = np.unique(best[reaching], return_index=True)[1]
    hits[reaching[first]] = True
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, truths: int) -> float:
    """Area under the monotone envelope of precision over recall, at all points; NaN for a class without truths.

    `scores` (N,) and `hits` (N,) bool of all images' detections, equal scores in the order given; `truths` is how many
    there were to find.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    0.8333333333333333
    """
    if truths == 0:
        return float("nan")
    hits = hits[np.argsort(-scores, kind="stable")]
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / truths)  # recall rises by 1 / truths at each hit
