"""Draw cells on a picture: outlines, and labels where they hide least."""

import colorsys
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[int, int, int]
WHITE, GREY, DARK = (255, 255, 255), (150, 150, 150), (24, 24, 24)
RIGHT, WRONG = (90, 230, 110), (255, 105, 90)
FONT = cv2.FONT_HERSHEY_SIMPLEX
BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # of red, green and blue
LIGHT = 0.45  # that a class's colour has at least
MIDDLE = 127  # a picture with more than half of its pixels brighter is light
DASH = 9  # pixels drawn, and left out
PAD = 3  # pixels about a text
PLACES = 2000  # that are tried for a label
TAKEN = 5000.0  # how much worse than a bright pixel it is to hide another label


class Line(NamedTuple):
    """A line of text and its colour."""

    text: str
    colour: Colour = WHITE


class Mark(NamedTuple):
    """A cell to draw: its mask (h, w) bool whose left upper pixel lies `at` x, y of the picture, the outline's colour,
    its label, whether the outline is dashed. box: x1, y1, x2, y2 in the picture, or beyond it, of a cell that is a box;
    `mask` is then what the picture has of it.
    """

    mask: np.ndarray
    colour: Colour
    lines: tuple[Line, ...] = ()
    dashed: bool = False
    at: tuple[int, int] = (0, 0)
    box: tuple[float, float, float, float] | None = None


def class_colour(index: int) -> Colour:
    """A colour for a class, readable on black; neighbours in the list differ most."""
    slot = index * 7 % 20
    colour = np.array(colorsys.hsv_to_rgb(slot / 20, (0.9, 0.45)[slot % 2], 1.0))
    light = colour @ BRIGHTNESS
    colour += (1 - colour) * max(LIGHT - light, 0) / (1 - light)
    return tuple(np.round(255 * colour).astype(int).tolist())


def draw_cells(picture: np.ndarray, marks: Sequence[Mark], scale: float = 0.4, thickness: int = 2) -> np.ndarray:
    """The picture (height, width, 3) with the cells' outlines on it in their order, then their labels.

    scale: of the font; thickness: of the outlines, in pixels. Outlines of one pixel are the cells' outermost pixels,
    thicker ones have their middle there. On a light picture they have a dark rim.
    """
    bright = picture.max(axis=2).astype(np.float32)
    light = np.median(bright) > MIDDLE
    busy = 255 - bright if light else bright  # what a label had better not hide
    picture = picture.copy()
    for mark in marks:
        if light:
            _outline(picture, mark._replace(colour=DARK), thickness + 2)
        _outline(picture, mark, thickness)
    for mark in marks:
        if mark.lines and mark.mask.any():
            _label(picture, mark, scale, busy)
    return picture


def _outline(picture: np.ndarray, mark: Mark, thickness: int) -> None:
    contours = outlines(mark.mask) if mark.box is None else [box_outline(mark.box, picture.shape)]
    for contour in contours:
        contour = contour + np.int32(mark.at if mark.box is None else 0)
        smooth = cv2.LINE_8 if thickness == 1 or mark.dashed else cv2.LINE_AA  # a thin one would spread over three
        step = DASH if mark.dashed else len(contour)
        pieces = [contour[start : start + step] for start in range(0, len(contour), 2 * step)]
        cv2.polylines(picture, pieces, not mark.dashed, mark.colour, thickness, smooth)


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The outermost pixels of a mask (height, width) bool, around it and around its holes: x, y pairs (N, 2) each."""
    found = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
    return [contour.reshape(-1, 2) for contour in found]


def box_outline(box: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """The outermost pixels of a box x1, y1, x2, y2 as x, y pairs (N, 2); those far from a picture of `shape` (height,
    width) are moved near it.
    """
    far = np.array([shape[1], shape[0]]) + DASH
    x1, y1 = np.clip(np.round(box[:2]), -DASH, far).astype(np.int32)
    x2, y2 = np.maximum(np.clip(np.round(box[2:]) - 1, -DASH, far), [x1, y1]).astype(np.int32)
    across, down = np.arange(x1, x2 + 1), np.arange(y1, y2 + 1)
    sides = [(across, y1), (x2, down), (across[::-1], y2), (x1, down[::-1])]
    return np.concatenate([np.column_stack(np.broadcast_arrays(*side)) for side in sides]).astype(np.int32)


def text_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height in pixels that a line of text takes, with the space to the next."""
    width = cv2.getTextSize(printable(text), FONT, scale, 1)[0][0]
    return width, round(30 * scale) + 3


def printable(text: str) -> str:
    """The text in characters that every version of the font has: accents dropped, others as `?`."""
    letters = (char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return "".join(char if " " <= char <= "~" else "?" for char in letters)


def fit(text: str, width: int, scale: float) -> str:
    """The text, cut and ended by `..` where it is wider than `width` pixels."""
    if text_size(text, scale)[0] <= width:
        return text
    while text and text_size(text + "..", scale)[0] > width:
        text = text[:-1]
    return text.rstrip() + ".."


def write(picture: np.ndarray, lines: Sequence[Line], x: int, y: int, scale: float) -> None:
    """Write lines of text into the picture, the first one's upper left corner at x, y."""
    for line in lines:
        height = text_size(line.text, scale)[1]
        place = x, y + height - round(9 * scale)
        cv2.putText(picture, printable(line.text), place, FONT, scale, line.colour, 1, cv2.LINE_AA)
        y += height


def _label(picture: np.ndarray, mark: Mark, scale: float, busy: np.ndarray) -> None:
    """Write a cell's label within the cell or on its box's edge, on a darker ground, and take its place in `busy`."""
    sizes = [text_size(line.text, scale) for line in mark.lines]
    size = max(width for width, _ in sizes) + 2 * PAD, sum(height for _, height in sizes) + 2
    within = mark.mask if mark.box is None else mark.mask[:1]  # on a box's upper edge, since the cell fills it
    x1, y1 = label_place(within, size, busy, mark.at)
    busy[y1 : y1 + size[1], x1 : x1 + size[0]] = TAKEN
    ground = picture[y1 : y1 + size[1], x1 : x1 + size[0]]
    ground[:] = ground * 0.35
    write(picture, mark.lines, x1 + PAD, y1, scale)


def label_place(
    mask: np.ndarray, size: tuple[int, int], busy: np.ndarray, at: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """Left and top of a label of `size` (width, height) that lies in the picture, its middle in the cell, on the
    pixels that sum up to least in `busy` (height, width), which is as large as the picture. mask, at: as in Mark.
    """
    width, height = min(size[0], busy.shape[1]), min(size[1], busy.shape[0])
    ys, xs = np.nonzero(mask)
    few = slice(None, None, max(len(xs) // PLACES, 1))
    left = np.clip(xs[few] + at[0] - width // 2, 0, busy.shape[1] - width)
    top = np.clip(ys[few] + at[1] - height // 2, 0, busy.shape[0] - height)
    x1, y1 = left.min(), top.min()
    sums = cv2.integral(busy[y1 : top.max() + height, x1 : left.max() + width], sdepth=cv2.CV_64F)
    x, y = left - x1, top - y1
    covered = sums[y + height, x + width] - sums[y, x + width] - sums[y + height, x] + sums[y, x]
    best = covered.argmin()
    return int(left[best]), int(top[best])
