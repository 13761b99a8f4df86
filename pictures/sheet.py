"""Put pictures together: tiles with captions in a grid, a panel beside a picture."""

from collections.abc import Sequence

import cv2
import numpy as np

from pictures.composite import PROTEIN, alone
from pictures.drawing import DARK, GREY, Colour, Line, fit, text_size, write

GAP = 8  # pixels between tiles
FRAME = 3
CAPTION, TITLE = 0.42, 0.75  # scales of the font


def tile(picture: np.ndarray, lines: Sequence[Line], frame: Colour = GREY) -> np.ndarray:
    """A picture in a frame, with lines of text below, cut to its width."""
    framed = cv2.copyMakeBorder(picture, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_CONSTANT, value=frame)
    width = framed.shape[1]
    lines = [Line(fit(line.text, width, CAPTION), line.colour) for line in lines]
    caption = np.full((sum(text_size(line.text, CAPTION)[1] for line in lines) + 4, width, 3), DARK, np.uint8)
    write(caption, lines, 0, 2, CAPTION)
    return np.vstack([framed, caption])


def grid(tiles: Sequence[np.ndarray], columns: int, title: Sequence[Line]) -> np.ndarray:
    """Tiles of one size, row by row, below a title: a first line in large letters, the others in small ones."""
    height, width = tiles[0].shape[:2] if tiles else (0, 600)
    columns = max(min(columns, len(tiles)), 1)
    rows = -(-len(tiles) // columns)
    wide = max(columns * (width + GAP) + GAP, *(_width(line, index) for index, line in enumerate(title)))
    top = 18 + sum(text_size(line.text, _scale(index))[1] for index, line in enumerate(title))
    sheet = np.full((top + rows * (height + GAP), wide, 3), DARK, np.uint8)
    y = GAP
    for index, line in enumerate(title):
        write(sheet, [line], GAP, y, _scale(index))
        y += text_size(line.text, _scale(index))[1]
    for index, own in enumerate(tiles):
        row, column = divmod(index, columns)
        y, x = top + row * (height + GAP), GAP + column * (width + GAP)
        sheet[y : y + height, x : x + width] = own
    return sheet


def _scale(index: int) -> float:
    return CAPTION if index else TITLE


def _width(line: Line, index: int) -> int:
    return text_size(line.text, _scale(index))[0] + 2 * GAP


def beside(picture: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """A picture and a panel side by side, the lower one continued in dark grey."""
    height = max(len(picture), len(panel))
    return np.hstack([_taller(picture, height), _taller(panel, height)])


def _taller(picture: np.ndarray, height: int) -> np.ndarray:
    return cv2.copyMakeBorder(picture, 0, height - len(picture), 0, 0, cv2.BORDER_CONSTANT, value=DARK)


def panel(lines: Sequence[Line], channels: np.ndarray, names: Sequence[str], width: int, scale: float) -> np.ndarray:
    """A column of text, and below it each of the stretched channels (height, width, C) in grey."""
    lines = [Line(fit(line.text, width - 2 * GAP, scale), line.colour) for line in lines]
    text = np.full((sum(text_size(line.text, scale)[1] for line in lines) + 2 * GAP, width, 3), DARK, np.uint8)
    write(text, lines, GAP, GAP, scale)
    column = [text, _row(channels, names, [PROTEIN], width, 1, scale)]
    others = [index for index in range(len(names)) if index != PROTEIN]
    column += [_row(channels, names, others[start : start + 2], width, 2, scale) for start in range(0, len(others), 2)]
    return np.vstack(column)


def _row(channels: np.ndarray, names: Sequence[str], which: Sequence[int], width: int, most: int,
         scale: float) -> np.ndarray:  # fmt: skip
    """Some of the channels side by side, `width` pixels wide, each as large as if there were `most`."""
    side = (width - (most + 1) * GAP) // most
    small = cv2.resize(channels, (side, max(round(side * len(channels) / channels.shape[1]), 1)),
                       interpolation=cv2.INTER_AREA)  # fmt: skip
    tiles = [_titled(alone(small, index), names[index], scale) for index in which]
    row = np.full((len(tiles[0]) + GAP, width, 3), DARK, np.uint8)
    for place, own in enumerate(tiles):
        x = GAP + place * (side + GAP)
        row[:-GAP, x : x + side] = own
    return row


def _titled(picture: np.ndarray, name: str, scale: float) -> np.ndarray:
    head = np.full((text_size(name, scale)[1] + 3, picture.shape[1], 3), DARK, np.uint8)
    write(head, [Line(name, GREY)], 0, 0, scale)
    return np.vstack([head, picture])
