"""The mode `misses`: where cells and truth disagree most, as pictures and a table."""

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

import competitions
from cells.table import BOX, read_cells, write_table
from common.errors import UserError
from common.say import say
from pictures.composite import picture_of
from pictures.drawing import GREY, RIGHT, Line
from pictures.judging import Truth, describe, misses_of, read_truth, without_finds
from pictures.marks import confidence
from pictures.opinions import opinion
from pictures.output import save
from pictures.places import around, place
from pictures.sheet import grid
from pictures.tiles import miss_tile, true_text

MARGIN = 0.25  # of a cell's box: what is shown around it
COLUMNS = 6
TRUE_NOTE = "; green, dashed: the true cell"
TITLES = {
    "wrong": "Most confident in a class that the cell does not have",
    "false": "Most confident where there is no true cell",
    "overlooked": "True, but overlooked",
}


def misses(args: argparse.Namespace) -> int | None:
    """The cells most confidently wrong, those that are none, and the true cells with the least confidence.

    Images that cannot be read are named at the end.
    """
    failed: dict[str, str] = {}
    competition = competitions.get(args.competition, args.classes)
    what = args.cell_meta_csv_path
    cells, probs = opinion(read_cells(what), competition, args.probabilities, args.submission, what)
    if probs is None:
        raise UserError(f"misses needs --probabilities or --submission; {what} says no classes of its own")
    truth = read_truth(args.truth, cells, competition, args.root_dir, probs)
    tables = misses_of(cells, probs, truth, competition.CELL_LABELS)
    parts = [describe(table, kind, cells, truth, competition.CLASSES) for kind, table in tables.items()]
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    write_table(found, Path(args.out_path) / "misses.csv")
    for kind, table in tables.items():
        if len(table):
            worst = found[found["Kind"] == kind].head(args.limit)
            note = "white: the cell as found" + (TRUE_NOTE if truth.table is not None else "")
            lines = [Line(TITLES[kind]), Line(f"{note}; the worst {len(worst)} of {len(table)}", GREY)]
            tiles = miss_tiles(worst, cells, truth, competition, args, failed)
            save(Path(args.out_path) / f"misses_{kind}.png", grid(tiles, COLUMNS, lines))
    counts = ", ".join(f"{len(table)} {kind}" for kind, table in tables.items())
    say(f"{args.out_path}: of {len(cells)} cells {counts}; the worst as pictures, all in misses.csv")
    if unseen := without_finds(cells, truth):
        say(unseen)
    if failed:
        say("not drawn: " + "; ".join(failed.values()))
    return 1 if failed else None


def miss_tiles(worst: pd.DataFrame, cells: pd.DataFrame, truth: Truth, competition: ModuleType,
               args: argparse.Namespace, failed: dict[str, str]) -> list[np.ndarray]:  # fmt: skip
    """A tile for each row of misses.csv: the cell in its surroundings; each image is read once. `failed` gets what is
    said of images that cannot be read, by ImageID; their cells have no tile.
    """
    tiles = {}
    for image_id, group in worst.groupby("ImageID", sort=False):
        try:
            picture = picture_of(competition.read_image(args.root_dir, image_id))
        except competition.ImageError as error:
            failed[image_id] = str(error)
            continue
        for row in group.itertuples():
            pair = [
                row_of(table, (image_id, cell)) if cell else None
                for table, cell in ((cells, row.CellID), (truth.table, row.TrueCellID))
            ]
            boxes = np.array([[getattr(own, name) for name in BOX] for own in pair if own is not None])
            view = around(boxes, MARGIN, args.size)
            marks = [None if own is None else place(own, picture.shape[:2], view) for own in pair]
            tiles[row.Index] = miss_tile(picture, view, *marks, miss_lines(row, competition))
    return [tiles[index] for index in worst.index if index in tiles]


def row_of(table: pd.DataFrame, key: tuple[str, int]) -> tuple:
    """The row of a cell by ImageID and CellID."""
    return next(table[(table["ImageID"] == key[0]) & (table["CellID"] == key[1])].itertuples())


def miss_lines(row: tuple, competition: ModuleType) -> list[Line]:
    """The caption of a row of misses.csv."""
    labels = np.zeros(len(competition.CLASSES), bool)
    labels[[int(part) for part in row.Label.split("|") if part]] = True
    name = competition.SHORT_NAMES[competition.CLASSES.index(row.Class)]
    cell = f"cell {row.CellID}, IoU {row.IoU:.2f}" if row.CellID else f"true cell {row.TrueCellID}"
    return [
        Line(f"{name} {confidence(row.Probability)}" if row.CellID else f"{name}: cell not found"),
        Line(true_text(labels, competition.SHORT_NAMES), RIGHT if labels.any() else GREY),
        Line(f"{cell}  {row.ImageID}", GREY),
    ]
