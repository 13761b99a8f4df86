"""How opinions of several models on the same cells become one: pure functions of (N cells, C classes) arrays."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

# How the cell models' and the image models' opinion of a class become one
COMBINE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "product": lambda cell, image: cell * image,
    "mean": lambda cell, image: (cell + image) / 2,
}

# How the class that excludes the others gets its probability: (cell, image, combined) of that class, each (N,) -> (N,)
NEGATIVE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "max": lambda cell, image, combined: np.maximum(cell, image),
    "own": lambda cell, image, combined: combined,
}


def ranks(values: np.ndarray) -> np.ndarray:
    """Each column's values as ranks scaled to 0..1, ties averaged; a single row gets one half. (N, C) -> (N, C).

    >>> ranks(np.array([[0.2], [0.9], [0.2]])).ravel()
    array([0.25, 1.  , 0.25])
    """
    if len(values) == 1:
        return np.full(values.shape, 0.5)
    return (pd.DataFrame(values).rank(method="average").to_numpy() - 1) / (len(values) - 1)


def weighted_mean(tables: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The mean of K arrays (N, C) with a weight for each model and class: (K, C), each class's sum above zero."""
    shares = weights / weights.sum(axis=0)
    return sum((table * share for table, share in zip(tables, shares, strict=True)), np.zeros(()))


def combine(
    cell: np.ndarray | None,
    image: np.ndarray | None,
    negative: int | None,
    how: str = "product",
    negative_how: str = "max",
    penalty: bool = True,
) -> np.ndarray:
    """The probability of each cell and class, (N, C), from the cell models' and the image models' opinion.

    The published rules (12th place, HPA 2021) are the defaults: the product of both, the larger one for the class
    `negative`, and then every other class x (1 - `negative`). Where one kind of model is absent (None), the other's
    opinion stands for both. `negative` None: no class excludes the others.
    """
    if cell is None or image is None:
        result = np.array(image if cell is None else cell, float)
    else:
        result = COMBINE[how](cell, image)
        if negative is not None:
            column = cell[:, negative], image[:, negative], result[:, negative]
            result[:, negative] = NEGATIVE[negative_how](*column)
    if negative is not None and penalty:
        others = np.arange(result.shape[1]) != negative
        result[:, others] *= 1 - result[:, [negative]]
    return result
