"""Competitions whose truth is one labelled box a row: their rows as a cells table, and what may be wrong with them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cells.table import BOX, read_table, refuse_missing, typed
from common.errors import UserError, some


def make_cells(names: pd.Series, classes: np.ndarray, boxes: np.ndarray, sizes: np.ndarray | None) -> pd.DataFrame:
    """Labelled boxes as a cells table with the columns Label (the class index as text) and score (1).

    names: the image of each row; classes (N,) indices; boxes (N, 4); sizes (N, 2) width, height, or None: then
    ImageWidth and ImageHeight are 0, not known. The cells of an image are counted in the order of the rows.
    """
    number = names.groupby(names).cumcount() + 1
    width, height = (0, 0) if sizes is None else sizes.T
    table = pd.DataFrame(
        {
            "Image": names + "+" + number.astype(str), "ImageID": names, "CellID": number, "ImageWidth": width,
            "ImageHeight": height, "PredictionString": "",
        }
    )  # fmt: skip
    table[BOX] = boxes
    return table.assign(Label=classes.astype(str).astype(object), score=1.0).reset_index(drop=True)


def read_boxes(path: str | Path, columns: dict[str, type], label: str) -> pd.DataFrame:
    """A table of boxes as of `read_table`; a row without a `label`, an image without cells, may lack the numbers."""
    numbers = {name: kind for name, kind in columns.items() if kind is not str}
    table = read_table(path, {name: kind for name, kind in columns.items() if kind is str})
    for name, kind in numbers.items():
        if name in table:
            empty = (table[label] == "") & (table[name].isna() | (table[name] == ""))
            table[name] = typed(table[name].where(~empty, 0), kind, path)
    refuse_missing(table, columns, path)
    return table


def image_labels(names: pd.Series, classes: np.ndarray) -> pd.DataFrame:
    """`ID,Label`: each image once, as first met, with the classes of its rows joined by `|`; -1 is no class."""
    codes, ids = pd.factorize(names)
    pairs = np.unique(np.column_stack([codes, classes]), axis=0)  # by image and class
    pairs = pairs[pairs[:, 1] >= 0]
    return pd.DataFrame({"ID": np.asarray(ids, object), "Label": join(pairs[:, 0], map(str, pairs[:, 1]), len(ids))})


def join(groups: np.ndarray, texts: Iterable[str], count: int) -> list[str]:
    """The texts of each of `count` groups (N,) joined by `|`, in the order given; '' for a group without any.

    >>> join(np.array([2, 0, 2]), ["a", "b", "c"], 3)
    ['b', '', 'a|c']
    """
    joined = [[] for _ in range(count)]
    for group, text in zip(groups.tolist(), texts, strict=True):
        joined[group].append(text)
    return ["|".join(own) for own in joined]


def multi_hot(labels: pd.Series, classes: int) -> np.ndarray:
    """Label texts such as `0|5` as a float32 array (N, classes) of zeros and ones; an empty text is all zeros."""
    hot = np.zeros((len(labels), classes), np.float32)
    for row, text in enumerate(labels):
        hot[row, [int(part) for part in text.split("|") if part]] = 1
    return hot


def class_indices(names: pd.Series, classes: Sequence[str], path: str | Path) -> np.ndarray:
    """The index of each class name, (N,) int64; -1 for an empty one. UserError for a name that is not in `classes`."""
    index = names.map({"": -1, **{name: place for place, name in enumerate(classes)}})
    refuse(index.isna(), path, names, f"is no class; known: {some(classes, 30)}")
    return index.to_numpy(np.int64)


def refuse(bad: np.ndarray | pd.Series, path: str | Path, column: pd.Series, why: str) -> None:
    """UserError for the first bad row, (N,) bool, of a file: names it and its value in `column`, and says `why`."""
    rows = np.flatnonzero(bad)
    if len(rows):
        value = column.iloc[rows[0]]
        text = repr(value) if isinstance(value, str) else f"{value:g}"
        raise UserError(f"{path} row {rows[0] + 2}, column {column.name}: {text} {why}")


def refuse_unknown_images(names: pd.Series, known: pd.Series, what: str, truth: str | Path) -> None:
    """UserError when `what` (a file, or what it is) names images that the truth does not know."""
    extra = names[~names.isin(known)].drop_duplicates()
    if len(extra):
        raise UserError(
            f"{what} names the image {some(extra)}, which {truth} does not have; an image without cells has a row with "
            "an empty class there"
        )
