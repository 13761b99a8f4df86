"""Cells to look at: the likeliest of each class, and those about which the models and the truth disagree most."""

from collections.abc import Iterable
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd

from pictures.judging import Truth, misses_of, without_finds
from pictures.marks import confidence, top_classes
from pictures.misses import TITLES
from pictures.opinions import scores_of
from pictures.tiles import true_text
from reporting.html import Html, join, section, tag
from reporting.thumbs import Thumbs

TITLE = "Cells"
MOST = 150  # pictures of all classes together
HINTS = {
    "wrong": "The models are sure of a class, and it is not the cell's.",
    "false": "Found, and named with confidence, where no true cell lies.",
    "overlooked": "True classes in which the models believe least, and cells that were not found.",
}


class Shown(NamedTuple):
    """Cells, their probabilities (N, C) or None, their truth or None, and what they are of."""

    cells: pd.DataFrame
    probs: np.ndarray | None
    truth: Truth | None
    competition: ModuleType


def planned(shown: Shown, per_class: int, limit: int) -> int:
    """How many pictures the page has at most."""
    classes = len(shown.competition.CLASSES)
    return max(4 * per_class, min(per_class * classes, max(MOST, classes))) + 3 * limit


def gallery(shown: Shown, thumbs: Thumbs, per_class: int, limit: int) -> Html:
    """The section: by confidence, then by error where that is known."""
    if shown.probs is None or shown.truth is None:
        missing = "their classes" if shown.probs is None else "the truth; --truth names it"
        errors = [tag("p", f"Errors are not shown: nothing here tells {missing}.", class_="absent")]
    else:
        errors = by_error(shown, thumbs, limit)
    notes = ["Green: true; red: not."] if shown.truth else []
    notes += [] if thumbs.store else ["No crop store here has these cells; --crop_dir names one."]
    return section(TITLE, " ".join(notes), switch(), *by_confidence(shown, thumbs, per_class), *errors)


def by_confidence(shown: Shown, thumbs: Thumbs, per_class: int) -> list[Html]:
    """The likeliest cells: a row a class, or one grid where there is one class or none is named."""
    title, count = tag("h3", "By confidence"), len(shown.competition.CLASSES)
    if shown.probs is None or count == 1:
        order = np.argsort(-scores_of(shown.cells), kind="stable")[: 4 * per_class]
        note = f"The {len(order)} of {len(shown.cells):,} cells that the finder is surest of."
        return [title, tag("p", note, class_="note"), tag("div", *cards(shown, thumbs, order), class_="gallery")]
    each = min(per_class, max(MOST // count, 1))
    note = f"Of each class the {each} likeliest of {len(shown.cells):,} cells, each with its likeliest classes."
    return [title, tag("p", note, class_="note"), *(class_row(shown, thumbs, index, each) for index in range(count))]


def switch() -> Html:
    """What hides the outlines, without a script."""
    return tag("label", tag("input", type="checkbox", checked="", class_="switch"), " outlines", class_="switched")


def class_row(shown: Shown, thumbs: Thumbs, index: int, count: int) -> Html:
    """The likeliest cells of a class."""
    values = shown.probs[:, index]
    order = np.argsort(-values, kind="stable")[:count]
    order = order[values[order] > 0]
    about = None if len(order) else "no cell has it"
    if shown.truth is not None and len(order):
        labels = shown.truth.labels[:, index]
        about = f"{labels[order].sum()} of {len(order)} true; {labels.sum():,} such cells in all"
    title = tag("h4", shown.competition.CLASSES[index], " ", tag("small", about))
    return join([title, tag("div", *cards(shown, thumbs, order, index), class_="strip", tabindex=0)])


def cards(shown: Shown, thumbs: Thumbs, rows: Iterable[int], index: int | None = None) -> list[Html]:
    """Cards of cells by their positions; index: a class that each says its probability of."""
    rows = np.asarray(rows, int)
    places = zip(rows, shown.cells.iloc[rows].itertuples(), strict=True)
    return [card(thumbs.found(cell), *words(shown, row, index), who(cell)) for row, cell in places]


def card(*parts: Html | None) -> Html:
    """A cell with what is known of it."""
    return tag("article", *parts)


def who(cell: tuple, what: str = "cell") -> Html:
    """The line that says which cell it is."""
    return tag("p", f"{what} {cell.CellID}, {cell.ImageID}", class_="who", title=f"{cell.ImageID}+{cell.CellID}")


def words(shown: Shown, row: int, index: int | None) -> list[Html]:
    """A cell's likeliest classes, and `index`, with bars, and what is true where that is something else."""
    names = shown.competition.SHORT_NAMES
    if shown.probs is None:
        return [tag("p", f"score {confidence(scores_of(shown.cells)[row])}", class_="true")]
    probs, labels = shown.probs[row], None if shown.truth is None else shown.truth.labels[row]
    top = top_classes(probs)
    top = top if index is None or index in top else [*top[:2], index]
    lines = [prediction(names[index] if len(names) > 1 else "score", probs[index], labels is None or labels[index],
                        labels is not None) for index in top]  # fmt: skip
    if labels is not None and not (top and labels[top[0]]):
        lines.append(tag("p", true_text(labels, names), class_="true"))
    return lines


def prediction(name: str, value: float, right: bool, known: bool) -> Html:
    """A class with its probability as a bar."""
    state = ("right" if right else "wrong") if known else None
    return tag("p", tag("span", name), tag("span", confidence(value)), class_=" ".join(filter(None, ["p", state])),
               style=f"--p:{min(float(value), 1):.2f}")  # fmt: skip


def by_error(shown: Shown, thumbs: Thumbs, limit: int) -> list[Html]:
    """What is wrong, the worst first; `shown` has probabilities and a truth."""
    tables = misses_of(shown.cells, shown.probs, shown.truth, shown.competition.CELL_LABELS)
    parts = [worst(shown, thumbs, kind, table, limit) for kind, table in tables.items() if len(table)]
    return [tag("h3", "By error"), *(join(part) for part in parts or [[tag("p", "Nothing is wrong with any cell.")]])]


def worst(shown: Shown, thumbs: Thumbs, kind: str, table: pd.DataFrame, limit: int) -> list[Html]:
    """The heading and cards of one kind of miss; `table` as pictures/judging.py gives it."""
    lost = table[table["Cell"] < 0]
    seen = table if thumbs.root else table[table["Cell"] >= 0]
    seen = seen.head(limit)
    text = f"{HINTS[kind]} The worst {len(seen)} of {len(table):,}."
    if len(lost):
        text += f" {len(lost):,} were not found" + ("." if thumbs.root else "; --root_dir shows them.")
    if kind == "overlooked" and (uncounted := without_finds(shown.cells, shown.truth)):
        text += f" {uncounted}."
    unseen = seen["True"][seen["Cell"] < 0]
    pictures = thumbs.missed(list(shown.truth.table.iloc[unseen.astype(int)].itertuples())) if len(unseen) else {}
    made = [miss_card(shown, thumbs, pictures, *row[:3]) for row in seen.itertuples(index=False, name=None)]
    return [tag("h4", TITLES[kind]), tag("p", text, class_="note"), tag("div", *made, class_="gallery")]


def miss_card(shown: Shown, thumbs: Thumbs, pictures: dict, cell: int, true: int, index: int) -> Html:
    """A card of a miss: the cell as found, or the true one that was not, and which class is at fault."""
    names = shown.competition.SHORT_NAMES
    if cell < 0:
        own = next(shown.truth.table.iloc[[true]].itertuples())
        picture = pictures.get((own.ImageID, own.CellID)) or tag("div", class_="cell")
        return card(picture, tag("p", f"not found: {names[index]}", class_="true"), who(own, "true cell"))
    own = next(shown.cells.iloc[[cell]].itertuples())
    overlap = shown.truth.overlaps[cell]
    probs, labels = shown.probs[cell], shown.truth.labels[cell]
    top = [index, *[other for other in top_classes(probs) if other != index][:2]]
    lines = [prediction(names[other], probs[other], bool(labels[other]), known=True) for other in top]
    true = true_text(labels, names) + (f", IoU {overlap:.2f}" if np.isfinite(overlap) else "")
    return card(thumbs.found(own), *lines, tag("p", true, class_="true"), who(own))

