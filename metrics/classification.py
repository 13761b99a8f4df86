"""Scores of classification."""

import numpy as np


def average_precision(probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve of each class: (N, C) scores and 0/1 targets -> (C,).

    NaN for a class without a positive. The step-wise sum of scikit-learn's `average_precision_score`: over the distinct
    scores, falling, (recall - recall before) x precision. Rows of equal score enter together, in whatever order. A NaN
    target is unknown: its row is left out of that class.

    >>> average_precision(np.array([[0.9], [0.8], [0.7]]), np.array([[1], [0], [1]])).round(4)
    array([0.8333])
    """
    probs, targets = np.asarray(probs), np.asarray(targets, float)
    if probs.ndim != 2 or probs.shape != targets.shape:
        raise ValueError(f"scores {probs.shape} and targets {targets.shape} must be of one shape, rows x classes")
    if not np.isfinite(probs).all():
        raise ValueError("scores must be finite")
    return np.array([_one_class(*columns) for columns in zip(probs.T, targets.T, strict=True)], float)


def macro_f1(truth: np.ndarray, found: np.ndarray, classes: int) -> float:
    """The mean over the classes that occur in either of F1 = 2 TP / (2 TP + FP + FN), as scikit-learn's macro-F1.

    truth, found: class indices (N,).

    >>> macro_f1(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 4)
    0.38888888888888884
    """
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (truth, found), 1)
    both = table.sum(0) + table.sum(1)
    return float((2 * np.diag(table)[both > 0] / both[both > 0]).mean()) if both.any() else 0.0


def _one_class(scores: np.ndarray, target: np.ndarray) -> float:
    known = ~np.isnan(target)
    scores, target = scores[known], target[known]
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    hits = np.cumsum(target[order] > 0)
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)  # the last row of each distinct score
    precision = hits[ends] / (ends + 1)
    recall = hits[ends] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0) * precision))
