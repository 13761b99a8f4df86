"""What is known about the cells to draw: their probabilities, their true classes, and where the two disagree."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from cells.masks import decode_rles
from cells.table import KEY, match_rows, read_probabilities
from cells.triples import parse_triples, read_rows
from common.errors import UserError, some
from common.files import existing

MISS_COLUMNS = ("Kind", "ImageID", "CellID", "TrueCellID", "IoU", "Class", "Probability", "Label")


class Truth(NamedTuple):
    """The true classes of N cells, (N, C) bool; how far each overlaps its true cell (NaN where only the image's labels
    are known), (N,); and, for a table of true cells, that table, its classes and each cell's row in it or -1.
    """

    labels: np.ndarray
    overlaps: np.ndarray
    table: pd.DataFrame | None = None
    classes: np.ndarray | None = None
    partners: np.ndarray | None = None


def probabilities(path: str | Path, cells: pd.DataFrame, competition: ModuleType) -> tuple[pd.DataFrame, np.ndarray]:
    """The cells of those images that a probabilities table holds, and their probabilities, (cells, C).

    The table of an image model gives every cell its image's probabilities.
    """
    table = read_probabilities(path, competition.CLASSES)
    key = ["ImageID"] if len(table) and (table["CellID"] == 0).all() else KEY
    cells = cells[cells["ImageID"].isin(table["ImageID"])].reset_index(drop=True)
    rows = match_rows(cells, table, key, str(path), exact=False)
    return cells, table[list(competition.CLASSES)].to_numpy()[rows]


def submitted(path: str | Path, cells: pd.DataFrame, competition: ModuleType) -> tuple[pd.DataFrame, np.ndarray]:
    """The same from a submission, whose masks must be those of the cells table; classes without a triple have 0."""
    probs = np.zeros((len(cells), len(competition.CLASSES)))
    own = cells.groupby("ImageID", sort=False).indices
    masks = cells["PredictionString"].to_numpy()
    seen = set()
    for row in read_rows(path):
        if row.id not in own:
            continue
        seen.add(row.id)
        places = {masks[place]: place for place in own[row.id]}
        classes, scores, texts = parse_triples(row.text, len(competition.CLASSES), row.where)
        unknown = next((index for index, text in enumerate(texts) if text not in places), None)
        if unknown is not None:
            raise UserError(f"{row.where}: triple {unknown + 1} of {row.id} has a mask that is not in the cells table")
        probs[[places[text] for text in texts], classes] = scores
    held = cells["ImageID"].isin(seen).to_numpy()
    return cells[held].reset_index(drop=True), probs[held]


def read_truth(path: str | Path, cells: pd.DataFrame, competition: ModuleType) -> Truth:
    """The true classes of cells: of the true cell that each overlaps most, if far enough; none for the others.

    `path` may also be train.csv: then each cell has its image's labels. UserError for an image that it lacks.
    """
    if "PredictionString" not in pd.read_csv(existing(path, "--truth"), nrows=0).columns:
        labels = competition.read_labels(path)
        rows = match_rows(cells.rename(columns={"ImageID": "ID"}), labels, ["ID"], str(path), exact=False)
        return Truth(competition.multi_hot(labels["Label"])[rows] > 0, np.full(len(cells), np.nan))
    table, classes = competition.read_truth(path)
    lacking = [name for name in ("x1", "y1", "x2", "y2") if name not in table]
    if lacking:
        raise UserError(f"{path} lacks the column {some(lacking)}; a cells table with a further column Label is right")
    missing = cells["ImageID"][~cells["ImageID"].isin(table["ImageID"])].drop_duplicates()
    if len(missing):
        raise UserError(f"{path} has no row for the image {some(missing)}")
    table["_true"] = classes.any(axis=1)
    partners, overlaps = match_cells(cells, table[table["_true"]])
    partners[overlaps < competition.IOU_THRESHOLD] = -1
    labels = np.where((partners >= 0)[:, None], classes[partners], False)
    return Truth(labels, overlaps, table, classes, partners)


def match_cells(cells: pd.DataFrame, truth: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """For each cell, the index label of the true cell it overlaps most (-1: the image has none), and its IoU."""
    partners, overlaps = np.full(len(cells), -1), np.zeros(len(cells))
    true_rows = truth.groupby("ImageID", sort=False).indices
    for image_id, rows in cells.groupby("ImageID", sort=False).indices.items():
        others = true_rows.get(image_id, [])
        if len(others):
            iou = coco.iou(_masks(cells, rows), _masks(truth, others), [0] * len(others))
            partners[rows] = truth.index[others[iou.argmax(axis=1)]]
            overlaps[rows] = iou.max(axis=1)
    return partners, overlaps


def _masks(table: pd.DataFrame, rows: Sequence[int]) -> list[dict]:
    height, width = table[["ImageHeight", "ImageWidth"]].iloc[rows[0]].tolist()
    return decode_rles(table["PredictionString"].iloc[rows].tolist(), height, width)


def wrong(cells: pd.DataFrame, probs: np.ndarray, truth: Truth) -> pd.DataFrame:
    """The class that each cell is most confident in and does not have, most confident first.

    `Cell` (position in `cells`), `True` (position of its true cell, -1 without), `Class` and `Probability`.
    """
    values = np.where(truth.labels, -1.0, probs)
    partners = np.full(len(cells), -1) if truth.partners is None else truth.partners
    table = pd.DataFrame({"Cell": np.arange(len(cells)), "True": partners, "Class": values.argmax(axis=1),
                          "Probability": values.max(axis=1, initial=-1)})  # fmt: skip
    return table[table["Probability"] > 0].sort_values("Probability", ascending=False, kind="stable")


def overlooked(cells: pd.DataFrame, probs: np.ndarray, truth: Truth) -> pd.DataFrame:
    """The class of each true cell that its found cell is least confident in, the least confident first.

    Columns as in `wrong`; a true cell that no cell matches has `Cell` -1 and probability 0, larger ones first. Of the
    images that have a cell only. Empty where the truth is not of single cells.
    """
    columns = ["Cell", "True", "Class", "Probability"]
    if truth.table is None:
        return pd.DataFrame(columns=columns)
    best = pd.Series(np.arange(len(cells)), truth.partners).iloc[np.argsort(-truth.overlaps, kind="stable")]
    best = best[~best.index.duplicated()]
    here = truth.table["ImageID"].isin(cells["ImageID"]) & truth.table["_true"]
    rows = np.flatnonzero(here)
    found = best.reindex(rows, fill_value=-1).to_numpy()
    values = np.where((found >= 0)[:, None], probs[found], 0.0)
    values = np.where(truth.classes[rows], values, 2.0)
    area = (truth.table["x2"] - truth.table["x1"]) * (truth.table["y2"] - truth.table["y1"])
    table = pd.DataFrame({"Cell": found, "True": rows, "Class": values.argmin(axis=1),
                          "Probability": values.min(axis=1, initial=2.0), "_area": -area.to_numpy()[rows]})  # fmt: skip
    return table.sort_values(["Probability", "_area"], kind="stable")[columns]


def describe(table: pd.DataFrame, kind: str, cells: pd.DataFrame, truth: Truth,
             classes: Sequence[str]) -> pd.DataFrame:  # fmt: skip
    """Rows of `wrong` or `overlooked` in names, as misses.csv has them: `MISS_COLUMNS`.

    CellID and TrueCellID are 0 where there is no such cell; Label holds all true classes, joined by `|`.
    """
    rows = []
    for cell, true, index, value in table.itertuples(index=False):
        own = cells.iloc[cell] if cell >= 0 else truth.table.iloc[true]
        labels = truth.classes[true] if true >= 0 else truth.labels[cell]
        rows.append({
            "Kind": kind, "ImageID": own["ImageID"], "CellID": cells["CellID"].iloc[cell] if cell >= 0 else 0,
            "TrueCellID": truth.table["CellID"].iloc[true] if true >= 0 else 0,
            "IoU": round(float(truth.overlaps[cell]), 4) if cell >= 0 else 0.0, "Class": classes[index],
            "Probability": float(value), "Label": "|".join(map(str, np.flatnonzero(labels))),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(MISS_COLUMNS))
