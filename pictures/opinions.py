"""What is thought of the cells to draw: their probabilities, from a table, a submission, or the finder itself."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from cells.table import KEY, match_rows, read_probabilities, typed
from cells.triples import parse_triples, read_rows
from common.errors import UserError


def opinion(
    cells: pd.DataFrame, competition: ModuleType, table: str | None, submission: str | None, what: str
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The cells that a probabilities table or a submission holds and their probabilities (N, C); without either all
    cells, with what their finder says (see `finder_opinion`), or None. what: the cells table's name.

    Where single cells have labels a class has the probability times the cell's score.
    """
    if table and submission:
        raise UserError("give --probabilities or --submission, not both")
    if submission and competition.CELL_LABELS:
        raise UserError(
            f"--submission is for competitions whose submission holds the cells table's masks, not {competition.name}: "
            "leave it out for the finder's own classes, or give --probabilities"
        )
    if not table and not submission:
        return cells, finder_opinion(cells, competition, what)
    cells, probs = (probabilities if table else submitted)(table or submission, cells, competition)
    if not len(cells):
        raise UserError(f"{table or submission} holds no image of {what}")
    return cells, probs * scores_of(cells)[:, None] if competition.CELL_LABELS else probs


def scores_of(cells: pd.DataFrame) -> np.ndarray:
    """The finder's confidence in each cell, (N,); 1 where the table has none."""
    return typed(cells["score"], float, "the cells table").to_numpy() if "score" in cells else np.ones(len(cells))


def finder_opinion(cells: pd.DataFrame, competition: ModuleType, what: str) -> np.ndarray | None:
    """The cells' scores in the column of their Label and 0 elsewhere, (N, C).

    None where the table has no Label, or only empty ones: a finder of one kind of cell.
    """
    if not competition.CELL_LABELS or "Label" not in cells:
        return None
    labels = pd.to_numeric(cells["Label"], errors="coerce").to_numpy(float)
    known = np.isfinite(labels)
    bad = known & ~np.isin(labels, np.arange(len(competition.CLASSES)))
    if bad.any():
        raise UserError(
            f"{what}: Label {cells['Label'][bad].iloc[0]} of {cells['Image'][bad].iloc[0]} is no class index "
            f"0 to {len(competition.CLASSES) - 1}; --classes names other classes"
        )
    if len(cells) and not known.any():
        return None
    probs = np.zeros((len(cells), len(competition.CLASSES)))
    probs[known, labels[known].astype(int)] = scores_of(cells)[known]
    return probs


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
