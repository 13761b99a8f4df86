"""Combine probabilities tables of cell and image models as a CSV says, and write the submission.

    python ensemble.py ensemble_configs/ensemble_kaggle016.csv --dataset test --submission 1 --rank 0 \\
        --meta_csv DATA/sample_submission.csv --cell_meta_csv_path META/sample_submission_cell.csv --out_path OUT \\
        --add_datetime 0 --batch_size 100

The CSV has a row a table: `Predictions` (a file name, looked up in --tables_path, which without the flag is --out_path,
then beside the CSV, then as given), `Type` (cell or image) and a weight for each class. The weighted means of each kind
are combined by the published rules: cell x image, for Negative the larger one, then the other classes x (1 - Negative);
see --combine, --negative, --negative_penalty. A CSV with tables of one kind only is fine.

Writes `ensemble_<CSV's name>.csv`, a row a cell, and with --submission 1 `submission_<CSV's name>.csv`.

Out-of-fold: the same CSV with the tables of --dataset valid (in another --out_path), --meta_csv DATA/train.csv and the
training set's cells table. --truth prints the score: the competition's against a truth table, or the average precision
over images against train.csv. Only images that the tables hold are scored.
"""

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

import competitions
from cells.combine import COMBINE, NEGATIVE, combine, ranks, weighted_mean
from cells.table import KEY, match_rows, read_probabilities, read_table, write_table
from common.errors import UserError, run
from common.files import existing
from evaluate import show

KINDS = ("cell", "image")
CELL_COLUMNS = {"ImageID": str, "CellID": int, "ImageWidth": int, "ImageHeight": int, "PredictionString": str}


class Opinion(NamedTuple):
    """One row of the CSV: a probabilities table, its kind and its weight for each class, (C,)."""

    path: Path
    kind: str
    weights: np.ndarray
    table: pd.DataFrame


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="CSV: Predictions,Type,<class names>")
    parser.add_argument("--competition", default="hpa", help="whose rules: " + ", ".join(competitions.COMPETITIONS))
    parser.add_argument("--dataset", default="test", help="valid: take those cells that the tables hold (out-of-fold)")
    parser.add_argument("--submission", type=int, choices=[0, 1], default=0, help="1: write the submission")
    parser.add_argument("--rank", type=int, choices=[0, 1], default=0, help="1: average ranks, not probabilities")
    parser.add_argument("--combine", choices=list(COMBINE), default="product", help="of cell and image opinion")
    parser.add_argument("--negative", choices=list(NEGATIVE), default="max",
                        help="Negative: the larger of both, or its own, combined like every class")  # fmt: skip
    parser.add_argument("--negative_penalty", type=int, choices=[0, 1], default=1, help="1: others x (1 - Negative)")
    parser.add_argument("--meta_csv", required=True, help="sample_submission.csv (or train.csv for --dataset valid)")
    parser.add_argument("--cell_meta_csv_path", required=True, help="cells table")
    parser.add_argument("--truth", help="print the score against this truth table or train.csv")
    parser.add_argument("--out_path", required=True)
    parser.add_argument("--tables_path", help="folder of the probabilities tables; without the flag --out_path")
    parser.add_argument("--add_datetime", type=int, choices=[0, 1], default=0, help="1: the time in the file names")
    parser.add_argument("--batch_size", type=int, default=100, help="accepted and not used: all rows are done at once")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the tables, combine them, write the result, score it."""
    args = get_args_parser().parse_args(argv)
    competition = competitions.get(args.competition)
    config = existing(args.config, "ensemble CSV")
    images = read_images(args, competition)
    opinions = read_opinions(config, Path(args.tables_path or args.out_path), competition.CLASSES)
    cells = read_cells(args, images["ID"], opinions)
    probs = decide(opinions, cells, args, competition)
    stamp = datetime.now().strftime("_%Y%m%d_%H%M%S") if args.add_datetime else ""
    path = Path(args.out_path) / f"ensemble_{config.stem}{stamp}.csv"
    table = pd.DataFrame(probs.astype(np.float32), columns=list(competition.CLASSES))
    write_table(pd.concat([cells[KEY], table], axis=1), path)
    say(f"{path}: {len(cells)} cells")
    if args.submission:
        path = path.with_name(f"submission_{config.stem}{stamp}.csv")
        competition.write_submission(path, images, cells, probs)
        say(f"{path}: {len(images)} images")
    if args.truth:
        scored = images["ID"] if args.dataset != "valid" else pd.unique(covering(opinions)["ImageID"])
        show(competition.score_cells(cells, probs, list(scored), args.truth), f"{config.stem} against {args.truth}")


def say(text: str) -> None:
    """Tell the user where a result is."""
    print(text)  # noqa: T201


def read_images(args: argparse.Namespace, competition) -> pd.DataFrame:
    """--meta_csv; for a submission it must have the images' sizes and placeholders."""
    images = competition.read_metadata(args.meta_csv)
    if args.submission and "PredictionString" not in images:
        raise UserError(f"--submission 1 needs sample_submission.csv as --meta_csv, and {args.meta_csv} is not like it")
    return images


def read_opinions(config: Path, folder: Path, classes: Sequence[str]) -> list[Opinion]:
    """The tables that the ensemble CSV names, with their weights; each class needs a weight in each kind it has."""
    rows = read_table(config, {"Predictions": str, "Type": str, **dict.fromkeys(classes, float)})
    if not len(rows):
        raise UserError(f"{config} names no table")
    unknown = rows[~rows["Type"].isin(KINDS)]
    if len(unknown):
        kind, row = unknown["Type"].iloc[0], unknown.index[0] + 2
        raise UserError(f"{config} row {row}: Type {kind!r} is not known; choose from: {', '.join(KINDS)}")
    weights = rows[list(classes)].to_numpy()
    if (weights < 0).any():
        row, column = np.argwhere(weights < 0)[0]
        raise UserError(f"{config} row {row + 2}: the weight of {classes[column]} is below zero")
    for kind in pd.unique(rows["Type"]):
        nothing = weights[(rows["Type"] == kind).to_numpy()].sum(axis=0) == 0
        if nothing.any():
            raise UserError(f"{config}: the {kind} weights of {classes[np.flatnonzero(nothing)[0]]} sum to zero")
    paths = [find_table(name, config, folder) for name in rows["Predictions"]]
    return [
        Opinion(path, kind, weight, read_probabilities(path, classes))
        for path, kind, weight in zip(paths, rows["Type"], weights, strict=True)
    ]


def find_table(name: str, config: Path, folder: Path) -> Path:
    """A table of the ensemble CSV: in `folder`, beside the CSV, or as it is given."""
    places = [folder / name, config.parent / name, Path(name)]
    for place in places:
        if place.is_file():
            return place
    raise UserError(f"{config} names the table {name!r}, which is not there: looked for {', '.join(map(str, places))}")


def read_cells(args: argparse.Namespace, images: pd.Series, opinions: Sequence[Opinion]) -> pd.DataFrame:
    """The cells to decide on: the cells table, for --dataset valid those rows whose images the tables hold."""
    cells = read_table(args.cell_meta_csv_path, CELL_COLUMNS, key=KEY)
    if args.dataset == "valid":
        held = covering(opinions)["ImageID"]
        cells = cells[cells["ImageID"].isin(held)].reset_index(drop=True)
    if not len(cells):
        raise UserError(f"{args.cell_meta_csv_path} has no cell of the images that {opinions[0].path} holds")
    for name, table in [(args.cell_meta_csv_path, cells), *((own.path, own.table) for own in opinions)]:
        unknown = table["ImageID"][~table["ImageID"].isin(images)]
        if len(unknown):
            raise UserError(f"{name} has the image {unknown.iloc[0]}, which {args.meta_csv} lacks")
    return cells


def covering(opinions: Sequence[Opinion]) -> pd.DataFrame:
    """The table that says which images there are: an image table if there is one, as it has images without cells."""
    return max(opinions, key=lambda own: own.kind == "image").table


def decide(opinions: Sequence[Opinion], cells: pd.DataFrame, args: argparse.Namespace, competition) -> np.ndarray:
    """The combined probability of each cell and class: (len(cells), C)."""
    means = {}
    for kind in KINDS:
        own = [opinion for opinion in opinions if opinion.kind == kind]
        if own:
            values = [values_of(opinion, cells, competition.CLASSES, bool(args.rank)) for opinion in own]
            means[kind] = weighted_mean(values, np.array([opinion.weights for opinion in own]))
    rules = args.combine, args.negative, bool(args.negative_penalty)
    return combine(means.get("cell"), means.get("image"), competition.NEGATIVE, *rules)


def values_of(opinion: Opinion, cells: pd.DataFrame, classes: Sequence[str], rank: bool) -> np.ndarray:
    """A table's probabilities (or ranks) for each row of the cells table, joined by key: (len(cells), C)."""
    table, name = opinion.table, str(opinion.path)
    values = table[list(classes)].to_numpy()
    values = ranks(values) if rank else values
    if opinion.kind == "cell":
        return values[match_rows(cells, table, KEY, name)]
    if (table["CellID"] != 0).any():
        raise UserError(f"{name} has rows of single cells (CellID not 0), but its Type is image")
    return values[match_rows(cells, table, ["ImageID"], name, exact=False)]


if __name__ == "__main__":
    run(main)
