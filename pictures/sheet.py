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


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures and last a panel side by side, the lower ones continued in dark grey."""
    height = max(map(len, pictures))
    gaps = [GAP] * (len(pictures) - 2) + [0, 0]
    return np.hstack([
        cv2.copyMakeBorder(own, 0, height - len(own), 0, gap, cv2.BORDER_CONSTANT, value=DARK)
        for own, gap in zip(pictures, gaps, strict=True)
    ])  # fmt: skip


def panel(lines: Sequence[Line], rows: Sequence[np.ndarray], width: int, scale: float) -> np.ndarray:
    """A column of text, and below it rows of pictures, each `width` pixels wide."""
    lines = [Line(fit(line.text, width - 2 * GAP, scale), line.colour) for line in lines]
    text = np.full((sum(text_size(line.text, scale)[1] for line in lines) + 2 * GAP, width, 3), DARK, np.uint8)
    write(text, lines, GAP, GAP, scale)
    return np.vstack([text, *rows])


def channel_rows(channels: np.ndarray, names: Sequence[str], width: int, scale: float) -> list[np.ndarray]:
    """Each of the stretched channels (height, width, C) in grey: the protein alone in a row, then the others by two."""
    others = [index for index in range(len(names)) if index != PROTEIN]
    pairs = [others[start : start + 2] for start in range(0, len(others), 2)]
    return [_row(channels, names, [PROTEIN], width, 1, scale)] + [
        _row(channels, names, pair, width, 2, scale) for pair in pairs
    ]


def _row(channels: np.ndarray, names: Sequence[str], which: Sequence[int], width: int, most: int,
         scale: float) -> np.ndarray:  # fmt: skip
    """Some of the channels side by side, `width` pixels wide, each as large as if there were `most`."""
    side = (width - (most + 1) * GAP) // most
    small = cv2.resize(channels, (side, max(round(side * len(channels) / channels.shape[1]), 1)),
                       interpolation=cv2.INTER_AREA)  # fmt: skip
    tiles = [titled(alone(small, index), names[index], scale) for index in which]
    row = np.full((len(tiles[0]) + GAP, width, 3), DARK, np.uint8)
    for place, own in enumerate(tiles):
        x = GAP + place * (side + GAP)
        row[:-GAP, x : x + side] = own
    return row


def titled(picture: np.ndarray, name: str, scale: float) -> np.ndarray:
    """A picture below its name."""
    head = np.full((text_size(name, scale)[1] + 3, picture.shape[1], 3), DARK, np.uint8)
    write(head, [Line(name, GREY)], 0, 0, scale)
    return np.vstack([head, picture])
