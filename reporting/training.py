"""The training runs: a card each with its curves, the folds together."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from pictures.curves import choose_score
from reporting.folder import Run
from reporting.html import Html, absent, number, section, tag
from reporting.svg import Line, chart

TITLE = "Training"
NOTE = "A card a run; each fold has a colour. Loss: solid in validation, dashed in training; the dot is the best epoch."
STYLES = 6  # colours of folds, then they begin again


def training(runs: Sequence[Run]) -> Html:
    """The section."""
    if not runs:
        return absent(TITLE, "No log of train.py is in this folder.")
    cards = [card(name, list(folds)) for name, folds in groupby(runs, key=lambda run: run.name)]
    return section(TITLE, NOTE, tag("div", *cards, class_="cards"))


def score_of(runs: Sequence[Run]) -> str | None:
    """The column of the logs by which the runs are judged."""
    return choose_score({str(run.path): run.log for run in runs}, None)


def best_epoch(log: pd.DataFrame, score: str | None) -> int:
    """The row with the highest score, the first of several; -1 where there is none."""
    values = log[score].to_numpy(float) if score in log else np.full(len(log), np.nan)
    return int(np.nanargmax(values)) if np.isfinite(values).any() else -1


def card(name: str, runs: Sequence[Run]) -> Html:
    """A run's curves, and in words what it is and how well it did."""
    score = score_of(runs)
    about = tag("p", " · ".join(describe(runs[0].settings)), class_="about")
    losses, scores, reached = [], [], []
    for place, run in enumerate(runs):
        colour, log, epochs = f"c{place % STYLES}", run.log, run.log["epoch"].to_numpy(float)
        best = best_epoch(log, score)
        losses.append(Line(epochs, log["train_loss"].to_numpy(float), f"{run.fold}, training", f"{colour} dashed"))
        if "valid_loss" in log:
            losses.append(Line(epochs, log["valid_loss"].to_numpy(float), f"{run.fold}, validation", colour, best))
        if best >= 0:
            scores.append(Line(epochs, log[score].to_numpy(float), run.fold, colour, best))
            when = f" in epoch {epochs[best]:.0f} of {len(log)}"
            key = tag("i", class_=f"key {colour}")
            reached.append(tag("li", key, f"{run.fold}: {score} ", number(log[score].iloc[best]), when))
    if max(len(run.log) for run in runs) == 1:
        return tag("article", tag("h3", name), about, *map(single, runs))
    charts = [tag("figure", tag("figcaption", "loss"), chart(losses, f"{name}: loss"))]
    if scores:
        charts.append(tag("figure", tag("figcaption", score), chart(scores, f"{name}: {score}", low=0)))
    return tag("article", tag("h3", name), about, *charts, tag("ul", *reached, class_="reached"))


def single(run: Run) -> Html:
    """A run of one epoch, of which there is no curve, in numbers."""
    names = [name for name in run.log if name in ("train_loss", "valid_loss", score_of([run]))]
    rows = [tag("li", f"{run.fold}: {name.replace('_', ' ')} ", number(run.log[name].iloc[0])) for name in names]
    return tag("ul", *rows, class_="reached")


def describe(settings: dict) -> list[str]:
    """What a run trains, in a few words, as far as its settings say."""
    parts = [settings.get("arch")]
    if settings.get("img_path"):  # a classifier; a detector has a loss of its own, whatever the flag says
        parts += [settings.get("loss"), f"on {settings.get('cell', 'image')}s"]
    if settings.get("img_size"):
        parts.append(f"{settings['img_size']} px")
    if settings.get("batch_size"):
        parts.append(f"batch {settings.get('effective_batch') or settings['batch_size']}")
    return [str(part) for part in parts if part]


def result(runs: Sequence[Run]) -> Html:
    """For the page's head, where nothing was scored: how well the runs did in validation."""
    if not runs:
        return tag("p", "Nothing was scored and nothing trained in this folder.", class_="absent")
    rows = []
    for run in runs:
        score = score_of([run])
        best = best_epoch(run.log, score)
        if best >= 0:
            rows.append(tag("li", f"{run.name}/{run.fold}: {score} ", number(run.log[score].iloc[best], 4)))
    note = tag("p", "Nothing was scored here. In validation, at the best epoch:")
    return tag("div", tag("div", note, tag("ul", *rows)), class_="result")
