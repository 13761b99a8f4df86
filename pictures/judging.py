"""What is true of the cells to draw, and where their probabilities disagree with it."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd
from pycocotools import mask as coco

from cells.boxes import iou as box_iou
from cells.masks import decode_rles
from cells.table import BOX, match_rows, read_header
from common.errors import UserError, some
from common.files import existing
from pictures.opinions import scores_of

LEAST_IOU = 0.5  # of a find and the true cell that it is taken for, where the competition says nothing
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


def read_truth(
    path: str | Path, cells: pd.DataFrame, competition: ModuleType, root: str | None = None,
    probs: np.ndarray | None = None,
) -> Truth:  # fmt: skip
    """The true classes of cells: of the true cell that each overlaps most, if far enough; none for the others.

    Where single cells have labels, `path` is what competition.read_cells reads (with the images' folder `root`), and
    no two cells share a true one: those with the highest of `probs` (N, C), or scores, choose first. Elsewhere it may
    also be train.csv: then each cell has its image's labels. UserError for an image that it lacks.
    """
    if competition.CELL_LABELS:
        confidence = scores_of(cells) if probs is None else probs.max(axis=1)
        return _read_labelled(path, cells, competition, root, confidence)
    if "PredictionString" not in read_header(path, "--truth"):
        labels = competition.read_labels(path)
        rows = match_rows(cells.rename(columns={"ImageID": "ID"}), labels, ["ID"], str(path), exact=False)
        return Truth(competition.multi_hot(labels["Label"])[rows] > 0, np.full(len(cells), np.nan))
    table, classes = competition.read_truth(path)
    lacking = [name for name in BOX if name not in table]
    if lacking:
        raise UserError(f"{path} lacks the column {some(lacking)}; a cells table with a further column Label is right")
    table[BOX] = table[BOX].apply(pd.to_numeric, errors="coerce")
    bad = table[BOX].isna().any(axis=1) & classes.any(axis=1)  # an image without cells has a row without a box
    if bad.any():
        raise UserError(f"{path} row {bad.idxmax() + 2}: the box is not of numbers")
    missing = cells["ImageID"][~cells["ImageID"].isin(table["ImageID"])].drop_duplicates()
    if len(missing):
        raise UserError(f"{path} has no row for the image {some(missing)}")
    table["_true"] = classes.any(axis=1)
    partners, overlaps = match_cells(cells, table[table["_true"]])
    partners[overlaps < competition.IOU_THRESHOLD] = -1
    labels = np.where((partners >= 0)[:, None], classes[partners], False)
    return Truth(labels, overlaps, table, classes, partners)


def _read_labelled(path, cells: pd.DataFrame, competition: ModuleType, root, confidence: np.ndarray) -> Truth:
    table = competition.read_cells(existing(path, "--truth"), root=root)
    known = competition.read_metadata(path)["ID"]
    missing = cells["ImageID"][~cells["ImageID"].isin(known)].drop_duplicates()
    if len(missing):
        raise UserError(f"{path} does not know the image {some(missing)}")
    classes = competition.multi_hot(table["Label"]) > 0
    partners, overlaps = pair_cells(cells, confidence, table, getattr(competition, "IOU_THRESHOLD", LEAST_IOU))
    labels = np.zeros((len(cells), classes.shape[1]), bool)
    labels[partners >= 0] = classes[partners[partners >= 0]]
    return Truth(labels, overlaps, table.assign(_true=True), classes, partners)


def pair_cells(
    cells: pd.DataFrame, confidence: np.ndarray, truth: pd.DataFrame, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each cell the place of its true cell, or -1, and its largest IoU with any: (N,) both.

    By falling confidence (N,), a cell takes the free true one of its image that it overlaps most, by at least `least`.
    """
    partners, overlaps = np.full(len(cells), -1), np.zeros(len(cells))
    true_rows = truth.groupby("ImageID", sort=False).indices
    for image_id, rows in cells.groupby("ImageID", sort=False).indices.items():
        others = true_rows.get(image_id, [])
        if not len(others):
            continue
        iou = overlap(cells, rows, truth, others)
        overlaps[rows] = iou.max(axis=1)
        for own in np.argsort(-confidence[rows], kind="stable"):
            best = iou[own].argmax()
            if iou[own, best] >= least:
                partners[rows[own]] = others[best]
                iou[:, best] = 0
    return partners, overlaps


def without_finds(cells: pd.DataFrame, truth: Truth) -> str:
    """Says how many true cells are in images without any find, which `overlooked` leaves out; empty where none is."""
    if truth.table is None:
        return ""
    lost = truth.table[truth.table["_true"] & ~truth.table["ImageID"].isin(cells["ImageID"])]
    images = lost["ImageID"].nunique()
    return f"{len(lost):,} true cells of {images:,} images without any find are not counted" if images else ""


def overlap(cells: pd.DataFrame, rows: Sequence[int], truth: pd.DataFrame, others: Sequence[int]) -> np.ndarray:
    """The IoU of cells and true cells of one image, (rows, others): of masks where all are masks, else of boxes."""
    if (cells["PredictionString"].iloc[rows] != "").all() and (truth["PredictionString"].iloc[others] != "").all():
        return _mask_iou(cells, rows, truth, others)
    boxes, true = (table[BOX].to_numpy(float)[own] for table, own in ((cells, rows), (truth, others)))
    return box_iou(boxes[:, None], true)


def match_cells(cells: pd.DataFrame, truth: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """For each cell, the index label of the true cell it overlaps most (-1: the image has none), and its IoU."""
    partners, overlaps = np.full(len(cells), -1), np.zeros(len(cells))
    true_rows = truth.groupby("ImageID", sort=False).indices
    for image_id, rows in cells.groupby("ImageID", sort=False).indices.items():
        others = true_rows.get(image_id, [])
        if len(others):
            iou = _mask_iou(cells, rows, truth, others)
            partners[rows] = truth.index[others[iou.argmax(axis=1)]]
            overlaps[rows] = iou.max(axis=1)
    return partners, overlaps


def _mask_iou(cells: pd.DataFrame, rows: Sequence[int], truth: pd.DataFrame, others: Sequence[int]) -> np.ndarray:
    sizes = [tuple(map(int, table[["ImageWidth", "ImageHeight"]].iloc[own[0]]))
             for table, own in ((cells, rows), (truth, others))]  # fmt: skip
    if sizes[0] != sizes[1]:
        found, true = (f"{width} x {height}" for width, height in sizes)
        image = cells["ImageID"].iloc[rows[0]]
        raise UserError(f"--truth: image {image} has {true} pixels, but {found} in the cells table")
    return coco.iou(_masks(cells, rows), _masks(truth, others), [0] * len(others))


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


def misses_of(cells: pd.DataFrame, probs: np.ndarray, truth: Truth, single: bool) -> dict[str, pd.DataFrame]:
    """What is wrong with the cells, by kind, in rows as `wrong` and `overlooked` give them, the worst first.

    single: each cell has one class. Then `wrong` are the cells that are some true cell of another class than their
    likeliest, `false` those that are none, and `overlooked` the true cells that were not found.
    """
    tables = {"wrong": wrong(cells, probs, truth), "overlooked": overlooked(cells, probs, truth)}
    if not single:
        return tables
    own = tables["wrong"]
    matched = (own["True"] >= 0).to_numpy()
    likeliest = probs.argmax(axis=1)[own["Cell"]] == own["Class"]
    lost = tables["overlooked"]
    return {"wrong": own[matched & likeliest], "false": own[~matched], "overlooked": lost[lost["Cell"] < 0]}


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
