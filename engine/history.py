"""What a run has reached, epoch by epoch: log.csv, the console's lines, and curves.png."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cells.table import write_table
from common.files import atomic


def write_log(history: list[dict], path: Path) -> None:
    """One row an epoch: epoch, lr, train_loss, valid_loss, pr_auc, and `AP <class>` for each class."""
    write_table(pd.DataFrame(history), path)


def epoch_text(row: dict, classes: Sequence[str], best: int) -> str:
    """An epoch as two lines of text: losses and mean PR-AUC, then the AP of each class, the worst first."""
    scores = {name: row[f"AP {name}"] for name in classes}
    known = sorted((score, name) for name, score in scores.items() if np.isfinite(score))
    mark = " (best)" if row["epoch"] == best else ""
    return (
        f"epoch {row['epoch']:>3}  lr {row['lr']:.1e}  train loss {row['train_loss']:.4f}  "
        f"valid loss {row['valid_loss']:.4f}  PR-AUC {row['pr_auc']:.4f}{mark}\n"
        f"    AP: {', '.join(f'{name} {score:.3f}' for score, name in known)}"
    )


def draw_curves(history: list[dict], path: Path) -> None:
    """Losses and mean PR-AUC over the epochs, as a picture."""
    from matplotlib.figure import Figure

    table = pd.DataFrame(history)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(table["epoch"], table["train_loss"], marker=".", label="train")
    left.plot(table["epoch"], table["valid_loss"], marker=".", label="validation")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(table["epoch"], table["pr_auc"], marker=".", color="tab:green")
    right.set(xlabel="epoch", ylabel="mean PR-AUC", ylim=(0, 1))
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
