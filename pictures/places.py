"""Where cells of a table lie in a picture of their image, or of a part of it."""

from typing import NamedTuple

import cv2
import numpy as np

from cells.masks import decode_mask
from common.errors import UserError
from pictures.composite import cut, shrink_mask, square
from pictures.drawing import GREY, Mark


class View(NamedTuple):
    """What of an image a picture shows: left, top, width and height in the image's pixels (it may reach beyond the
    image), and the picture's shape (height, width).
    """

    left: int
    top: int
    width: int
    height: int
    shape: tuple[int, int]

    @property
    def zoom(self) -> np.ndarray:
        """Pixels of the picture a pixel of the image, for x1, y1, x2 and y2: (4,)."""
        return np.array([self.shape[1] / self.width, self.shape[0] / self.height] * 2)


def whole(image: np.ndarray, shape: tuple[int, int]) -> View:
    """The view of a whole image (height, width, ...) in a picture of `shape`."""
    return View(0, 0, image.shape[1], image.shape[0], shape[:2])


def around(boxes: np.ndarray, margin: float, size: int) -> View:
    """The square view, `size` pixels a side, about all of the boxes (N, 4), `margin` of its side larger each way."""
    left, top, side = square((*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)), margin)
    return View(left, top, side, side, (size, size))


def place(row: NamedTuple, image: tuple[int, int], view: View) -> Mark:
    """The grey outline of a cell, a row of a cells table, in a view of its image (height, width).

    UserError when the table says another size of the image.
    """
    if row.ImageWidth and (row.ImageHeight, row.ImageWidth) != tuple(image):
        raise UserError(
            f"{row.ImageID} has {image[1]} x {image[0]} pixels, but {row.ImageWidth} x {row.ImageHeight} in the "
            "cells table"
        )
    if not row.PredictionString:
        return place_box((row.x1, row.y1, row.x2, row.y2), view)
    mask = cut(mask_of(row, *image), view.left, view.top, view.width, view.height)
    mask = shrink_mask(mask, view.shape)
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return Mark(mask[y : y + height, x : x + width], GREY, at=(x, y))


def mask_of(row: NamedTuple, height: int, width: int) -> np.ndarray:
    """The mask of a row of a cells table, (height, width) bool; UserError, which names the cell, for a damaged one."""
    try:
        return decode_mask(row.PredictionString, height, width)
    except UserError as error:
        raise UserError(f"cell {row.CellID} of {row.ImageID}: {error}") from None


def place_box(box: tuple[float, float, float, float], view: View) -> Mark:
    """The same of a cell that is a box x1, y1, x2, y2 in the image's pixels, which may leave it."""
    own = (np.array(box) - [view.left, view.top, view.left, view.top]) * view.zoom
    x1, y1, x2, y2 = np.clip(np.round(own), 0, [*view.shape[::-1], *view.shape[::-1]]).astype(int)
    return Mark(np.ones((max(y2 - y1, 0), max(x2 - x1, 0)), bool), GREY, at=(int(x1), int(y1)), box=tuple(own.tolist()))
