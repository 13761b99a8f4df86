"""A cell as geometry: its mask and nucleus in a box of its own, distances in it, its nucleoli and centrosome."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np


@dataclass
class Cell:
    """A cell in its box: arrays (height, width), lengths in pixels, points as (y, x) inside the box."""

    top: int  # of the box, in the image's pixels; may be negative
    left: int
    mask: np.ndarray  # bool
    nucleus: np.ndarray  # bool
    scale: float  # pixels of this image for each pixel of a real 2048-pixel image
    axis: float  # direction of the cell's length, radians
    dividing: bool = False
    visible: float = 1.0  # share of its area inside the image
    centred: bool = True  # most of its nucleus is inside the image
    dim: float = 1.0  # brightness of all its stains
    nucleoli: list[tuple[float, float, float]] = field(default_factory=list)  # y, x, radius
    centrosome: tuple[float, float] = (0.0, 0.0)
    poles: tuple[tuple[float, float], tuple[float, float]] | None = None  # of a dividing cell's spindle
    contact: np.ndarray | None = None  # 0..1: near another cell
    red: np.ndarray | None = None  # microtubules and ER as drawn: protein patterns follow them
    yellow: np.ndarray | None = None

    @cached_property
    def to_edge(self) -> np.ndarray:
        """Distance to the cell's outline, 0 outside."""
        return distance(self.mask)

    @cached_property
    def to_nucleus(self) -> np.ndarray:
        """Distance to the nucleus, 0 inside it."""
        return distance(~self.nucleus)

    @cached_property
    def in_nucleus(self) -> np.ndarray:
        """Distance to the nucleus's outline, 0 outside the nucleus."""
        x, y, width, height = cv2.boundingRect(self.nucleus.view(np.uint8))
        around = np.s_[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1]
        full = np.zeros(self.nucleus.shape, np.float32)
        full[around] = distance(self.nucleus[around])
        return full

    @cached_property
    def outward(self) -> np.ndarray:
        """0 at (and in) the nucleus, 1 at the cell's edge."""
        return self.to_nucleus / (self.to_nucleus + self.to_edge + 1e-3)

    @cached_property
    def cytoplasm(self) -> np.ndarray:
        """The cell without its nucleus, bool; of a dividing cell all of it."""
        return self.mask if self.dividing else self.mask & ~self.nucleus

    @cached_property
    def nuclear(self) -> np.ndarray:
        """The nucleus as float32, 0 or 1."""
        return self.nucleus.astype(np.float32)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as rows and columns of the image (they may reach beyond it)."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def share_inside(self, part: np.ndarray, height: int, width: int) -> float:
        """The share of a part of the cell (its mask, its nucleus) that lies inside an image."""
        inside, _ = overlap(self.top, self.left, part.shape, (height, width))
        return np.count_nonzero(part[inside]) / max(1, np.count_nonzero(part))

    def crop(self, height: int, width: int, margin: int) -> "Cell":
        """The cell in the part of its box within `margin` of an image; distances stay those of the whole cell."""
        frame = (height + 2 * margin, width + 2 * margin)
        part, _ = overlap(self.top + margin, self.left + margin, self.mask.shape, frame)
        down, right = part[0].start, part[1].start
        solid = np.ascontiguousarray
        mask, nucleus = solid(self.mask[part]), solid(self.nucleus[part])
        cell = replace(self, top=self.top + down, left=self.left + right, mask=mask, nucleus=nucleus)
        if self.poles:
            cell.poles = tuple((y - down, x - right) for y, x in self.poles)
        cell.to_edge, cell.to_nucleus, cell.in_nucleus = (
            solid(distances[part]) for distances in (self.to_edge, self.to_nucleus, self.in_nucleus)
        )
        return cell


def distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel of a mask to the nearest pixel outside it, float32; beyond the frame counts as inside."""
    return cv2.distanceTransform(mask.view(np.uint8), cv2.DIST_L2, 3)


def soft(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a float32 array; a wide one is made small, a sigma too small to matter is left out."""
    if sigma < 0.35:
        return image
    shrink = int(sigma / 2)
    if shrink < 2:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    height, width = image.shape
    small = cv2.resize(image, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / shrink), (width, height), interpolation=cv2.INTER_LINEAR)


def disk(radius: int) -> np.ndarray:
    """A round structuring element."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def overlap(top: int, left: int, shape: tuple[int, int], canvas: tuple[int, int]) -> tuple[tuple, tuple]:
    """The part of a box inside a canvas: as slices (rows, columns) of the box and as slices of the canvas."""
    inside, outside = [], []
    for start, size, limit in zip((top, left), shape, canvas, strict=True):
        low = min(max(start, 0), limit)
        high = max(low, min(start + size, limit))
        outside.append(slice(low, high))
        inside.append(slice(low - start, high - start))
    return tuple(inside), tuple(outside)


def paste(canvas: np.ndarray, top: int, left: int, values: np.ndarray, combine=np.add) -> None:
    """`canvas = combine(canvas, values)` where an array whose corner lies at (top, left) covers it, in place."""
    inside, outside = overlap(top, left, values.shape, canvas.shape)
    canvas[outside] = combine(canvas[outside], values[inside])


def mark_contacts(cells: list[Cell]) -> None:
    """Give every cell the map of where it touches another one."""
    for cell in cells:
        others = np.zeros(cell.mask.shape, np.uint8)
        for other in cells:
            if other is not cell:
                paste(others, other.top - cell.top, other.left - cell.left, other.mask.view(np.uint8), np.maximum)
        reach = max(2.0, 7 * cell.scale)
        near = distance(others == 0) < reach if others.any() else others > 0
        cell.contact = soft(near.astype(np.float32), 2 * cell.scale)


def add_organelles(cell: Cell, rng: np.random.Generator, seen: np.ndarray) -> None:
    """Choose a cell's nucleoli and centrosome where they are `seen` (bool, the cell's box), in place."""
    if cell.poles:
        cell.centrosome = cell.poles[0]
        return
    depth = cell.in_nucleus * seen
    for _ in range(rng.integers(1, 6)):
        radius = cell.scale * rng.uniform(8, 15)
        room = np.flatnonzero(depth > 1.25 * radius)
        if not len(room):
            continue
        y, x = divmod(int(room[rng.integers(len(room))]), depth.shape[1])
        if all(np.hypot(y - other[0], x - other[1]) > radius + 1.2 * other[2] for other in cell.nucleoli):
            cell.nucleoli.append((float(y), float(x), radius))
    if not cell.nucleoli:  # a slender nucleus
        y, x = divmod(int(depth.argmax()), depth.shape[1])
        cell.nucleoli.append((float(y), float(x), min(10 * cell.scale, max(1.0, 0.6 * float(depth[y, x])))))
    cell.centrosome = _beside_nucleus(cell, rng, seen)


def _beside_nucleus(cell: Cell, rng: np.random.Generator, seen: np.ndarray) -> tuple[float, float]:
    """A point near the nucleus, rather on the side with more cytoplasm."""
    around = seen & cell.mask & (cell.to_nucleus > 0)
    near = around & (cell.to_nucleus > 6 * cell.scale) & (cell.to_nucleus < 24 * cell.scale)
    room = np.flatnonzero(next((part for part in (near, around) if part.any()), cell.mask))
    picks = room[rng.integers(len(room), size=6)]
    best = int(picks[cell.to_edge.ravel()[picks].argmax()])
    return float(best // cell.mask.shape[1]), float(best % cell.mask.shape[1])
