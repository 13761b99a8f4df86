"""Make the soft labels of the next round of training from predictions and what is known of the labels.

    python pseudolabels.py --tables OOF/fold0/probabilities_Cell_BCE_6.csv OOF/fold1/probabilities_Cell_BCE_6.csv ... \\
        --metadata DATA/train.csv --cell_metadata META/train_cell.csv --quantise 4 --out OOF/soft_labels_1.csv
    python train.py ... --soft_labels OOF/soft_labels_1.csv

A round: train all folds, predict each fold's own validation images (test.py --dataset valid), average the views
(convertpredictions.py --dataset valid, all folds at once or with --folds one by one), then this script, then train
again with what it wrote, from the second round on with --previous. Each cell of the cells table must be in exactly one
of the --tables. They may also come from ensemble.py --dataset valid.

    python pseudolabels.py --competition cytologia --tables OUT/ensemble_ensemble.csv --metadata DATA/test.csv \\
        --cell_metadata META/test_cell.csv --least 0.5 --out OUT/pseudo_1.csv
    python train.py --competition cytologia ... --dataset train,test --pseudo_labels OUT/pseudo_1.csv

The same of images without labels, which are then trained on as well: of each as many cells as the table wants, if it
says so, those with the finder's highest scores, and no cell less sure than --least (score x highest probability).
Without --cell_metadata whole images get soft labels (CellID 0), for train.py --cell image.

What is done, in this order (cells/pseudolabels.py has the formulas):
1. --image_tables, predictions of whole images: a cell's probability x its image's.
2. --previous: --blend x the last round's soft labels + the rest x the new ones.
3. Labels: a class that is not there x --absent, one that is there is scaled until it reaches --floor. Cells of hpa have
   the labels of their image: there its best cell reaches it, and a cell of which every other class is below --nothing
   is Negative with the rest to 1. Elsewhere every cell has its own label.
4. Of cells whose classes exclude each other, probabilities in parts of their sum.
5. --quantise 4: the nearest of 0, .25, .5, .75, 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from cells.boxes import top
from cells.pseudolabels import consistent, quantise
from cells.table import KEY, match_rows, read_probabilities, read_table, write_table
from common.errors import UserError, run, some
from common.files import sole_writer


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--tables", nargs="+", required=True, help="probabilities tables; with labels out-of-fold ones")
    parser.add_argument("--image_tables", nargs="+", help="the same of whole images (CellID 0)")
    parser.add_argument("--metadata", required=True, help="train.csv, or the table of images without labels")
    parser.add_argument("--cell_metadata", help="cells table of these images; without it, the images get soft labels")
    parser.add_argument("--absent", type=float, help="factor of a class that is not there; default: 0 of cells by the "
                        "labels of their image, else 1, as a label of its own may be wrong")  # fmt: skip
    parser.add_argument("--floor", type=float, default=0.5, help="what the best cell of each label reaches at least")
    parser.add_argument("--nothing", type=float, default=0.1, help="below this in all other classes a cell is Negative")
    parser.add_argument("--quantise", type=int, default=0, help="steps from 0 to 1; 0 = leave the numbers as they are")
    parser.add_argument("--least", type=float, default=0.0, help="of what has no label, the least confidence, 0..1")
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
    images = competition.read_metadata(args.metadata)
    rows = rows_of(args, images, competition)
    known = rows["Label"].notna().to_numpy()
    probs = values_of(rows, join(args.tables, classes), args.tables, classes, exact="Count" not in images)
    if args.image_tables:
        whole = join(args.image_tables, classes)
        if (whole["CellID"] != 0).any():
            raise UserError(f"--image_tables {some(args.image_tables)}: rows of single cells (CellID not 0) are wrong")
        probs *= values_of(rows.assign(CellID=0), whole, args.image_tables, classes, exact=False)
    if args.previous:
        before = read_probabilities(args.previous, classes)
        # What had no label and was not sure enough has no row there: the new opinion stands alone.
        held = known | pd.MultiIndex.from_frame(rows[KEY]).isin(pd.MultiIndex.from_frame(before[KEY]))
        old = values_of(rows[held], before, [args.previous], classes)
        probs[held] = args.blend * old + (1 - args.blend) * probs[held]
    labels = np.zeros(probs.shape)
    labels[known] = competition.multi_hot(rows["Label"][known])
    probs = soften(probs, labels, known, rows["ImageID"].to_numpy(), args, competition)
    confidence = probs.max(axis=1) * rows["score"].to_numpy()
    sure = known | (confidence >= args.least)
    if not sure.any():
        most = confidence.max(initial=0)
        raise UserError(f"--least {args.least}: nothing is as sure as that; the highest confidence is {most:.3g}")
    table = pd.DataFrame(probs.astype(np.float32), columns=classes)
    write_table(pd.concat([rows[KEY], table], axis=1)[sure], args.out)
    what = "cells" if args.cell_metadata else "images"
    print(f"{summary(probs[sure], labels[sure], classes)}\n{args.out}: {int(sure.sum())} {what}")  # noqa: T201


def rows_of(args: argparse.Namespace, images: pd.DataFrame, competition) -> pd.DataFrame:
    """What gets a soft label, `ImageID,CellID,Label,score`: the cells or the images; Label is missing if none is known.

    Of images with a `Count` as many cells as that, those with the highest scores.
    """
    if not args.cell_metadata:
        rows = images.rename(columns={"ID": "ImageID"}).assign(CellID=0, score=1.0)
        return rows.assign(Label=images.get("Label"))[[*KEY, "Label", "score"]]
    columns = {"ImageID": str, "CellID": int} | ({"Label": str} if competition.CELL_LABELS else {})
    cells = read_table(args.cell_metadata, columns, key=KEY, optional={"score": float})
    which = match_rows(cells.rename(columns={"ImageID": "ID"}), images, ["ID"], args.metadata, exact=False)
    if "score" not in cells:
        cells["score"] = 1.0
    if competition.CELL_LABELS and "Label" in images:  # else these are a finder's opinion
        cells["Label"] = cells["Label"].where(cells["Label"] != "")
    elif competition.CELL_LABELS:
        cells["Label"] = None
    else:
        cells["Label"] = images["Label"].to_numpy()[which] if "Label" in images else None
    if "Count" in images:
        best = top(cells["score"].to_numpy(), which, images["Count"].to_numpy()[which])
        cells = cells.iloc[np.sort(best)].reset_index(drop=True)
    return cells[[*KEY, "Label", "score"]]


def soften(
    probs: np.ndarray, labels: np.ndarray, known: np.ndarray, images: np.ndarray, args: argparse.Namespace, competition
) -> np.ndarray:
    """Steps 3 to 5 above: probabilities (N, C) corrected by labels (N, C) where those are `known` (N,) bool."""
    weak = bool(args.cell_metadata) and not competition.CELL_LABELS
    owners = images if weak else np.arange(len(probs))
    absent = args.absent if args.absent is not None else 0.0 if weak else 1.0
    if known.any():
        limits = absent, args.floor, args.nothing
        probs[known] = consistent(probs[known], labels[known], owners[known], competition.NEGATIVE, *limits)
    if competition.EXCLUSIVE and args.cell_metadata:
        probs /= np.maximum(probs.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return quantise(probs, args.quantise) if args.quantise else probs


def check(args: argparse.Namespace) -> None:
    """Refuse flags outside their range and half a pair."""
    for name in ("absent", "floor", "nothing", "least", "blend"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise UserError(f"--{name} {value} must lie in 0..1")
    if args.quantise < 0:
        raise UserError(f"--quantise {args.quantise} must be a number of steps, or 0")
    if (args.previous is None) != (args.blend is None):
        raise UserError("--previous, the last round's soft labels, and --blend, their share, go together")


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
    """How often each class is there: by the labels, by a soft label of a half or more, and as a sum."""
    columns = {"labels": labels.sum(axis=0), "at least .5": (probs >= 0.5).sum(axis=0), "sum": probs.sum(axis=0)}
    return pd.DataFrame(columns, index=list(classes)).round().astype(int).to_string()


if __name__ == "__main__":
    run(main)
