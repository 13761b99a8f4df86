"""The two small parts of weak_labels.sh that are not scripts of the road.

    python benchmarks/weak_labels.py keep --table ALL/probabilities_Cell_BCE_6.csv --cells META/cells.csv --out KEPT.csv
    python benchmarks/weak_labels.py collect --out_dir OUT

keep: a probabilities table without the cells that another --edge_rule drops, so that every cell is looked at once.
collect: OUT/seed<k>/scores as a table in Markdown, a row an idea: the mAP of each seed, their mean, its difference to
the recipe's over the same seeds, whether that helps (HELPS or more, and more than 0 in every seed), and the CPU-minutes
that the idea took beyond the recipe (a seed's mean).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from cells.table import KEY, read_table, write_table  # noqa: E402
from common.errors import UserError, run  # noqa: E402
from common.files import existing  # noqa: E402

HELPS = 0.01  # mAP
NAMES = {
    "baseline": "image labels on every cell: the image model alone",
    "cell_alone": "the recipe's two cell models alone",
    "product": "cell x image",
    "recipe": "**12th place's recipe**: with the Negative rules",
    "longer": "recipe, cell models trained longer",
    "longer_product": "the same, cell x image",
    "bag": "bags of cells, max, + .1 x cell loss",
    "attention": "bags of cells, attention",
    "warm": "bags of cells, from the recipe's cell model",
    "soft": "soft labels out of fold, the pair trained on them",
    "pooled": "cells pooled by masks from the image's map",
    "puzzle": "PuzzleCAM",
    "duo": "duo-branch: image and 3 cells",
    "ema": "running mean of the weights",
    "balanced": "class-balanced sampling",
    "mixup": "MixUp",
    "cutmix": "CutMix",
    "views": "sixteen views: of the whole too, not of random crops alone",
    "combine_mean": "mean of cell and image, not product",
    "combine_weighted": ".7 cell + .3 image",
    "negative_own": "Negative like every class",
    "negative_1-max": "Negative = 1 - highest other class",
    "negative_product": "Negative = product of 1 - p",
    "decay": "Mitotic spindle halved from cell to cell",
    "rank": "ranks averaged, not probabilities",
    "border_none": "no border cell dropped",
    "border_touch": "none dropped, weighted by border length",
    "border_area": "none dropped, weighted by area",
    "border_nucleus": "none dropped, weighted by nucleus",
    "border_nucleus_box": "none dropped, weighted by the nucleus's box",
    "border_completeness": "none dropped, weighted by completeness",
    "images_by_cells": "images judged by the highest of their cells, too",
    "rules": "together: images judged by cells too, Negative like every class, border cells by completeness",
    "longer_rules": "the same with the cell models that were trained longer",
    "together": "together (rules) and the warm bags among the cell models",
    "together_puzzle": "together (rules) and PuzzleCAM among the cell models",
    "together_ema": "together with warm bags, and running means among the cell models",
    "together_soft": "... and the pair on soft labels",
}  # the order of the rows; a score of another name comes last


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    keep_parser = modes.add_parser("keep")
    for flag in ("--table", "--cells", "--out"):
        keep_parser.add_argument(flag, required=True)
    modes.add_parser("collect").add_argument("--out_dir", type=Path, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    args = get_args_parser().parse_args(argv)
    if args.mode == "keep":
        write_table(keep(args.table, args.cells), args.out)
    else:
        print(as_markdown(collect(existing(args.out_dir, "--out_dir"))))


def keep(table: str, cells: str) -> pd.DataFrame:
    """The rows of a probabilities table that belong to a cells table, and those of whole images."""
    probs = read_table(table, {"ImageID": str, "CellID": int}, key=KEY)
    kept = pd.MultiIndex.from_frame(read_table(cells, {"ImageID": str, "CellID": int}, key=KEY)[KEY])
    return probs[(probs["CellID"] == 0) | pd.MultiIndex.from_frame(probs[KEY]).isin(kept)]


def collect(out: Path) -> pd.DataFrame:
    """Every idea's scores: indexed by name, a column a seed, `mean`, `gain`, `helps` and `minutes`.

    UserError when no seed has the recipe's score.
    """
    seeds = sorted(out.glob("seed*"), key=lambda path: int(path.name.removeprefix("seed")))
    scores = pd.DataFrame({seed.name.removeprefix("seed"): read_scores(seed) for seed in seeds})
    if "recipe" not in scores.index:
        raise UserError(f"{out} has no score of the recipe; run weak_labels.sh with this OUT")
    known = [name for name in NAMES if name in scores.index]
    scores = scores.loc[[*known, *sorted(set(scores.index) - set(known))]]
    gains = scores - scores.loc["recipe"]
    table = scores.assign(mean=scores.mean(axis=1), gain=gains.mean(axis=1))
    table["helps"] = (table["gain"] >= HELPS) & (gains.min(axis=1) > 0)
    minutes = pd.DataFrame({seed.name: read_minutes(seed) for seed in seeds}).mean(axis=1)
    return table.assign(minutes=minutes.reindex(table.index))


def read_scores(seed: Path) -> pd.Series:
    """The mAP of each score table of a seed, by name."""
    paths = sorted((seed / "scores").glob("score_submission_*.csv"))
    values = {path.stem.removeprefix("score_submission_"): pd.read_csv(path)["AP"].iloc[-1] for path in paths}
    return pd.Series(values, dtype=float)


def read_minutes(seed: Path) -> pd.Series:
    """The CPU-minutes of each idea that has any: a line a step, its user and system seconds, among what bash says of a
    step that was killed.
    """
    minutes = {}
    for path in (seed / "seconds").iterdir():
        lines = [line.split() for line in path.read_text().splitlines()]
        minutes[path.name] = sum(float(seconds) for line in lines if len(line) == 2 for seconds in line) / 60
    return pd.Series({name: own for name, own in minutes.items() if own}, dtype=float)


def as_markdown(table: pd.DataFrame) -> str:
    """The table of `collect`, a row an idea."""
    seeds = [name for name in table.columns if name.isdecimal()]
    head = ["idea", *(f"seed {seed}" for seed in seeds), "mean", "to the recipe", "helps", "CPU-minutes"]
    lines = [head, ["---"] * len(head)]
    for name, row in table.iterrows():
        values = ["-" if np.isnan(row[seed]) else number(row[seed]) for seed in [*seeds, "mean"]]
        verdict = ["", ""] if name == "recipe" else [f"{row['gain']:+.3f}", "yes" if row["helps"] else "no"]
        minutes = "" if np.isnan(row["minutes"]) else f"{row['minutes']:.0f}"
        lines.append([NAMES.get(name, name), *values, *verdict, minutes])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float) -> str:
    """A score as the write-ups have it: .356."""
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    run(main)
