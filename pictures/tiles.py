"""Small pictures of single cells for contact sheets, with what is known of each below it."""

from collections.abc import Sequence

import cv2
import numpy as np

from cells.crops import resize
from pictures.composite import PROTEIN, alone, brighten, composite, cut, stretch
from pictures.drawing import GREY, RIGHT, WHITE, WRONG, Line, Mark, draw_cells
from pictures.marks import class_names, confidence
from pictures.places import View
from pictures.sheet import tile

HEAT = 0.75  # the largest share of a heat map's colour in a picture


def cell_tile(
    crop: np.ndarray, who: tuple[str, int], prob: float, index: int, labels: np.ndarray | None, names: Sequence[str],
    heat: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """A cell's crop (side, side, C) in colour and, of four channels, the protein alone; its probability of `index`.

    who: ImageID and CellID. labels: its true classes (C,) bool, if known; then the frame says whether `index` is true.
    heat: where a model sees the class, (h, w) in 0..1; shown on the last of these as one more picture.
    """
    lines, frame = [Line(f"{confidence(prob)}  cell {who[1]}  {who[0]}")], GREY
    if labels is not None:
        frame = RIGHT if labels[index] else WRONG
        lines.append(Line(true_text(labels, names), frame))
    views = cell_views(crop)
    if heat is not None:
        views.append(heated(views[-1], heat))
    return tile(np.hstack(views), lines, frame)


def cell_views(crop: np.ndarray) -> list[np.ndarray]:
    """The pictures (side, side, 3) of a crop (side, side, C): in colour and, of four channels, the protein alone."""
    if crop.shape[2] == 3:
        return [brighten(crop)]
    channels = stretch(crop, masked=True)
    return [composite(channels), alone(channels, PROTEIN)]


def heated(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture (height, width, 3) with a heat map (h, w) in 0..1 over it: unchanged at 0, mostly colour at 1."""
    heat = cv2.resize(heat.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.round(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    share = HEAT * heat[..., None]
    return np.round(picture * (1 - share) + colours * share).astype(np.uint8)


def true_text(labels: np.ndarray, names: Sequence[str]) -> str:
    """True classes (C,) bool in words."""
    return f"true: {class_names(labels, names)}" if labels.any() else "no true cell"


def miss_tile(
    picture: np.ndarray, view: View, found: Mark | None, true: Mark | None, lines: Sequence[Line]
) -> np.ndarray:
    """A view of a whole image's picture (height, width, 3) with the found cell outlined in white and the true one in
    green and dashed; either may be missing.
    """
    part = resize(cut(picture, view.left, view.top, view.width, view.height), view.shape[0])
    marks = [] if found is None else [found._replace(colour=WHITE)]
    marks += [] if true is None else [true._replace(colour=RIGHT, dashed=True)]
    return tile(draw_cells(part, marks), lines)
