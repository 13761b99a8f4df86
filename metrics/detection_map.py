"""Average precision of detections that are matched to truths by their overlap: OpenImages' and the HPA challenge's.

One class at a time: `match` decides in each image which detections are hits, `average_precision` scores the hits of all
images together; `DetectionMAP` does both for all classes, fed image by image.
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


class DetectionMAP:
    """The average precision of each class over images that are added one by one; their masks need not be kept.

    >>> tally = DetectionMAP(classes=2, threshold=0.6)
    >>> tally.add(np.array([0]), np.array([0.9]), np.array([[0.7, 0.0]]), np.array([[True, False], [True, True]]))
    >>> tally.average_precision()
    array([0.5, 0. ])
    """

    def __init__(self, classes: int, threshold: float):
        self.threshold = threshold
        self.truths = np.zeros(classes, np.int64)
        self._scores: list[list[np.ndarray]] = [[] for _ in range(classes)]
        self._hits: list[list[np.ndarray]] = [[] for _ in range(classes)]

    def add(self, classes: np.ndarray, scores: np.ndarray, overlaps: np.ndarray, labels: np.ndarray) -> None:
        """Add an image: N classes and scores (N,), their overlaps (N, M) with M truths of `labels` (M, C) bool."""
        self.truths += labels.sum(axis=0)
        order = np.argsort(classes, kind="stable")
        names, starts = np.unique(classes[order], return_index=True)
        for name, rows in zip(names.tolist(), np.split(order, starts)[1:], strict=True):
            hits = match(scores[rows], overlaps[rows][:, labels[:, name]], self.threshold)
            self._scores[name].append(scores[rows])
            self._hits[name].append(hits)

    def average_precision(self) -> np.ndarray:
        """The average precision of each class (C,); NaN for a class without truths."""
        return np.array(
            [average_precision(*self._joined(name), int(truths)) for name, truths in enumerate(self.truths)], float
        )

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many detections, and how many hits, each class has: two int arrays (C,)."""
        hits = [self._joined(name)[1] for name in range(len(self.truths))]
        return np.array([len(own) for own in hits], np.int64), np.array([own.sum() for own in hits], np.int64)

    def _joined(self, name: int) -> tuple[np.ndarray, np.ndarray]:
        scores, hits = self._scores[name], self._hits[name]
        return (np.concatenate(scores), np.concatenate(hits)) if scores else (np.zeros(0), np.zeros(0, bool))
