"""Small pictures of single cells for contact sheets, with what is known of each below it."""

from collections.abc import Sequence

import cv2
import numpy as np

from cells.crops import resize
from pictures.composite import PROTEIN, alone, composite, cut, shrink_mask, square, stretch
from pictures.drawing import GREY, RIGHT, WHITE, WRONG, Line, Mark, draw_cells
from pictures.overlay import confidence
from pictures.sheet import tile

MARGIN = 0.25  # of a cell's box: what is shown around a missed cell
HEAT = 0.75  # the largest share of a heat map's colour in a picture
ID_LETTERS = 13  # of an ImageID, in captions


def cell_tile(
    crop: np.ndarray, who: tuple[str, int], prob: float, index: int, labels: np.ndarray | None, names: Sequence[str],
    heat: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """A cell's crop (side, side, 4) in colour and the protein alone; its probability of class `index`.

    who: ImageID and CellID. labels: its true classes (C,) bool, if known; then the frame says whether `index` is true.
    heat: where a model sees the class, (h, w) in 0..1; shown on the protein as a third picture.
    """
    channels = stretch(crop, masked=True)
    lines, frame = [Line(f"{confidence(prob)}   {who[0][:ID_LETTERS]} cell {who[1]}")], GREY
    if labels is not None:
        frame = RIGHT if labels[index] else WRONG
        lines.append(Line(true_text(labels, names), frame))
    views = [composite(channels), alone(channels, PROTEIN)]
    if heat is not None:
        views.append(heated(views[1], heat))
    return tile(np.hstack(views), lines, frame)


def heated(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture (height, width, 3) with a heat map (h, w) in 0..1 over it: unchanged at 0, mostly colour at 1."""
    heat = cv2.resize(heat.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.round(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    share = HEAT * heat[..., None]
    return np.round(picture * (1 - share) + colours * share).astype(np.uint8)


def true_text(labels: np.ndarray, names: Sequence[str]) -> str:
    """True classes (C,) bool in words."""
    return "true: " + ", ".join(names[index] for index in np.flatnonzero(labels)) if labels.any() else "no true cell"


def miss_tile(picture: np.ndarray, found: np.ndarray | None, true: np.ndarray | None, size: int,
              lines: Sequence[Line]) -> np.ndarray:  # fmt: skip
    """A cell in its surroundings: the found mask outlined in white, the true one in green (either may be missing).

    picture: of the whole image, (height, width, 3); masks (height, width) bool.
    """
    masks = [(mask, colour) for mask, colour in ((true, RIGHT), (found, WHITE)) if mask is not None]
    ys, xs = np.nonzero(np.any([mask for mask, _ in masks], axis=0))
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, *picture.shape[1::-1])
    place = square(box, MARGIN)
    marks = [Mark(shrink_mask(cut(mask, *place), (size, size)), colour) for mask, colour in masks]
    return tile(draw_cells(resize(cut(picture, *place), size), marks, thickness=1), lines)
