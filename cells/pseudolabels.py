"""Soft labels of cells from a model's out-of-fold opinion and their image's labels: pure functions of arrays.

The image's labels are true but say nothing of a single cell; the model's opinion does, but contradicts them. Rounds of
"predict out of fold, correct by the image's labels, train again" were published by the 1st, 3rd and 7th place of HPA
2021, each with its own formula; the 1st's labels were 1, .75, .5, .25 and 0. The formulas here are ours.
"""

import numpy as np
import pandas as pd


def consistent(
    probs: np.ndarray, labels: np.ndarray, images: np.ndarray, negative: int | None,
    absent: float = 0.0, floor: float = 0.5, nothing: float = 0.1,
) -> np.ndarray:  # fmt: skip
    """Probabilities of cells (N, C) as their images' labels (N, C, 0 or 1) allow; `images` (N,) says whose a cell is.

    A class that the image does not have: x `absent`. A class that it has must be somewhere: where the image's best cell
    lies below `floor`, all its cells are scaled until that one reaches it (if all are zero, all are set to it). Then a
    cell that has no other class, the highest being below `nothing`, shows nothing: `negative` gets the rest to 1.

    >>> probs, labels = np.array([[0.2, 0.9, 0.0], [0.05, 0.9, 0.0]]), np.array([[1, 0, 0], [1, 0, 0]])
    >>> consistent(probs, labels, np.array(["a", "a"]), 2).round(3).tolist()
    [[0.5, 0.0, 0.0], [0.125, 0.0, 0.0]]
    """
    has = labels > 0
    best = pd.DataFrame(probs).groupby(images).transform("max").to_numpy()
    seen = best >= np.finfo(float).tiny  # what is smaller cannot be divided by
    raised = np.where(seen, probs * np.maximum(floor / np.where(seen, best, 1), 1), floor)
    result = np.where(has, raised, probs * absent)
    if negative is not None:
        highest = np.delete(result, negative, axis=1).max(axis=1)
        result[:, negative] = np.where(highest < nothing, 1 - highest, result[:, negative])
    return result


def quantise(probs: np.ndarray, steps: int) -> np.ndarray:
    """The nearest of the `steps` + 1 levels 0, 1 / `steps`, ..., 1; half-way goes up.

    >>> quantise(np.array([0.1, 0.125, 0.6, 0.9]), 4).tolist()
    [0.0, 0.25, 0.5, 1.0]
    """
    return np.floor(probs * steps + 0.5) / steps
