"""The mode `curves`: the training of several runs, of any kind, in one picture."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cells.table import read_table
from common.errors import UserError, some
from common.figures import save_figure
from common.say import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = ("mAP", "mPQ", "macro_f1", "pr_auc")  # what runs are judged by; the first that a log has is drawn
PREFIXES = ("AP ", "PQ ")  # of the columns with a class's score


def curves(args: argparse.Namespace) -> None:
    """The logs of several runs in one picture, and each one's best epoch on the screen."""
    paths = [path / "log.csv" if path.is_dir() else path for path in map(Path, args.logs)]
    names = args.names or run_names(paths)
    if len(names) != len(paths):
        raise UserError(f"--names has {len(names)} names for {len(paths)} logs")
    runs = {}
    for name, path in zip(names, paths, strict=True):
        if name in runs:
            raise UserError(f"two logs are called {name}; give each its own with --names")
        runs[name] = read_log(path)
    score = choose_score(runs, args.score)
    path = Path(args.out_path) / "curves.png"
    save_figure(path, draw_curves(runs, score))
    for name, log in runs.items():
        if score in log and log[score].notna().any():
            best = log.loc[log[score].idxmax()]
            say(f"{name}: {score} {best[score]:.4f} in epoch {int(best['epoch'])} of {len(log)}")
    say(f"{path}: {len(runs)} runs")


def read_log(path: Path) -> pd.DataFrame:
    """A log of train.py: numbers alone."""
    log = read_table(path, dict.fromkeys(("epoch", "train_loss"), float))
    others = log.select_dtypes(exclude="number")
    words = others.columns[others.notna().any()]
    if len(words):
        raise UserError(f"{path}: the column {words[0]} has other values than numbers")
    if not len(log):
        raise UserError(f"{path}: there is no epoch")
    return log.astype(dict.fromkeys(others, float))  # a score that no epoch has


def run_names(paths: Sequence[Path]) -> list[str]:
    """The runs' folders, `<out_dir>/fold<k>`."""
    return ["/".join(path.resolve().parent.parts[-2:]) for path in paths]


def choose_score(runs: dict[str, pd.DataFrame], wanted: str | None) -> str | None:
    """The column to draw: `wanted`, else the first of SCORES that any log has; None where none has any."""
    known = list(dict.fromkeys(name for log in runs.values() for name in log))
    if wanted and wanted not in known:
        raise UserError(f"--score {wanted}: no log has such a column; they have {some(known, 12)}")
    if wanted and wanted.endswith("loss"):
        raise UserError(f"--score {wanted}: losses are drawn anyway; a score is right, the higher the better")
    return wanted or next((name for name in SCORES if name in known), None)


def best_scores(log: pd.DataFrame, score: str | None = None) -> pd.Series:
    """Each class's score at the best epoch, by class; empty where the log has none.

    The best epoch is that of the highest `score`; without it, that of the highest mean over the classes.
    """
    prefix = next((own for own in PREFIXES if any(name.startswith(own) for name in log)), None)
    columns = [name for name in log if prefix and name.startswith(prefix)]
    if not columns or log[columns].isna().all(axis=None):
        return pd.Series(dtype=float)
    known = score in log and log[score].notna().any()
    best = (log[score] if known else log[columns].mean(axis=1)).to_numpy(float)
    return log[columns].iloc[np.nanargmax(best)].rename(lambda name: name.removeprefix(prefix))


def draw_curves(runs: dict[str, pd.DataFrame], score: str | None) -> "Figure":
    """Losses, a score, and each class's at the best epoch; `runs`: name -> its log.csv; score: a column."""
    from matplotlib.figure import Figure  # a second to import, which the other pictures need not wait

    scores = {name: best_scores(log, score) for name, log in runs.items()}
    classes = list(dict.fromkeys(name for own in scores.values() for name in own.index))
    figure = Figure(figsize=(15, max(5, 1.5 + 0.27 * len(classes))), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for index, (name, log) in enumerate(runs.items()):
        colour = f"C{index % 10}"
        if "valid_loss" in log:
            left.plot(log["epoch"], log["valid_loss"], marker=".", color=colour)
        left.plot(log["epoch"], log["train_loss"], linestyle="--", color=colour, alpha=0.6, label=name)
        if score in log:
            middle.plot(log["epoch"], log[score], marker=".", color=colour)
        right.plot(scores[name].to_numpy(float), [classes.index(own) for own in scores[name].index], "o", color=colour,
                   alpha=0.8)  # fmt: skip
    left.set(xlabel="epoch", ylabel="loss (solid: validation, dashed: training)")
    left.legend()
    middle.set(xlabel="epoch", ylabel=score or "no score in the logs")
    middle.set_ylim(0, 1 if score in SCORES else None)
    right.set(xlabel="the classes' score at the best epoch", xlim=(0, 1))
    right.set_yticks(range(len(classes)), classes)
    right.invert_yaxis()
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    return figure
