"""Split the training images into folds that hold each label equally often; cells follow their image.

    python makefolds.py --metadata DATA/train.csv --split_name random_folds10 --n_folds 10 --seed 42 \\
        --cell_metadata META/train_cell.csv

Writes `<folds_dir>/<split_name>/images.csv` (ID,Label,Fold) and, with --cell_metadata, `cells.csv`
(Image,ImageID,CellID,Label,Fold: every cell in its image's fold, with its image's label). Multilabel stratification
after Sechidis et al. (2011), as the iterative-stratification package has it. The same seed gives the same folds.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from cells.table import KEY, match_rows, read_table, write_table
from common.errors import UserError, run
from common.files import safe_name


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competition", default="hpa", help="whose labels: " + ", ".join(competitions.COMPETITIONS))
    parser.add_argument("--metadata", required=True, help="train.csv: ID,Label")
    parser.add_argument("--cell_metadata", help="cells table of the same images, for cells.csv")
    parser.add_argument("--split_name", default="random_folds10", help="name of the split's folder")
    parser.add_argument("--n_folds", type=int, help="without the flag, the number at the end of --split_name")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folds_dir", default="cv_folds", help="folder of all splits")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make the folds, write them, show how often each label is in each."""
    args = get_args_parser().parse_args(argv)
    competition = competitions.get(args.competition)
    folder = Path(args.folds_dir) / safe_name(args.split_name, "--split_name")
    images = competition.read_labels(args.metadata)
    hot = competition.multi_hot(images["Label"])
    images["Fold"] = make_folds(hot, number_of_folds(args.n_folds, args.split_name), args.seed, args.metadata)
    cells = follow_images(args.cell_metadata, images, args.metadata) if args.cell_metadata else None
    write_table(images[["ID", "Label", "Fold"]], folder / "images.csv")
    if cells is not None:
        write_table(cells, folder / "cells.csv")
    print(count_labels(hot, images["Fold"].to_numpy(), competition.CLASSES).to_string())  # noqa: T201


def number_of_folds(n_folds: int | None, split_name: str) -> int:
    """--n_folds, or the number at the end of --split_name; at least 2."""
    if n_folds is None:
        number = re.search(r"\d+$", split_name)
        if not number:
            raise UserError(f"--split_name {split_name} does not end in a number of folds: give --n_folds")
        n_folds = int(number.group())
    if n_folds < 2:
        raise UserError(f"--n_folds {n_folds} is too few: a split has at least 2 folds")
    return n_folds


def make_folds(hot: np.ndarray, n_folds: int, seed: int, name: str) -> np.ndarray:
    """The fold of each row of a multi-hot array (N, C): ints 0 to n_folds - 1, (N,). `name`: the file, for messages."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # imports scikit-learn: seconds, so only when needed

    if len(hot) < n_folds:
        raise UserError(f"{name} has {len(hot)} images, which is fewer than {n_folds} folds; give a smaller --n_folds")
    folds = np.empty(len(hot), np.int64)
    splitter = MultilabelStratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(hot, hot)):
        folds[rows] = fold
    return folds


def follow_images(path: str, images: pd.DataFrame, name: str) -> pd.DataFrame:
    """`Image,ImageID,CellID,Label,Fold` for every row of the cells table at `path`, from the image's row."""
    cells = read_table(path, {"Image": str, "ImageID": str, "CellID": int}, key=KEY)
    rows = match_rows(cells.rename(columns={"ImageID": "ID"}), images, ["ID"], name, exact=False)
    own = images[["Label", "Fold"]].iloc[rows].reset_index(drop=True)
    return pd.concat([cells[["Image", *KEY]], own], axis=1)


def count_labels(hot: np.ndarray, folds: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """How many images of each label (and in all) each fold holds: a row a label, a column a fold."""
    numbers = range(int(folds.max()) + 1)
    counts = pd.DataFrame({f"fold{fold}": hot[folds == fold].sum(axis=0).astype(int) for fold in numbers})
    counts.index = list(classes)
    counts.loc["images"] = [int((folds == fold).sum()) for fold in numbers]
    return counts


if __name__ == "__main__":
    run(main)
