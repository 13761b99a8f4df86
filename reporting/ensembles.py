"""The ensemble: how much each model counts, and how much alike the models' opinions are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble import Opinion, read_opinions, values_of
from reporting.folder import Results, header
from reporting.html import Html, folded, join, number, section, table, tag

TITLE = "Ensemble"
NOTE = (
    "What each model counts by {name}, within its kind (cell or image), and how much alike two models' opinions are: "
    "Pearson's correlation of their probabilities over all cells, the classes' mean. Those that agree less have more "
    "to add."
)
BESIDE = 6  # models whose correlations have room beside their weights


def find_config(results: Results, combined: Path) -> Path | None:
    """The ensemble CSV from which `combined`, `ensemble_<its name>.csv`, was made: in the folder, or the repository."""
    stem = combined.stem.removeprefix("ensemble_")
    own = [path for path in results.files["csv"] if path.stem == stem]
    own.append(Path(__file__).parents[1] / "ensemble_configs" / f"{stem}.csv")
    return next((path for path in own if path.is_file() and {"Predictions", "Type"} <= set(header(path))), None)


def ensemble(config: Path, results: Results, cells: pd.DataFrame | None, classes: Sequence[str]) -> Html:
    """The section; cells: those that the tables are about, without which the models are not compared."""
    folder = results.files["table"][0].parent if results.files["table"] else results.root
    opinions = read_opinions(config, folder, classes)
    names = [own.path.stem.removeprefix("probabilities_") for own in opinions]
    weights = weight_table(names, opinions, classes)
    if cells is None:
        return section(TITLE, "Without a table of their cells the models are not compared.", weights)
    if len(opinions) < 2:
        return section(TITLE, "One model has nothing to be compared with.", weights)
    alike = correlations([values_of(own, cells, classes, rank=False) for own in opinions])
    beside = "two" if len(opinions) <= BESIDE else None
    note = NOTE.format(name=config.name)
    return section(TITLE, note, tag("div", weights, correlation_table(names, alike), class_=beside))


def weight_table(names: Sequence[str], opinions: Sequence[Opinion], classes: Sequence[str]) -> Html:
    """A row a model: its kind and its share in it; folded below, its share in each class where they differ."""
    shares = [share_of(own, opinions) for own in opinions]
    rows = [[name, tag("td", own.kind, class_="text"), tag("td", weight_text(share), class_="num")]
            for name, own, share in zip(names, opinions, shares, strict=True)]  # fmt: skip
    parts = [table(["Model", tag("th", "Kind", scope="col", class_="text"), "Weight"], rows, class_="numbers")]
    if any(np.ptp(share) > 1e-9 for share in shares):
        single = [[name, *(number(value, 2) for value in share)] for name, share in zip(names, shares, strict=True)]
        parts.append(folded("Weights of each class", table(["Model", *classes], single, class_="numbers")))
    return tag("div", *parts)


def share_of(own: Opinion, opinions: Sequence[Opinion]) -> np.ndarray:
    """A model's weight in parts of its kind's, for each class: (C,)."""
    kind = own.kind == "cell"
    return own.weights / sum(other.weights for other in opinions if (other.kind == "cell") == kind)


def weight_text(share: np.ndarray) -> Html:
    """The shares (C,) as one number, or from the smallest to the largest."""
    low, high = share.min(), share.max()
    return number(low, 2) if high - low < 1e-9 else join([number(low, 2), " to ", number(high, 2)])


def correlations(values: Sequence[np.ndarray]) -> np.ndarray:
    """Pearson's correlation of K models' values (N, C), the mean of the classes: (K, K).

    A class in which one of the two is the same for all cells does not count; NaN where none is left.
    """
    stacked = np.stack(values).astype(float)
    stacked -= stacked.mean(axis=1, keepdims=True)
    length = np.sqrt((stacked**2).sum(axis=1, keepdims=True))
    unit = np.divide(stacked, length, out=np.full_like(stacked, np.nan), where=length > 1e-9)
    each = np.einsum("inc,jnc->ijc", unit, unit)
    count = np.isfinite(each).sum(axis=2)
    return np.divide(np.nansum(each, axis=2), count, out=np.full(count.shape, np.nan), where=count > 0)


def correlation_table(names: Sequence[str], alike: np.ndarray) -> Html:
    """The correlations of the models with each other, the higher the darker."""
    short = [f"{place + 1}" for place in range(len(names))]
    rows = [
        [f"{short[row]} {name}", *(_shade(alike[row, column], row == column) for column in range(len(names)))]
        for row, name in enumerate(names)
    ]
    return table(["Correlation", *short], rows, class_="numbers square")


def _shade(value: float, same: bool) -> Html:
    if same:
        return tag("td", "·", class_="num same")
    share = f"--share:{max(value, 0):.2f}" if np.isfinite(value) else None
    return tag("td", number(value, 2), class_="num shade", style=share)
