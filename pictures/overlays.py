"""The mode `overlays`: a picture an image, of the cells that were found, those that are true, or both."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

import competitions
from cells.table import read_cells
from common.errors import UserError, some
from common.files import existing, safe_name
from common.say import say
from pictures.composite import shrink
from pictures.drawing import GREY, Line, Mark
from pictures.judging import Truth, read_truth
from pictures.marks import (
    cell_mark,
    count_lines,
    dropped_mark,
    found_mark,
    legend,
    overlay,
    true_mark,
    with_room,
)
from pictures.opinions import finder_opinion, opinion, scores_of
from pictures.output import save
from pictures.places import place, whole

Placing = Callable[[pd.DataFrame], list[Mark]]  # the outlines of an image's cells, rows of a cells table


class Shown:
    """What is to be drawn: the cells kept and dropped, what is thought of the kept ones (rows, C), and their truth."""

    def __init__(self, args: argparse.Namespace, competition: ModuleType):
        self.competition, self.size, self.beside = competition, args.size, args.beside
        self.truth: Truth | None = None
        if args.cell_meta_csv_path:
            every = read_cells(args.cell_meta_csv_path, dropped=True)
        elif args.truth and competition.CELL_LABELS:
            every = competition.read_cells(existing(args.truth, "--truth"), root=args.root_dir)
        else:
            raise UserError("overlays needs --cell_meta_csv_path; of competitions whose cells have labels, or --truth")
        if self.beside and not (args.truth and competition.CELL_LABELS and args.cell_meta_csv_path):
            raise UserError("--beside is for found cells and --truth of competitions whose cells have labels")
        if args.score_threshold and "score" not in every:
            raise UserError(f"--score_threshold: {args.cell_meta_csv_path or args.truth} has no column score")
        self.images = choose_images(args, every)
        if not every["ImageID"].isin(self.images).any():
            where = args.cell_meta_csv_path or args.truth
            raise UserError(f"{where} has no cell of the images {some(self.images)}; --metadata of its images is right")
        every = every[every["ImageID"].isin(self.images)].reset_index(drop=True)
        keep = every["keep"] != 0 if "keep" in every else pd.Series(True, every.index)
        self.dropped, kept = every[~keep], every[keep].reset_index(drop=True)
        self.cells, self.probs = kept, None
        if not args.cell_meta_csv_path:
            self.probs = finder_opinion(kept, competition, args.truth)
            return
        what = args.cell_meta_csv_path
        cells, self.probs = opinion(kept, competition, args.probabilities, args.submission, what)
        lacking = kept["ImageID"][~kept["ImageID"].isin(cells["ImageID"])].unique()
        if len(lacking):
            raise UserError(f"{args.probabilities or args.submission} lacks the image {some(lacking)}; --images names "
                "others")  # fmt: skip
        sure = scores_of(cells) >= args.score_threshold
        self.cells = cells[sure].reset_index(drop=True)
        self.probs = None if self.probs is None else self.probs[sure]
        if args.truth:
            self.truth = read_truth(args.truth, self.cells, competition, args.root_dir, self.probs)

    def draw(self, image_id: str, image: np.ndarray) -> np.ndarray:
        """The picture of one image."""
        part = self._single if self.competition.CELL_LABELS else self._multiple
        view = whole(image, shrink(image[..., :1], self.size).shape)
        layers, lines = part(image_id, lambda table: [place(row, image.shape[:2], view) for row in table.itertuples()])
        return overlay(image, layers, lines, self.competition.CHANNEL_NAMES, self.size)

    def _multiple(self, image_id: str, placed: Placing) -> tuple[dict, list]:
        """Cells that may have several classes: layers and lines of the panel."""
        rows, dropped = np.flatnonzero(self.cells["ImageID"] == image_id), self._dropped(image_id)
        names, cells = self.competition.SHORT_NAMES, self.cells.iloc[rows]
        labels = self.truth and self.truth.labels
        marks = _dropped_marks(dropped, placed)
        for row, cell, mark in zip(rows, cells["CellID"], placed(cells), strict=True):
            known = (None if own is None else own[row] for own in (self.probs, labels))
            marks.append(cell_mark(mark, cell, names, *known))
        tops = [] if self.probs is None else self.probs[rows].argmax(axis=1)
        return {"": marks}, legend(image_id, len(cells), len(dropped), tops, names)

    def _single(self, image_id: str, placed: Placing) -> tuple[dict, list]:
        """Cells of one class each: the same; true cells dashed among the found ones, or in a picture of their own."""
        rows = np.flatnonzero(self.cells["ImageID"] == image_id)
        names, scale = self.competition.SHORT_NAMES, max(self.size / 2500, 0.3)
        scores = scores_of(self.cells)
        marks = [
            found_mark(mark, self.cells["CellID"].iloc[row], names, None if self.probs is None else self.probs[row],
                       scores[row], None if self.truth is None else self.truth.labels[row])
            for row, mark in zip(rows, placed(self.cells.iloc[rows]), strict=True)
        ]  # fmt: skip
        found = self._counts(rows)
        marks = _dropped_marks(self._dropped(image_id), placed) + marks
        if self.truth is None:
            return {"": with_room(marks, scale)}, count_lines(image_id, len(rows), found, None, names)
        own = np.flatnonzero(self.truth.table["ImageID"] == image_id)
        hit = np.isin(own, self.truth.partners[rows])
        true = [
            true_mark(mark, names, self.truth.classes[row], found, dashed=not self.beside)
            for row, found, mark in zip(own, hit, placed(self.truth.table.iloc[own]), strict=True)
        ]
        lines = count_lines(image_id, len(rows), found, self.truth.classes[own].sum(axis=0), names)
        if self.beside:
            return {"found": with_room(marks, scale), "true": with_room(true, scale)}, lines
        return {"": with_room(marks + true, scale)}, [*lines, Line("solid: found, dashed: true", GREY)]

    def _counts(self, rows: np.ndarray) -> np.ndarray:
        """How many of the cells have each class as their likeliest, (C,)."""
        probs = np.zeros((0, len(self.competition.CLASSES))) if self.probs is None else self.probs[rows]
        return np.bincount(probs[probs.any(axis=1)].argmax(axis=1), minlength=probs.shape[1])

    def _dropped(self, image_id: str) -> pd.DataFrame:
        return self.dropped[self.dropped["ImageID"] == image_id]


def _dropped_marks(dropped: pd.DataFrame, placed: Placing) -> list[Mark]:
    return [dropped_mark(mark, cell) for cell, mark in zip(dropped["CellID"], placed(dropped), strict=True)]


def overlays(args: argparse.Namespace) -> int | None:
    """A picture an image; images that cannot be read are named at the end."""
    competition = competitions.get(args.competition, args.classes)
    shown = Shown(args, competition)
    failed = []
    for image_id in shown.images:
        try:
            image = competition.read_image(args.root_dir, image_id)
        except competition.ImageError as error:
            failed.append(str(error))
            continue
        save(Path(args.out_path) / f"overlay_{safe_name(image_id, 'ImageID')}.png", shown.draw(image_id, image))
    say(f"{args.out_path}: {len(shown.images) - len(failed)} overlays")
    if failed:
        say("not drawn: " + "; ".join(failed))
    return 1 if failed else None


def choose_images(args: argparse.Namespace, cells: pd.DataFrame) -> Sequence[str]:
    """--images, or the first --limit of the metadata; without metadata, of the tables of cells."""
    if args.metadata:
        known = competitions.get(args.competition, args.classes).read_metadata(args.metadata)["ID"]
    else:
        known = cells["ImageID"].drop_duplicates()
    if not args.images:
        return known.iloc[: args.limit].tolist()
    unknown = sorted(set(args.images) - set(known))
    if unknown:
        where = args.metadata or args.cell_meta_csv_path or args.truth
        raise UserError(f"--images {some(unknown)}: {where} has no such ID")
    return list(dict.fromkeys(args.images))
