"""The score of the Cytologia challenge: boxes by generalised IoU, classes by macro-F1."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cells.boxes import best_match
from cells.table import BOX

BOX_SHARE, CLASS_SHARE = 0.2, 0.8


def best_prediction(truth: pd.DataFrame, found: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """For each true box the prediction of its image with the highest GIoU: its row (-1: none) and that GIoU (-1: none).

    Tables with `ImageID,x1,y1,x2,y2`. Several truths may share a prediction; of equals the first row counts.
    """
    codes, _ = pd.factorize(pd.concat([truth["ImageID"], found["ImageID"]]))
    own, other = codes[: len(truth)], codes[len(truth) :]
    return best_match(truth[BOX].to_numpy(float), own, found[BOX].to_numpy(float), other)


def f1_scores(truth: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """The F1 of each class (C,) from class indices (N,) and (N,), where a guess of -1 is no class at all.

    NaN for a class that is neither in the truth nor guessed: scikit-learn's macro-F1 is the mean of the others.
    """
    true = np.bincount(truth, minlength=classes)
    guessed = np.bincount(guess[guess >= 0], minlength=classes)
    right = np.bincount(truth[truth == guess], minlength=classes)
    total = true + guessed
    return np.divide(2 * right, total, out=np.full(classes, np.nan), where=total > 0)


def score_table(names: Sequence[str], truth: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The score of predictions against truths, both tables `ImageID,class,x1,y1,x2,y2` with class indices.

    `Class,Score,F1,GIoU,Truths,Guesses`, a row a class and a last row `mean` with the challenge's score: .2 x the mean
    of (GIoU + 1) / 2 over all true boxes + .8 x the mean F1 over the classes that are in the truth or guessed. A
    class's own score is the same of its own boxes. Guesses: how often it was the prediction that a truth got.
    """
    rows, overlap = best_prediction(truth, found)
    true = truth["class"].to_numpy(np.int64)
    guess = np.where(rows >= 0, np.append(found["class"].to_numpy(np.int64), -1)[rows], -1)
    f1 = f1_scores(true, guess, len(names))
    counts = np.bincount(true, minlength=len(names))
    mean = np.divide(np.bincount(true, overlap, len(names)), counts, out=np.full(len(names), np.nan), where=counts > 0)
    guesses = np.bincount(guess[guess >= 0], minlength=len(names))
    table = pd.DataFrame({"Class": list(names), "Score": _blend(mean, f1), "F1": f1, "GIoU": mean,
                          "Truths": counts, "Guesses": guesses})  # fmt: skip
    last = {"Class": "mean", "Score": _blend(overlap.mean(), np.nanmean(f1)), "F1": np.nanmean(f1),
            "GIoU": overlap.mean(), "Truths": len(truth), "Guesses": int(guesses.sum())}  # fmt: skip
    return pd.concat([table, pd.DataFrame([last])], ignore_index=True)


def _blend(overlap: np.ndarray | float, f1: np.ndarray | float) -> np.ndarray | float:
    return BOX_SHARE * (overlap + 1) / 2 + CLASS_SHARE * f1
