"""Split the training images into folds that hold each label equally often; cells follow their image.

    python makefolds.py --metadata DATA/train.csv --split_name random_folds10 --n_folds 10 --seed 42 \\
        --cell_metadata META/train_cell.csv --groups DATA/duplicates.csv

Writes `<folds_dir>/<split_name>/images.csv` (ID,Label,Fold) and, with --cell_metadata, `cells.csv`
(Image,ImageID,CellID,Label,Fold: every cell in its image's fold, with its own label where the cells table has a column
Label, else its image's; cells whose own Label is empty are left out). Multilabel stratification after Sechidis et al.
(2011), as the iterative-stratification package has it. The same seed gives the same folds.

With --groups (findduplicates.py writes it; it must have a row for every image) the images of a cluster are in one fold:
clusters are what is stratified, with the labels of all their images. Both files then have a column Cluster.

--by COLUMN takes the folds as they are: fold 0 the images with the first of the column's sorted values, and so on (the
official folds of pannuke: --by fold). --holdout N makes two folds: 0 with N images, to validate on, and 1 with the
others. --tables also writes `fold<k>.csv`, the rows of --metadata (of a folder: its images) that belong to the images
of a fold, to find cells in them and to score them alone.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from cells.groups import check_folds, read_groups
from cells.images import doubled
from cells.table import KEY, match_rows, read_header, read_table, write_table
from common.errors import UserError, at_least, run, some
from common.files import safe_name, sole_writer
from common.seeds import rng


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--metadata", required=True, help="train.csv, or what the competition has for it")
    parser.add_argument("--cell_metadata", help="cells table of the same images, for cells.csv")
    parser.add_argument("--groups", help="ID,Cluster,Keep: images of one Cluster are never in two folds")
    parser.add_argument("--drop_duplicates", action="store_true", help="leave out images whose Keep is 0 in --groups")
    parser.add_argument("--split_name", default="random_folds10", help="name of the split's folder")
    parser.add_argument("--n_folds", type=int, help="without the flag, the number at the end of --split_name")
    parser.add_argument("--holdout", type=int, help="images of fold 0, instead of folds of equal size")
    parser.add_argument("--by", help="a column of the metadata whose values are the folds (pannuke: fold)")
    parser.add_argument("--tables", action="store_true", help="write the metadata's rows of each fold, too")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--folds_dir", default="cv_folds", help="folder of all splits")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make the folds, write them, show how often each label is in each."""
    args = get_args_parser().parse_args(argv)
    competition = competitions.get(args.competition, args.classes)
    folder = Path(args.folds_dir) / safe_name(args.split_name, "--split_name")
    at_least(args, {"seed": 0})
    ways = [flag for flag in ("n_folds", "holdout", "by") if getattr(args, flag) is not None]
    if len(ways) > 1:
        raise UserError(f"--{' and --'.join(ways)} do not go together: one of them says what the folds are")
    table = competition.read_labels(args.metadata)
    labelled = table[["ID", "Label"]]
    images = group(labelled, args.groups, args.drop_duplicates)
    hot = competition.multi_hot(images["Label"])
    clusters = images.get("Cluster")
    if args.by is not None:
        folds = folds_by(images, table, args.by, args.metadata)
    elif args.holdout is not None:
        folds = hold_out(hot, args.holdout, args.seed, args.metadata, clusters)
    else:
        n_folds = number_of_folds(args.n_folds, args.split_name)
        folds = make_folds(hot, n_folds, args.seed, args.metadata, clusters)
    images.insert(2, "Fold", folds)
    cells = follow_images(args.cell_metadata, images, labelled, args.metadata) if args.cell_metadata else None
    if clusters is not None:
        check_folds(images, "Cluster", "images.csv")
    with sole_writer(folder):
        for path in (folder / "cells.csv", *folder.glob("fold[0-9]*.csv")):  # of an earlier split of this name
            path.unlink(missing_ok=True)
        write_table(images, folder / "images.csv")
        if cells is not None:
            write_table(cells, folder / "cells.csv")
        if args.tables:
            write_fold_tables(args.metadata, table, competition.ID_COLUMN, images, folder)
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


def group(images: pd.DataFrame, path: str | None, drop: bool) -> pd.DataFrame:
    """The images with their Cluster by the table at `path`; drop: without those whose Keep is 0."""
    if path is None:
        if drop:
            raise UserError("--drop_duplicates needs --groups, the table that says which images to keep")
        return images.copy()
    groups = read_groups(path, keep=drop)
    own = groups.iloc[match_rows(images, groups, ["ID"], path, exact=False)].reset_index(drop=True)
    images = images.assign(Cluster=own["Cluster"])
    return images[own["Keep"] == 1].reset_index(drop=True) if drop else images


def make_folds(hot: np.ndarray, n_folds: int, seed: int, name: str, clusters: pd.Series | None = None) -> np.ndarray:
    """The fold of each row of a multi-hot array (N, C): ints 0 to n_folds - 1, (N,). `name`: the file, for messages.

    clusters (N,): rows of the same value go together, with the labels that any of them has.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold  # imports scikit-learn: seconds, so only when needed

    kind, which = "images", np.arange(len(hot))
    if clusters is not None:
        kind, which = "clusters of images", pd.factorize(clusters)[0]
        hot = pd.DataFrame(hot).groupby(which).max().to_numpy()
    if len(hot) < n_folds:
        raise UserError(f"{name} has {len(hot)} {kind}, which is fewer than {n_folds} folds; give a smaller --n_folds")
    folds = np.empty(len(hot), np.int64)
    splitter = MultilabelStratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(hot, at_least_two(hot))):
        folds[rows] = fold
    return folds[which]


def hold_out(hot: np.ndarray, count: int, seed: int, name: str, clusters: pd.Series | None = None) -> np.ndarray:
    """0 for `count` rows of a multi-hot array (N, C), stratified, and 1 for the others, (N,). name: the file."""
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    if clusters is not None:
        raise UserError("--holdout and --groups do not go together; make folds with --n_folds")
    if not 0 < count < len(hot):
        raise UserError(f"--holdout {count} must be above 0 and below the {len(hot)} images of {name}")
    splitter = MultilabelStratifiedShuffleSplit(1, test_size=count, random_state=seed)
    folds = np.ones(len(hot), np.int64)
    folds[next(splitter.split(hot, at_least_two(hot)))[1]] = 0
    # The labels decide the size there, so it can be a few off.
    extra = int((folds == 0).sum()) - count
    moved = rng(seed, "holdout").permutation(np.flatnonzero(folds == (0 if extra > 0 else 1)))[: abs(extra)]
    folds[moved] = 1 - folds[moved]
    return folds


def at_least_two(hot: np.ndarray) -> np.ndarray:
    """A multi-hot array (N, C) with its column twice if it has one alone, which is not multilabel for scikit-learn."""
    return hot if hot.shape[1] > 1 else np.hstack([hot, hot])


def folds_by(images: pd.DataFrame, table: pd.DataFrame, column: str, name: str) -> np.ndarray:
    """The place of each image's value in `column` of `table` among its sorted values, (N,). name: the file."""
    if column not in table:
        raise UserError(f"--by {column}: {name} has no such column; it has {', '.join(table)}")
    values = table.set_index("ID")[column].loc[images["ID"]]
    empty = values.isna() | (values.astype(str) == "")
    if empty.any():
        raise UserError(f"--by {column}: {name} lacks the value of {some(values.index[empty])}; each image needs one")
    if values.nunique() < 2:
        raise UserError(f"--by {column}: all images of {name} have the same; folds are at least 2")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def write_fold_tables(path: str, labels: pd.DataFrame, column: str, images: pd.DataFrame, folder: Path) -> None:
    """`fold<k>.csv` for each fold: the rows of the table at `path` whose `column` is an image of the fold; where that
    is a folder, of `labels`, what the competition reads there, by its ID.
    """
    table = labels.rename(columns={"ID": column})
    if not Path(path).is_dir():
        path = doubled(path)
        table = read_table(path, dict.fromkeys(read_header(path, "--metadata"), str))  # as it is written there
    for fold, own in images.groupby("Fold"):
        write_table(table[table[column].isin(own["ID"])], folder / f"fold{fold}.csv")


def follow_images(path: str, images: pd.DataFrame, labelled: pd.DataFrame, name: str) -> pd.DataFrame:
    """`Image,ImageID,CellID,Label,Fold` for the rows of the cells table at `path`, from the row of their image.

    Cells of an image that was dropped as a duplicate, one of `labelled` but not of `images`, are left out; so are,
    where the cells have labels of their own, cells without one.
    """
    cells = read_table(path, {"Image": str, "ImageID": str, "CellID": int}, key=KEY, optional={"Label": str})
    if "Label" in cells:
        cells = cells[cells["Label"] != ""]
    keys = cells[["ImageID"]].rename(columns={"ImageID": "ID"})
    match_rows(keys, labelled, ["ID"], name, exact=False)
    there = keys["ID"].isin(images["ID"])
    cells, keys = cells[there].reset_index(drop=True), keys[there]
    own = images.iloc[match_rows(keys, images, ["ID"], name, exact=False)].reset_index(drop=True)
    if "Label" in cells:
        own["Label"] = cells["Label"]
    return pd.concat([cells[["Image", *KEY]], own.drop(columns="ID")], axis=1)


def count_labels(hot: np.ndarray, folds: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """How many images of each label (and in all) each fold holds: a row a label, a column a fold."""
    numbers = range(int(folds.max()) + 1)
    counts = pd.DataFrame({f"fold{fold}": hot[folds == fold].sum(axis=0).astype(int) for fold in numbers})
    counts.index = list(classes)
    counts.loc["images"] = [int((folds == fold).sum()) for fold in numbers]
    return counts


if __name__ == "__main__":
    run(main)
