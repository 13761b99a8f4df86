"""The training of several runs in one picture."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "AP "  # of the columns with a class's average precision


def best_scores(log: pd.DataFrame) -> pd.Series:
    """The average precision of each class at the epoch of the best mean, by class; empty where the log has none."""
    columns = [name for name in log if name.startswith(PREFIX)]
    if not columns or log[columns].isna().all(axis=None):
        return pd.Series(dtype=float)
    best = log[columns].mean(axis=1).to_numpy()
    return log[columns].iloc[np.nanargmax(best)].rename(lambda name: name.removeprefix(PREFIX))


def draw_curves(runs: dict[str, pd.DataFrame]) -> "Figure":
    """Losses, mean PR-AUC and each class's average precision at the best epoch; `runs`: name -> its log.csv."""
    from matplotlib.figure import Figure  # a second to import, which the other pictures need not wait

    scores = {name: best_scores(log) for name, log in runs.items()}
    classes = list(dict.fromkeys(name for own in scores.values() for name in own.index))
    figure = Figure(figsize=(15, max(5, 1.5 + 0.27 * len(classes))), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for index, (name, log) in enumerate(runs.items()):
        colour = f"C{index % 10}"
        left.plot(log["epoch"], log["valid_loss"], marker=".", color=colour, label=name)
        left.plot(log["epoch"], log["train_loss"], linestyle="--", color=colour, alpha=0.6)
        if "pr_auc" in log:
            middle.plot(log["epoch"], log["pr_auc"], marker=".", color=colour, label=name)
        places = [classes.index(own) for own in scores[name].index]
        right.plot(scores[name].to_numpy(float), places, "o", color=colour, alpha=0.8)
    left.set(xlabel="epoch", ylabel="loss (solid: validation, dashed: training)")
    left.legend()
    middle.set(xlabel="epoch", ylabel="mean PR-AUC", ylim=(0, 1))
    right.set(xlabel="average precision at the best epoch", xlim=(0, 1))
    right.set_yticks(range(len(classes)), classes)
    right.invert_yaxis()
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    return figure
