"""Make the soft labels of the next round of training from out-of-fold predictions and the images' labels.

    python pseudolabels.py --tables OOF/fold0/probabilities_Cell_BCE_6.csv OOF/fold1/probabilities_Cell_BCE_6.csv ... \\
        --metadata DATA/train.csv --cell_metadata META/train_cell.csv --quantise 4 --out OOF/soft_labels_1.csv
    python train.py ... --soft_labels OOF/soft_labels_1.csv

A round: train all folds, predict each fold's own validation images (test.py --dataset valid), average the views
(convertpredictions.py --dataset valid, all folds at once or with --folds one by one), then this script, then train
again with what it wrote, from the second round on with --previous. Each cell of the cells table must be in exactly one
of the --tables. They may also come from ensemble.py --dataset valid.

What is done, in this order (cells/pseudolabels.py has the formulas):
1. --image_tables, out-of-fold predictions of whole images: a cell's probability x its image's.
2. --previous: --blend x the last round's soft labels + the rest x the new ones.
3. The image's labels: a class it does not have x --absent; a class it has is scaled until the image's best cell reaches
   --floor; a cell of which every other class is below --nothing is Negative with the rest to 1.
4. --quantise 4: the nearest of 0, .25, .5, .75, 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from cells.pseudolabels import consistent, quantise
from cells.table import KEY, match_rows, read_probabilities, read_table, write_table
from common.errors import UserError, run, some
from common.files import sole_writer


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--tables", nargs="+", required=True, help="out-of-fold probabilities tables of the cells")
    parser.add_argument("--image_tables", nargs="+", help="the same of whole images (CellID 0)")
    parser.add_argument("--metadata", required=True, help="train.csv: ID,Label")
    parser.add_argument("--cell_metadata", required=True, help="cells table of the training images")
    parser.add_argument("--absent", type=float, default=0.0, help="factor of a class that the image does not have")
    parser.add_argument("--floor", type=float, default=0.5, help="what the best cell of each label reaches at least")
    parser.add_argument("--nothing", type=float, default=0.1, help="below this in all other classes a cell is Negative")
    parser.add_argument("--quantise", type=int, default=0, help="steps from 0 to 1; 0 = leave the numbers as they are")
    parser.add_argument("--previous", help="the soft labels of the round before")
    parser.add_argument("--blend", type=float, help="share of --previous, 0..1")
    parser.add_argument("--out", required=True, help="the soft labels: a probabilities table, .csv or .parquet")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Join the tables, correct them by the labels, write them, show how they differ from the images' labels."""
    args = get_args_parser().parse_args(argv)
    check(args)
    with sole_writer(Path(args.out).parent):
        correct(args)


def correct(args: argparse.Namespace) -> None:
    """The soft labels of the flags."""
    competition = competitions.get(args.competition, args.classes)
    classes = list(competition.CLASSES)
    cells = read_table(args.cell_metadata, {"ImageID": str, "CellID": int}, key=KEY)[KEY]
    labels = labels_of(cells, args.metadata, competition)
    probs = values_of(cells, join(args.tables, classes), args.tables, classes)
    if args.image_tables:
        images = join(args.image_tables, classes)
        if (images["CellID"] != 0).any():
            raise UserError(f"--image_tables {some(args.image_tables)}: rows of single cells (CellID not 0) are wrong")
        probs *= values_of(cells.assign(CellID=0), images, args.image_tables, classes, exact=False)
    if args.previous:
        before = read_probabilities(args.previous, classes)
        probs = args.blend * values_of(cells, before, [args.previous], classes) + (1 - args.blend) * probs
    owners = cells["ImageID"].to_numpy()
    probs = consistent(probs, labels, owners, competition.NEGATIVE, args.absent, args.floor, args.nothing)
    probs = quantise(probs, args.quantise) if args.quantise else probs
    write_table(pd.concat([cells, pd.DataFrame(probs.astype(np.float32), columns=classes)], axis=1), args.out)
    print(f"{summary(probs, labels, classes)}\n{args.out}: {len(cells)} cells")  # noqa: T201


def check(args: argparse.Namespace) -> None:
    """Refuse flags outside their range and half a pair."""
    for name in ("absent", "floor", "nothing", "blend"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} {value} must lie in 0..1")
    if args.quantise < 0:
        raise UserError(f"--quantise {args.quantise} must be a number of steps, or 0")
    if (args.previous is None) != (args.blend is None):
        raise UserError("--previous, the last round's soft labels, and --blend, their share, go together")


def labels_of(cells: pd.DataFrame, path: str, competition) -> np.ndarray:
    """The labels of each cell's image, (len(cells), C) zeros and ones."""
    images = competition.read_labels(path)
    rows = match_rows(cells.rename(columns={"ImageID": "ID"}), images, ["ID"], path, exact=False)
    return competition.multi_hot(images["Label"])[rows]


def join(paths: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Probabilities tables one below the other; UserError names a row that two of them have, and both."""
    joined = pd.concat([read_probabilities(path, classes).assign(path=path) for path in paths], ignore_index=True)
    doubled = joined.duplicated(KEY)
    if doubled.any():
        image, cell = joined.loc[doubled, KEY].iloc[0]
        where = joined["path"][(joined["ImageID"] == image) & (joined["CellID"] == cell)]
        count = int(doubled.sum())
        raise UserError(
            f"{image}, {cell} is in {' and in '.join(where)} ({count} rows are doubled); out-of-fold tables share none"
        )
    return joined


def values_of(
    keys: pd.DataFrame, table: pd.DataFrame, paths: Sequence[str], classes: Sequence[str], exact: bool = True
) -> np.ndarray:
    """The table's probabilities for each row of `keys`, (N, C); with `exact`, it must have no others."""
    return table[list(classes)].to_numpy()[match_rows(keys, table, KEY, some(paths), exact)]


def summary(probs: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> str:
    """How many cells each class has: by their image's label, by a soft label of a half or more, and as a sum."""
    columns = {"by the image": labels.sum(axis=0), "at least .5": (probs >= 0.5).sum(axis=0), "sum": probs.sum(axis=0)}
    return pd.DataFrame(columns, index=list(classes)).round().astype(int).to_string()


if __name__ == "__main__":
    run(main)
