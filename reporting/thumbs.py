"""Cells as small pictures inside the page, with their outlines as lines that the reader can hide."""

import base64
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np

from cells.crops import resize
from cells.store import Store
from common.errors import UserError
from pictures.composite import cut, picture_of, square
from pictures.drawing import outlines
from pictures.places import mask_of
from reporting.html import Html, tag

QUALITIES = 82, 65, 45, 25  # of JPEG: the first one that is small enough
FINE = 160  # parts of a picture's side: as far as an outline's corners may be moved
MARGIN = 0.25  # of a true cell's box: what is shown around it


class Square(NamedTuple):
    """What of an image a picture shows: its left and top, and its side, in the image's pixels."""

    left: int
    top: int
    side: int


class Thumbs:
    """Makes the pictures of a page, each `size` pixels a side and at most `most` bytes of JPEG.

    `failed`: what could not be shown, and why.
    """

    def __init__(self, competition: ModuleType, store: Store | None, root: str | None, size: int, most: int):
        self.competition, self.store, self.root, self.size, self.most = competition, store, root, size, most
        self.failed: list[str] = []

    def found(self, cell: tuple) -> Html | None:
        """The crop of a cell, a row of a cells table, with its outline; an empty frame where it cannot be read, nothing
        without a store.
        """
        if self.store is None:
            return None
        try:
            crop = self.store.read(cell.ImageID, cell.CellID, raw=True)
        except UserError as error:
            self.failed.append(str(error))
            return _frame("cannot be read")
        place = crop_place(cell, self.competition)
        picture = picture_of(resize(crop, self.size), masked=self.competition.MASKED_CROPS)
        marks = outline(cell, place) if place.side == len(crop) else None  # crops of another margin: no outline
        return _frame(self._image(picture, f"cell {cell.CellID} of {cell.ImageID}"), marks)

    def missed(self, cells: Sequence[tuple]) -> dict[tuple[str, int], Html]:
        """True cells, rows of a cells table, cut from their images in --root_dir: (ImageID, CellID) -> picture."""
        pictures = {}
        for image_id in dict.fromkeys(cell.ImageID for cell in cells):
            try:
                image = picture_of(self.competition.read_image(self.root, image_id))
            except UserError as error:
                self.failed.append(str(error))
                continue
            for cell in cells:
                if cell.ImageID == image_id:
                    place = Square(*square((cell.x1, cell.y1, cell.x2, cell.y2), MARGIN))
                    part = resize(cut(image, place.left, place.top, place.side, place.side), self.size)
                    shown = self._image(part, f"true cell {cell.CellID} of {image_id}")
                    pictures[image_id, cell.CellID] = _frame(shown, outline(cell, place))
        return pictures

    def _image(self, picture: np.ndarray, text: str) -> Html:
        data = base64.b64encode(self._jpeg(picture)).decode()
        return tag("img", src=f"data:image/jpeg;base64,{data}", alt=text, width=self.size, height=self.size)

    def _jpeg(self, picture: np.ndarray) -> bytes:
        for quality in QUALITIES:
            data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(data) <= self.most:
                return data
        return data if len(picture) <= 32 else self._jpeg(resize(picture, len(picture) // 2))


def _frame(*parts: Html | str | None) -> Html:
    return tag("div", *parts, class_="cell")


def crop_place(cell: tuple, competition: ModuleType) -> Square:
    """Where the crop of a cell lies that segment.py cut: see cells/crops.py."""
    x1, y1, x2, y2 = cell.x1, cell.y1, cell.x2, cell.y2
    longer = max(x2 - x1, y2 - y1)
    if competition.MASKED_CROPS:
        return Square(int(x1 - (longer - (x2 - x1)) // 2), int(y1 - (longer - (y2 - y1)) // 2), int(longer))
    side = max(round(longer + 2 * competition.CROP_MARGIN), 1)
    return Square(round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2), side)


def outline(cell: tuple, place: Square) -> Html:
    """A cell's mask, or box, as an SVG of 100 x 100 that lies on the picture of `place`."""
    if not cell.PredictionString:
        corners = (np.array([cell.x1, cell.y1, cell.x2, cell.y2]) - [place.left, place.top] * 2) * 100 / place.side
        x1, y1, x2, y2 = np.clip(corners, 0.5, 99.5).round(1).tolist()
        path = f"M{x1:g} {y1:g}H{x2:g}V{y2:g}H{x1:g}Z"
    else:
        mask = cut(mask_of(cell, cell.ImageHeight, cell.ImageWidth), *place, place.side)
        path = "".join(_polygon(contour, place.side) for contour in outlines(mask))
    return tag("svg", tag("path", d=path), viewBox="0 0 100 100", class_="mark", aria_hidden="true")


def _polygon(contour: np.ndarray, side: int) -> str:
    """A contour (N, 2) of pixels as a closed path with few corners."""
    corners = cv2.approxPolyDP(contour.reshape(-1, 1, 2), side / FINE, True).reshape(-1, 2)
    points = ((corners + 0.5) * 100 / side).round(1).tolist()
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z"
