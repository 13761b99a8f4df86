"""Combine probabilities tables of cell and image models as a CSV says, and write the submission.

    python ensemble.py ensemble_configs/ensemble_kaggle016.csv --dataset test --submission 1 --rank 0 \\
        --meta_csv DATA/sample_submission.csv --cell_meta_csv_path META/sample_submission_cell.csv --out_path OUT \\
        --add_datetime 0 --batch_size 100

The CSV has a row a table: `Predictions` (a file name, looked up in --tables_path, which without the flag is --out_path,
then beside the CSV, then as given), `Type` and a weight for each class. Type is cell or image, or bag: a table of cells
as an opinion of images, each class's highest of the image's cells (2nd place). The weighted means of each kind are
combined by the published rules: cell x image, for Negative the larger one, then the other classes x (1 - Negative).
A CSV with tables of one kind only is fine: its opinion stands for both. With a column `Group` a table's weights count
in parts of its group's, so that every group has the same say. In the order in which they are done:

--average         of the tables of a kind: probs, the weighted mean; or logits, the mean of the logits, made into
                  probabilities again (by a softmax where a cell has one class, or an image model's add up to 1)
--combine         product; mean; weighted: --cell_weight x cell + the rest x image; or single: weighted in images of
                  which one cell is wanted (the column Count, else the number of cells), else the cell's alone. For
                  single classes another one: `product,11=mean,12=weighted` is the product but for classes 11 and 12
--decay           `11=0.5`: of an image's cells, the likeliest one by the cell models keeps its probability of class 11
                  (Mitotic spindle: rare, and mostly one cell of an image), the next gets x .5, the third x .25, ...
--negative        of Negative: max, the larger opinion; own, combined like every class; 1-max, 1 - the highest other
                  class; product, the product of 1 - p over the other classes
--negative_penalty  1: then every other class x (1 - Negative)
--border_weight   cells at the image's border: all classes x the visible share, as estimated by the length of border
                  that the cell touches (touch), its area, its nucleus's or that of the box about the nucleus against
                  the mean of the image's whole cells (area, nucleus, nucleus_box), or touch and area together
                  (completeness); cells/borders.py has the formulas. This replaces dropping them, so begin with
                  segment.py --edge_rule none

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
from cells.borders import WEIGHTS, border_weights
from cells.combine import AVERAGES, COMBINE, NEGATIVE, combine, decay, exclude, ranks
from cells.table import KEY, MASK_COLUMNS, check_unique, match_rows, read_probabilities, read_table, write_table
from common.errors import UserError, choose, run
from common.files import existing, sole_writer
from common.say import say
from engine.settings import resolve
from evaluate import show

KINDS = ("cell", "image")
TYPES = {"cell": "cell", "image": "image", "bag": "image"}  # of a table -> the kind of its opinion


class Opinion(NamedTuple):
    """One row of the CSV: a probabilities table, its kind and its weight for each class, (C,)."""

    path: Path
    kind: str
    weights: np.ndarray
    table: pd.DataFrame


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="CSV: Predictions,Type,<class names>")
    competitions.add_flags(parser)
    parser.add_argument("--dataset", default="test", help="valid: take those cells that the tables hold (out-of-fold)")
    parser.add_argument("--submission", type=int, choices=[0, 1], default=0, help="1: write the submission")
    parser.add_argument("--submission_path", help="the submission's file; default: OUT_PATH/submission_<config>.csv")
    add_rule_flags(parser)
    parser.add_argument("--meta_csv", required=True, help="sample_submission.csv (or train.csv for --dataset valid)")
    parser.add_argument("--cell_meta_csv_path", required=True, help="cells table")
    parser.add_argument("--truth", help="print the score against this truth table or train.csv")
    parser.add_argument("--out_path", required=True)
    parser.add_argument("--tables_path", help="folder of the probabilities tables; without the flag --out_path")
    parser.add_argument("--add_datetime", type=int, choices=[0, 1], default=0, help="1: the time in the file names")
    parser.add_argument("--batch_size", type=int, default=100, help="accepted and not used: all rows are done at once")
    return parser


def add_rule_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how opinions become one."""
    parser.add_argument("--rank", type=int, choices=[0, 1], default=0, help="1: average ranks, not probabilities")
    parser.add_argument("--average", choices=list(AVERAGES), help="of the tables of a kind; default: the competition's")
    parser.add_argument("--combine", help=f"of cell and image opinion: {', '.join(COMBINE)}; then "
                        "CLASS=RULE for single classes, by index; joined by commas")  # fmt: skip
    parser.add_argument("--cell_weight", type=float, help="the cell models' share where it is weighted")
    parser.add_argument("--decay", help="CLASS=FACTOR joined by commas: how fast a class falls over an image's cells")
    parser.add_argument("--negative", choices=list(NEGATIVE), default="max", help="where Negative comes from")
    parser.add_argument("--negative_penalty", type=int, choices=[0, 1], default=1, help="1: others x (1 - Negative)")
    parser.add_argument("--border_weight", choices=["none", *WEIGHTS], default="none",
                        help="border cells x their visible share: begin with segment.py --edge_rule none")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the tables, combine them, write the result, score it."""
    args = get_args_parser().parse_args(argv)
    with sole_writer(args.out_path):
        decide_all(args)


def decide_all(args: argparse.Namespace) -> None:
    """The ensemble of the flags."""
    competition = competitions.get(args.competition, args.classes)
    check_rules(args, competition)
    if args.submission_path and not args.submission:
        raise UserError("--submission_path says where to write a submission, which is only made with --submission 1")
    config = existing(args.config, "ensemble CSV")
    images = read_images(args, competition)
    opinions = read_opinions(config, Path(args.tables_path or args.out_path), competition.CLASSES)
    cells = read_cells(args, images["ID"], opinions)
    probs = decide(opinions, cells, images, args, competition)
    stamp = datetime.now().strftime("_%Y%m%d_%H%M%S") if args.add_datetime else ""
    path = Path(args.out_path) / f"ensemble_{config.stem}{stamp}.csv"
    table = pd.DataFrame(probs.astype(np.float32), columns=list(competition.CLASSES))
    write_table(pd.concat([cells[KEY], table], axis=1), path)
    say(f"{path}: {len(cells)} cells")
    if args.submission:
        path = Path(args.submission_path or path.with_name(f"submission_{config.stem}{stamp}.csv"))
        competition.write_submission(path, images, cells, probs)
        say(f"{path}: {len(images)} images")
    if args.truth:
        scored = images["ID"] if args.dataset != "valid" else pd.unique(covering(opinions)["ImageID"])
        show(competition.score_cells(cells, probs, list(scored), args.truth), f"{config.stem} against {args.truth}")


def read_images(args: argparse.Namespace, competition) -> pd.DataFrame:
    """--meta_csv; for a submission it must say what the competition wants to have filled in."""
    images = competition.read_metadata(args.meta_csv)
    file, column = competition.SAMPLE
    if args.submission and column not in images:
        raise UserError(f"a submission is made from {file}, and {args.meta_csv} is not like it")
    return images


def read_config(config: Path, classes: Sequence[str]) -> pd.DataFrame:
    """The rows of the ensemble CSV, checked: `Predictions,Type,<class names>`, with Group made part of the weights.

    Each class needs a weight in each Type that is there.
    """
    rows = read_table(config, {"Predictions": str, "Type": str, **dict.fromkeys(classes, float)})
    if not len(rows):
        raise UserError(f"{config} names no table")
    check_unique(rows, ["Predictions", "Type"], str(config))
    unknown = rows[~rows["Type"].isin(TYPES)]
    if len(unknown):
        kind, row = unknown["Type"].iloc[0], unknown.index[0] + 2
        raise UserError(f"{config} row {row}: Type {kind!r} is not known; choose from: {', '.join(TYPES)}")
    weights = rows[list(classes)].to_numpy()
    if (weights < 0).any():
        row, column = np.argwhere(weights < 0)[0]
        raise UserError(f"{config} row {row + 2}: the weight of {classes[column]} is below zero")
    for kind in pd.unique(rows["Type"]):
        nothing = weights[(rows["Type"] == kind).to_numpy()].sum(axis=0) == 0
        if nothing.any():
            raise UserError(f"{config}: the {kind} weights of {classes[np.flatnonzero(nothing)[0]]} sum to zero")
    if "Group" in rows:
        empty = rows["Group"].isna() | (rows["Group"].astype(str) == "")
        if empty.any():
            raise UserError(f"{config} row {empty.idxmax() + 2}: the Group is empty; every row needs one, or none has")
        totals = rows.groupby(["Type", "Group"])[list(classes)].transform("sum").to_numpy()
        rows[list(classes)] = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    return rows[["Predictions", "Type", *classes]]


def read_opinions(config: Path, folder: Path, classes: Sequence[str]) -> list[Opinion]:
    """The tables that the ensemble CSV names, with their weights."""
    rows = read_config(config, classes)
    paths = [find_table(name, config, folder) for name in rows["Predictions"]]
    return [
        Opinion(path, kind, weight, read_probabilities(path, classes))
        for path, kind, weight in zip(paths, rows["Type"], rows[list(classes)].to_numpy(), strict=True)
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
    weights = {"touches_border": int, **WEIGHTS[args.border_weight]} if args.border_weight != "none" else {}
    cells = read_table(args.cell_meta_csv_path, {**MASK_COLUMNS, **weights}, key=KEY)
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


def decide(
    opinions: Sequence[Opinion], cells: pd.DataFrame, images: pd.DataFrame, args: argparse.Namespace, competition
) -> np.ndarray:
    """The combined probability of each cell and class: (len(cells), C)."""
    rules, decays = parse_rules(args, competition), parse_decays(args.decay, competition.CLASSES)
    means = {}
    for kind in KINDS:
        own = [opinion for opinion in opinions if TYPES[opinion.kind] == kind]
        if own:
            values = [values_of(opinion, cells, competition.CLASSES, bool(args.rank)) for opinion in own]
            weights = np.array([opinion.weights for opinion in own])
            # A cell is of one class; an image model may say of each class by itself whether some cell is of it.
            shares = kind == "cell" or all(np.allclose(own.sum(axis=1), 1, atol=1e-3) for own in values)
            exclusive = competition.EXCLUSIVE and shares
            means[kind] = AVERAGES[args.average](values, weights, exclusive)
    if decays and "cell" not in means:
        raise UserError(f"--decay {args.decay} ranks an image's cells, but {args.config} has no table of Type cell")
    cell, image = (means.get(kind, means.get(other)) for kind, other in (KINDS, KINDS[::-1]))
    alone = wanted(cells, images) == 1
    probs = combine(cell, image, rules, args.cell_weight, alone) if len(means) == 2 else cell.copy()
    for index, factor in decays.items():
        probs[:, index] *= decay(cell[:, index], cells["ImageID"].to_numpy(), factor)
    if competition.NEGATIVE is not None:
        probs = exclude(probs, cell, image, competition.NEGATIVE, args.negative, bool(args.negative_penalty))
    if args.border_weight != "none":
        probs *= border_weights(cells, args.border_weight)[:, None]
    return probs


def wanted(cells: pd.DataFrame, images: pd.DataFrame) -> np.ndarray:
    """How many cells are wanted of each cell's image, (len(cells),): its `Count`, else as many as it has."""
    if "Count" not in images:
        return cells.groupby("ImageID")["CellID"].transform("size").to_numpy()
    return cells["ImageID"].map(images.set_index("ID")["Count"]).to_numpy()


def check_rules(args: argparse.Namespace, competition) -> None:
    """Fill in the competition's rules where none were given; UserError for one that cannot be right."""
    resolve(args, competition.ENSEMBLE_DEFAULTS)
    parse_rules(args, competition)
    parse_decays(args.decay, competition.CLASSES)


def parse_rules(args: argparse.Namespace, competition) -> list[str]:
    """--combine as a rule for each class: `product,2=mean` -> product for all classes but the third."""
    if not 0 <= args.cell_weight <= 1:
        raise UserError(f"--cell_weight {args.cell_weight} must lie in 0..1")
    first, _, rest = args.combine.partition(",")
    choose(COMBINE, first, "--combine")
    rules = [first] * len(competition.CLASSES)
    for index, rule in by_class(rest, "--combine", competition.CLASSES).items():
        choose(COMBINE, rule, f"--combine {index}=")
        if index == competition.NEGATIVE and args.negative != "own":
            raise UserError(f"--combine {index}={rule} has no effect but with --negative own")
        rules[index] = rule
    return rules


def parse_decays(text: str | None, classes: Sequence[str]) -> dict[int, float]:
    """--decay as a factor for each class that it names: `11=0.5` -> {11: 0.5}."""
    decays = {}
    for index, factor in by_class(text or "", "--decay", classes).items():
        if not factor.replace(".", "", 1).isdecimal() or float(factor) > 1:
            raise UserError(f"--decay {index}={factor}: a factor in 0..1 is right")
        decays[index] = float(factor)
    return decays


def by_class(text: str, flag: str, classes: Sequence[str]) -> dict[int, str]:
    """`CLASS=VALUE` joined by commas, CLASS an index into `classes`: `11=mean,12=own` -> {11: "mean", 12: "own"}."""
    values: dict[int, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not (equals and name.isdecimal() and int(name) < len(classes)) or int(name) in values:
            raise UserError(f"{flag}: {part!r} must be CLASS=VALUE with a class 0 to {len(classes) - 1}, each once")
        values[int(name)] = value
    return values


def values_of(opinion: Opinion, cells: pd.DataFrame, classes: Sequence[str], rank: bool) -> np.ndarray:
    """A table's probabilities (or ranks) for each row of the cells table, joined by key: (len(cells), C)."""
    table, name = opinion.table, str(opinion.path)
    values = table[list(classes)].to_numpy()
    values = ranks(values) if rank else values
    if opinion.kind != "image":
        values = values[match_rows(cells, table, KEY, name)]
        own = pd.DataFrame(values).groupby(cells["ImageID"].to_numpy())
        return values if opinion.kind == "cell" else own.transform("max").to_numpy()
    if (table["CellID"] != 0).any():
        raise UserError(f"{name} has rows of single cells (CellID not 0), but its Type is image")
    return values[match_rows(cells, table, ["ImageID"], name, exact=False)]


if __name__ == "__main__":
    run(main)
