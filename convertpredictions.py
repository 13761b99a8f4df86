"""Average raw predictions over views, seeds and folds into one probabilities table.

    python convertpredictions.py --dataset test --augment all --model Cell_BCE --epoch 6 --cellorimage cell --seeds 1 \\
        --rank 0 --predictions_path RESULTS/submissions --meta_csv_path DATA/sample_submission.csv \\
        --cell_meta_csv_path META/sample_submission_cell.csv --out_path OUT --add_datetime 0 --batch_size 100

Reads `<predictions_path>/<model>/fold<k>/epoch_<NNN>/<view>_seed<s>/prob_<dataset>.npz`, writes
`<out_path>/probabilities_<model>_<epoch>.csv`: a row a cell in the cells table's order, or a row an image (CellID 0) in
the order of --meta_csv_path. An image that has neither cells nor predictions (segment.py skipped it) has no row.

--dataset valid is out-of-fold: every fold has predicted its own validation images, and the folds are joined, not
averaged. All images of --meta_csv_path (train.csv) must then be predicted, unless --folds picks some of the folds: the
table then holds what those have predicted. The table has the same name for every dataset, so that one ensemble CSV
serves them all: give each dataset its own --out_path.

--cellorimage nucleus: each cell's row has what its nucleus says of the classes of nuclei, 0 elsewhere; the ensemble CSV
gives it weight 0 there.
"""

import argparse
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from augment.views import parse_views
from cells.combine import ranks
from cells.table import KEY, read_table, write_table
from common.errors import UserError, at_least, first_line, run, some
from common.files import existing, safe_name, sole_writer


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--dataset", default="test", help="which predictions; valid = out-of-fold")
    parser.add_argument("--augment", default="default", help="views: default, all or a comma-separated list")
    parser.add_argument("--model", required=True, help="--out_dir of train.py and test.py")
    parser.add_argument("--epoch", required=True, help="as in test.py's --predict_epoch: a number, or best")
    parser.add_argument("--cellorimage", choices=["cell", "image", "nucleus"], required=True)
    parser.add_argument("--seeds", default="0", help="seeds of random crops, joined by commas; 0: the whole image")
    parser.add_argument("--folds", help="a comma-separated list; without the flag every fold<k> folder of the model")
    parser.add_argument("--rank", type=int, choices=[0, 1], default=0, help="1: average ranks, not probabilities")
    parser.add_argument("--truncate", type=int, default=0, help="round to this many decimals; 0 = not at all")
    parser.add_argument("--predictions_path", required=True, help="folder of raw predictions: RESULTS/submissions")
    parser.add_argument("--meta_csv_path", required=True, help="sample_submission.csv or train.csv")
    parser.add_argument("--cell_meta_csv_path", help="cells table; needed for cells")
    parser.add_argument("--out_path", required=True)
    parser.add_argument("--add_datetime", type=int, choices=[0, 1], default=0, help="1: the time in the file name")
    parser.add_argument("--batch_size", type=int, default=100, help="accepted and not used: all rows are done at once")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Find the raw predictions, average them, put them in order, write the table."""
    args = get_args_parser().parse_args(argv)
    at_least(args, {"truncate": 0})
    stamp = datetime.now().strftime("_%Y%m%d_%H%M%S") if args.add_datetime else ""
    path = Path(args.out_path) / f"probabilities_{args.model}_{args.epoch}{stamp}.csv"
    with sole_writer(args.out_path):
        table = convert(args, find_files(args))
        write_table(table, path)
    print(f"{path}: {len(table)} rows")  # noqa: T201


def convert(args: argparse.Namespace, files: dict[int, list[Path]]) -> pd.DataFrame:
    """The probabilities table of the raw predictions of each fold: of all that `find_files` gives, or of some."""
    classes = competitions.get(args.competition, args.classes).CLASSES
    own = competitions.get(args.competition, args.classes, args.cellorimage == "nucleus").CLASSES
    wanted = wanted_rows(args)
    ids, probs = gather(files, len(own), args.dataset == "valid", bool(args.rank))
    probs = probs if own == classes else spread(probs, own, classes)
    return in_order(wanted, ids, probs, classes, args)


def epoch_folder(epoch: str) -> str:
    """The folder of an epoch's predictions.

    >>> epoch_folder("6"), epoch_folder("best")
    ('epoch_006', 'epoch_best')
    """
    if epoch != "best" and not epoch.isdecimal():
        raise UserError(f"--epoch {epoch} must be an epoch's number or best")
    return f"epoch_{epoch}" if epoch == "best" else f"epoch_{int(epoch):03d}"


def find_files(args: argparse.Namespace) -> dict[int, list[Path]]:
    """The raw prediction files of each fold: every view x seed. UserError for a fold or file that is not there."""
    model = existing(Path(args.predictions_path) / safe_name(args.model, "--model"), "--model")
    views, seeds, epoch = parse_views(args.augment), parse_numbers(args.seeds, "--seeds"), epoch_folder(args.epoch)
    present = sorted(int(path.name[4:]) for path in model.glob("fold*") if re.fullmatch(r"fold\d+", path.name))
    folds = parse_numbers(args.folds, "--folds") if args.folds else present
    if not folds:
        raise UserError(f"{model} has no folder fold0, fold1, ...: run test.py first")
    for fold in set(folds) - set(present):
        raise UserError(f"--folds: {model / f'fold{fold}'} does not exist; there are the folds {some(present, 10)}")
    return {
        fold: [
            model / f"fold{fold}" / epoch / f"{view}_seed{seed}" / f"prob_{args.dataset}.npz"
            for view in views
            for seed in seeds
        ]
        for fold in folds
    }


def spread(probs: np.ndarray, own: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Probabilities of the classes `own` as those of `classes`: 0 where `own` lacks one; what only `own` has goes."""
    wide = np.zeros((len(probs), len(classes)))
    shared = [name for name in classes if name in own]
    wide[:, [classes.index(name) for name in shared]] = probs[:, [own.index(name) for name in shared]]
    return wide


def parse_numbers(text: str, flag: str) -> list[int]:
    """Whole numbers joined by commas, each once: `"1,2"` -> [1, 2]."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"{flag} {text} must be whole numbers joined by commas, such as 0,1,2")
    return list(dict.fromkeys(int(part) for part in parts))


def gather(files: dict[int, list[Path]], classes: int, join: bool, rank: bool) -> tuple[pd.Index, np.ndarray]:
    """Ids and mean probabilities (N, C) over all files; with `join` over each fold's, the folds one after another."""
    if not join:
        return mean([path for paths in files.values() for path in paths], classes, rank)
    ids, probs = zip(*(mean(paths, classes, rank) for paths in files.values()), strict=True)
    joined = ids[0].append(list(ids[1:]))
    if not joined.is_unique:
        raise UserError(f"{joined[joined.duplicated()][0]} is predicted by more than one fold of {some(files, 10)}")
    return joined, np.concatenate(probs)


def mean(paths: Sequence[Path], classes: int, rank: bool) -> tuple[pd.Index, np.ndarray]:
    """The first file's ids and the mean over all files, each joined to them by id: (N, C) float64."""
    first, total, maker = load(paths[0], classes, rank)
    ids = unique(first, paths[0])
    makers = {seed_of(paths[0]): (maker, paths[0])}
    for path in paths[1:]:
        own, probs, maker = load(path, classes, rank)
        before, other = makers.setdefault(seed_of(path), (maker, path))
        if maker != before:
            raise UserError(f"{path} and {other} are of other weights or samples: run test.py with all views again")
        total += probs if np.array_equal(own, first) else probs[same_ids(ids, unique(own, path), paths[0], path)]
    return ids, total / len(paths)


def seed_of(path: Path) -> tuple[Path, str]:
    """What the views of one look of a network share: the folder of the fold's epoch, and the seed.

    >>> seed_of(Path("net/fold0/epoch_006/flipud_lr_seed1/prob_test.npz"))
    (PosixPath('net/fold0/epoch_006'), '1')
    """
    return path.parent.parent, path.parent.name.rpartition("_seed")[2]


def unique(ids: np.ndarray, path: Path) -> pd.Index:
    """Ids as an index; UserError when `path` has one of them twice."""
    index = pd.Index(ids.tolist(), dtype=object)
    if not index.is_unique:
        raise UserError(f"{path} has the id {index[index.duplicated()][0]} more than once")
    return index


def same_ids(ids: pd.Index, own: pd.Index, first: Path, path: Path) -> np.ndarray:
    """For each of `ids` (of the file `first`) its position in `own` (of `path`); UserError unless they are the same."""
    for lacking, having, those in ((path, first, ids.difference(own)), (first, path, own.difference(ids))):
        if len(those):
            raise UserError(f"{lacking} has no prediction for {those[0]}, which {having} has")
    return own.get_indexer(ids)


def load(path: Path, classes: int, rank: bool) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Ids and probabilities (N, C), float64, of one raw prediction file, checked; ranks with `rank`. And the number of
    the weights and samples that it was made of, None in a file of another program.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: run test.py with this fold, epoch, view, seed and dataset first")
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, probs = file["ids"], file["probs"].astype(np.float64)
            maker = int(file["made_by"]) if "made_by" in file else None
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path} is not a file of raw predictions with ids and probs: {first_line(error)}") from error
    if ids.dtype.kind != "U" or not len(ids) or probs.shape != (len(ids), classes):
        raise UserError(
            f"{path} has ids of type {ids.dtype}, shape {ids.shape}, and probs of shape {probs.shape}; "
            f"text (N,) and (N, {classes}), N above 0, are right"
        )
    bad = np.argwhere(~((probs >= 0) & (probs <= 1)))  # NaN is neither
    if len(bad):
        row, column = bad[0]
        raise UserError(f"{path}: {ids[row]} has the value {probs[row, column]}, which is not a probability in 0..1")
    return ids, ranks(probs) if rank else probs, maker


def wanted_rows(args: argparse.Namespace) -> pd.DataFrame:
    """The rows that the table should have: ImageID, CellID, `id` as the raw predictions spell it, and `needed`."""
    images = competitions.get(args.competition, args.classes).read_metadata(args.meta_csv_path)["ID"]
    cells = None
    if args.cell_meta_csv_path:
        cells = read_table(args.cell_meta_csv_path, {"ImageID": str, "CellID": int}, key=KEY)[KEY]
    if args.cellorimage == "image":
        needed = True if cells is None else images.isin(cells["ImageID"])
        return pd.DataFrame({"ImageID": images, "CellID": 0, "id": images, "needed": needed})
    if cells is None:
        raise UserError("--cellorimage cell needs --cell_meta_csv_path, the cells table")
    unknown = cells["ImageID"][~cells["ImageID"].isin(images)]
    if len(unknown):
        raise UserError(f"{args.cell_meta_csv_path} has cells of {unknown.iloc[0]}, which {args.meta_csv_path} lacks")
    return cells.assign(id=cells["ImageID"] + "+" + cells["CellID"].astype(str), needed=True)


def in_order(
    wanted: pd.DataFrame, ids: pd.Index, probs: np.ndarray, classes: Sequence[str], args: argparse.Namespace
) -> pd.DataFrame:
    """The probabilities table: the predictions in the order of the wanted rows, joined by id."""
    extra = ids[~ids.isin(wanted["id"])]
    if len(extra):
        raise UserError(f"the predictions of {args.model} hold {some(extra)}, which the given tables do not know")
    rows = ids.get_indexer(wanted["id"])
    lost = (rows < 0) & wanted["needed"].to_numpy()
    if args.dataset == "valid" and args.folds:  # whole images are left out, never single cells of one
        lost &= wanted["ImageID"].isin(wanted["ImageID"][rows >= 0]).to_numpy()
    if lost.any():
        hint = "; --folds picks some folds" if args.dataset == "valid" else ""
        raise UserError(
            f"{args.model} has no prediction for {wanted['id'][lost].iloc[0]} ({int(lost.sum())} are missing){hint}"
        )
    values = probs[rows[rows >= 0]]
    values = np.round(values, args.truncate) if args.truncate else values
    table = wanted.loc[rows >= 0, KEY].reset_index(drop=True)
    return pd.concat([table, pd.DataFrame(values.astype(np.float32), columns=list(classes))], axis=1)


if __name__ == "__main__":
    run(main)
