"""Cells in words and colours, and one image with its cells: outlines coloured by top class, a panel beside it."""

from collections.abc import Sequence

import numpy as np

from pictures.composite import brighten, composite, shrink, stretch
from pictures.drawing import GREY, RIGHT, WHITE, WRONG, Line, Mark, class_colour, draw_cells, text_size
from pictures.sheet import beside, channel_rows, panel, titled

SHARE = 1 / 3  # of the top class's probability: a class with less is not named
PANEL = 0.3  # of the picture's size
ROOM = 0.5  # of a cell: how much of it a label may hide
WIDER = 1.3  # than the box on whose edge it stands: how wide a label may be


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
    mark: Mark, cell: int, names: Sequence[str], probs: np.ndarray | None, labels: np.ndarray | None
) -> Mark:
    """A cell's outline and label from its probabilities (C,) and, if known, true classes (C,) bool.

    True classes are written in green, others in red; when the top class is not true, what is true stands below.
    """
    if probs is None:
        lines = [Line(f"{cell}", class_colour(cell))]
        if labels is not None:
            lines.append(Line(class_names(labels, names) or "no true cell", RIGHT))
        return mark._replace(colour=class_colour(cell), lines=tuple(lines))
    top, colour = top_classes(probs), class_colour(int(probs.argmax()))
    lines = [Line(f"{cell}", colour)]
    for index in top:
        judged = WHITE if labels is None else RIGHT if labels[index] else WRONG
        lines.append(Line(f"{names[index]} {confidence(probs[index])}", judged))
    if labels is not None and not (top and labels[top[0]]):
        true = class_names(labels, names)
        lines.append(Line(f"true: {true}" if true else "no true cell"))
    return mark._replace(colour=colour, lines=tuple(lines))


def class_names(labels: np.ndarray, names: Sequence[str]) -> str:
    """The names of the classes (C,) bool that a cell has."""
    return ", ".join(names[index] for index in np.flatnonzero(labels))


def found_mark(
    mark: Mark, cell: int, names: Sequence[str], probs: np.ndarray | None, score: float, labels: np.ndarray | None
) -> Mark:
    """The same of a cell of one class, in one line: its likeliest class with the confidence in it, or, where no class
    is known, its score. Green: the class is true, or there is a true cell; red: it is not. A confidence of 1 is not
    written, labelled cells have it. With one class in all, cells have colours of their own and no names.
    """
    index = int(probs.argmax()) if probs is not None and probs.any() else None
    name, value = ("", score) if index is None else (names[index], probs[index])
    known = labels is not None and (labels.any() if index is None else labels[index])
    judged = WHITE if labels is None else RIGHT if known else WRONG
    name = name if len(names) > 1 else ""
    text = f"{name} {confidence(value)}".strip() if value < 1 else name
    lines = [Line(text, judged)] if text else []
    if labels is not None and labels.any() and not known:
        lines.append(Line(f"true: {class_names(labels, names)}"))
    colour = class_colour(cell) if len(names) == 1 else WHITE if index is None else class_colour(index)
    return mark._replace(colour=colour, lines=tuple(lines))


def true_mark(mark: Mark, names: Sequence[str], labels: np.ndarray, found: bool, dashed: bool) -> Mark:
    """A true cell of a class (C,) bool in the class's colour, white with one class in all; one that was not found says
    so.
    """
    several = len(names) > 1
    lines = () if found else (Line(f"missed {class_names(labels, names) if several else ''}".strip(), WRONG),)
    return mark._replace(colour=class_colour(int(labels.argmax())) if several else WHITE, lines=lines, dashed=dashed)


def dropped_mark(mark: Mark, cell: int) -> Mark:
    """A cell that was dropped at the border: grey, dashed."""
    return mark._replace(colour=GREY, lines=(Line(f"{cell}", GREY),), dashed=True)


def with_room(marks: Sequence[Mark], scale: float) -> list[Mark]:
    """The marks, without the labels that would hide too much."""
    return [mark if _has_room(mark, scale) else mark._replace(lines=()) for mark in marks]


def _has_room(mark: Mark, scale: float) -> bool:
    sizes = [text_size(line.text, scale) for line in mark.lines]
    width, height = max((size[0] for size in sizes), default=0), sum(size[1] for size in sizes)
    if mark.box is not None:
        return width <= WIDER * mark.mask.shape[1]
    return width * height <= ROOM * mark.mask.sum()


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


def count_lines(
    title: str, cells: int, found: np.ndarray, true: np.ndarray | None, names: Sequence[str]
) -> list[Line]:
    """The panel's lines where a cell has one class: the image, how many cells, and of each class (C,) how many were
    found and, if known, are true.
    """
    both = found if true is None else np.maximum(found, true)
    head = f"{cells} cells" if true is None else f"found {cells} / true {true.sum()}"
    lines = [Line(title), Line(head, GREY), Line("")]
    for index in np.argsort(-both, kind="stable")[: np.count_nonzero(both)]:
        count = f"{found[index]:>3}" if true is None else f"{found[index]:>3} /{true[index]:>3}"
        lines.append(Line(f"{count}  {names[index]}", class_colour(int(index))))
    return [*lines, Line("")]


def overlay(image: np.ndarray, layers: dict[str, Sequence[Mark]], lines: Sequence[Line], names: Sequence[str],
            size: int) -> np.ndarray:  # fmt: skip
    """The picture of an image (height, width, C) with cells placed on it as large as `shrink(image, size)`.

    layers: title -> cells; a picture each, side by side. lines: of the panel beside them; names: of the channels, which
    the panel shows one by one where there are more than colours.
    """
    small, scale = shrink(image, size), max(size / 2500, 0.3)
    coloured = small.shape[2] == 3
    picture = brighten(small) if coloured else composite(stretch(small))
    pictures = [draw_cells(picture, marks, scale, max(round(size / 600), 1)) for marks in layers.values()]
    if len(pictures) > 1:
        pictures = [titled(own, title, scale) for own, title in zip(pictures, layers, strict=True)]
    width = max(round(size * PANEL), 200)
    rows = [] if coloured else channel_rows(stretch(small), names, width, scale)
    return beside(*pictures, panel(lines, rows, width, scale))
