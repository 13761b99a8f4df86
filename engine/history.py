"""What a run has reached, epoch by epoch: log.csv, the console's lines, and curves.png."""

from pathlib import Path

import numpy as np
import pandas as pd

from cells.table import write_table
from common.figures import save_figure


def write_log(history: list[dict], path: Path) -> None:
    """One row an epoch: epoch, lr, train_loss, the task's scores, for classes too (`AP <class>`)."""
    write_table(pd.DataFrame(history), path)


def epoch_text(row: dict, select: str, best: int) -> str:
    """An epoch as text: losses and scores, and in a second line the AP of each class, the worst first."""
    mark = " (best)" if row["epoch"] == best else ""
    known = sorted((score, name[3:]) for name, score in row.items() if name.startswith("AP ") and np.isfinite(score))
    rest = [name for name in row if name not in ("epoch", "lr", "skipped", select) and not name.startswith("AP ")]
    parts = [f"epoch {row['epoch']:>3}  lr {row['lr']:.1e}"]
    parts += [f"{name.replace('_', ' ')} {row[name]:.4f}" for name in rest]
    parts += [f"skipped {row['skipped']}"] if row["skipped"] else []
    lines = ["  ".join([*parts, f"{select} {row[select]:.4f}{mark}"])]
    if known:
        lines.append(f"    AP: {', '.join(f'{name} {score:.3f}' for score, name in known)}")
    return "\n".join(lines)


def draw_curves(history: list[dict], select: str, path: Path) -> None:
    """Losses and the score that chooses the best epoch, over the epochs, as a picture."""
    from matplotlib.figure import Figure

    table = pd.DataFrame(history)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("train_loss", "valid_loss"):
        if name in table:
            left.plot(table["epoch"], table[name], marker=".", label=name.split("_")[0])
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(table["epoch"], table[select], marker=".", color="tab:green")
    right.set(xlabel="epoch", ylabel=select, ylim=(0, 1))
    save_figure(path, figure)
