"""One image with its cells: outlines coloured by top class, ids, classes with confidence, and a panel beside it."""

from collections.abc import Sequence

import numpy as np

from pictures.composite import composite, shrink, stretch
from pictures.drawing import GREY, RIGHT, WHITE, WRONG, Line, Mark, class_colour, draw_cells
from pictures.sheet import beside, panel

SHARE = 1 / 3  # of the top class's probability: a class with less is not named
PANEL = 0.3  # of the picture's size


def confidence(value: float) -> str:
    """A probability in two digits: `.83`, `1.0`, `<.01`."""
    if value < 0.01:
        return "<.01" if value > 0 else "0"
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"


def top_classes(probs: np.ndarray, most: int = 3) -> list[int]:
    """The classes (C,) of highest probability, highest first: at most `most`, none far below the first or zero."""
    order = np.argsort(-probs, kind="stable")[:most]
    return [int(index) for index in order if probs[index] > 0 and probs[index] >= SHARE * probs[order[0]]]


def cell_mark(
    mask: np.ndarray, cell: int, names: Sequence[str], probs: np.ndarray | None, labels: np.ndarray | None
) -> Mark:
    """A cell's outline and label from its probabilities (C,) and, if known, true classes (C,) bool.

    True classes are written in green, others in red; when the top class is not true, what is true stands below.
    """
    if probs is None:
        lines = [Line(f"{cell}", class_colour(cell))]
        if labels is not None:
            lines.append(Line(", ".join(names[index] for index in np.flatnonzero(labels)) or "no true cell", RIGHT))
        return Mark(mask, class_colour(cell), tuple(lines))
    top, colour = top_classes(probs), class_colour(int(probs.argmax()))
    lines = [Line(f"{cell}", colour)]
    for index in top:
        judged = WHITE if labels is None else RIGHT if labels[index] else WRONG
        lines.append(Line(f"{names[index]} {confidence(probs[index])}", judged))
    if labels is not None and not (top and labels[top[0]]):
        true = ", ".join(names[index] for index in np.flatnonzero(labels))
        lines.append(Line(f"true: {true}" if true else "no true cell"))
    return Mark(mask, colour, tuple(lines))


def dropped_mark(mask: np.ndarray, cell: int) -> Mark:
    """A cell that was dropped at the border: grey, dashed."""
    return Mark(mask, GREY, (Line(f"{cell}", GREY),), dashed=True)


def legend(title: str, kept: int, dropped: int, tops: Sequence[int], names: Sequence[str]) -> list[Line]:
    """The panel's lines: the image, how many cells, and each top class in its colour with its number of cells."""
    lines = [Line(title), Line(f"{kept} cells, {dropped} dropped at the border (dashed)", GREY), Line("")]
    counts = np.bincount(np.asarray(tops, int), minlength=len(names))
    lines += [
        Line(f"{counts[index]:>3}  {names[index]}", class_colour(int(index)))
        for index in np.argsort(-counts, kind="stable")
        if counts[index]
    ]
    return [*lines, Line("")]


def overlay(image: np.ndarray, marks: Sequence[Mark], lines: Sequence[Line], names: Sequence[str],
            size: int) -> np.ndarray:  # fmt: skip
    """The picture of an image (height, width, 4) RGBY with cells whose masks are of the size of `shrink(image, size)`.

    lines: of the panel; names: of the channels. The result is about 1.3 x `size` wide.
    """
    channels = stretch(shrink(image, size))
    scale = max(size / 2500, 0.3)
    picture = draw_cells(composite(channels), marks, scale, max(round(size / 600), 1))
    return beside(picture, panel(lines, channels, names, max(round(size * PANEL), 200), scale))
