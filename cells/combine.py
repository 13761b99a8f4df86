"""How opinions of several models on the same cells become one: pure functions of (N cells, C classes) arrays."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

# How the cell models' and the image models' opinion of a class become one: (N,) each, with the cells' share -> (N,).
# Published: the product (12th place and others, HPA 2021), .7 of the cell's with .3 of the image's (4th place), and a
# mixture in images of one cell only (1st place, Cytologia), where the image shows nothing else.
COMBINE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "product": lambda cell, image, share: cell * image,
    "mean": lambda cell, image, share: (cell + image) / 2,
    "weighted": lambda cell, image, share: share * cell + (1 - share) * image,
    "single": lambda cell, image, share: share * cell + (1 - share) * image,
}

# How the class that excludes the others gets its probability: its own (cell, image, combined), each (N,), and the
# combined probabilities of the others, (N, C - 1) -> (N,)
NEGATIVE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "max": lambda cell, image, combined, others: np.maximum(cell, image),
    "own": lambda cell, image, combined, others: combined,
    "1-max": lambda cell, image, combined, others: 1 - others.max(axis=1),
    "product": lambda cell, image, combined, others: (1 - others).prod(axis=1),
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


def mean_logits(tables: Sequence[np.ndarray], weights: np.ndarray, exclusive: bool) -> np.ndarray:
    """The probabilities whose logits are the weighted mean of the tables', (N, C); weights as in `weighted_mean`.

    exclusive: the classes exclude each other, so the logits are log p (up to a constant that the softmax takes away).

    >>> mean_logits([np.array([[0.8, 0.2]]), np.array([[0.5, 0.5]])], np.ones((2, 2)), True).round(4)
    array([[0.6667, 0.3333]])
    """
    tiny = 1e-7  # float32 tables know no nearer to 0 and 1
    tables = [np.clip(table, tiny, 1 - tiny) for table in tables]
    if exclusive:
        mean = weighted_mean([np.log(table) for table in tables], weights)
        raised = np.exp(mean - mean.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-weighted_mean([np.log(table / (1 - table)) for table in tables], weights)))


AVERAGES: dict[str, Callable[[Sequence[np.ndarray], np.ndarray, bool], np.ndarray]] = {
    "probs": lambda tables, weights, exclusive: weighted_mean(tables, weights),
    "logits": mean_logits,
}


def combine(
    cell: np.ndarray, image: np.ndarray, rules: Sequence[str], share: float = 0.7, alone: np.ndarray | None = None
) -> np.ndarray:
    """The probabilities (N, C) from the cell models' and the image models' opinion, (N, C) both.

    rules: C names in COMBINE, one a class; share: of the cells' opinion where the rule is `weighted` or `single`; alone
    (N,) bool: which cells are the only one of their image, outside of which `single` leaves the image's opinion out.
    """
    shares = {name: np.full(len(cell), share) for name in COMBINE}
    if alone is not None:
        shares["single"] = np.where(alone, share, 1.0)
    columns = [COMBINE[name](cell[:, index], image[:, index], shares[name]) for index, name in enumerate(rules)]
    return np.stack(columns, axis=1)


def decay(scores: np.ndarray, images: np.ndarray, factor: float) -> np.ndarray:
    """What to multiply a class with that only few cells of an image have, such as Mitotic spindle: (N,) -> (N,).

    The image's opinion holds for its likeliest cell alone: `factor` ** the number of cells of the same image (`images`,
    (N,)) with a higher score, so equal scores get equal factors. Ours, after the observation that an image with the
    label mostly shows one cell in mitosis.

    >>> decay(np.array([0.2, 0.9, 0.2, 0.1]), np.array(["a", "a", "a", "b"]), 0.5)
    array([0.5, 1. , 0.5, 1. ])
    """
    higher = pd.Series(-scores).groupby(images).rank(method="min").to_numpy() - 1
    return factor**higher


def exclude(
    combined: np.ndarray, cell: np.ndarray, image: np.ndarray, negative: int, how: str = "max", penalty: bool = True
) -> np.ndarray:
    """The combined probabilities (N, C) with those of the class `negative` by a rule in NEGATIVE, and with `penalty`
    every other class x (1 - `negative`). The defaults are the published rules (12th place, HPA 2021).
    """
    others = np.arange(combined.shape[1]) != negative
    result = combined.copy()
    result[:, negative] = NEGATIVE[how](
        cell[:, negative], image[:, negative], combined[:, negative], combined[:, others]
    )
    if penalty:
        result[:, others] *= 1 - result[:, [negative]]
    return result
