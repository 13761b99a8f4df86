"""Large images as overlapping tiles: where they lie, and which finds of a tile its neighbours see better."""

from itertools import product

import numpy as np


def tile_corners(shape: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """The upper left corners (y, x) of square tiles that cover an image of `shape` (height, width) evenly, neighbours
    overlapping by a quarter at least. An image that is smaller in one direction has one tile in it.

    >>> tile_corners((100, 150), 100)
    [(0, 0), (0, 50)]
    """
    return list(product(*(_starts(length, side) for length in shape)))


def _starts(length: int, side: int) -> list[int]:
    count = 1 + max(0, -(-(length - side) // (side - side // 4)))
    return np.linspace(0, max(length - side, 0), count).round().astype(int).tolist()


def is_whole(boxes: np.ndarray, corner: tuple[int, int], tile: tuple[int, int], image: tuple[int, int]) -> np.ndarray:
    """Whether finds (n, 4) of a tile of shape `tile` at `corner` (y, x) of an image of shape `image` are whole (n,).

    One that touches an edge of the tile inside the image goes on beyond it; if it is smaller than the overlap, a
    quarter of the tile, a neighbour has it whole.
    """
    (top, left), (height, width) = corner, tile
    sides = boxes[:, 2:] - boxes[:, :2]
    small = sides <= np.array([width, height]) / 4
    near = boxes[:, :2] < 1, boxes[:, 2:] > np.array([width, height]) - 1
    inside = np.array([left > 0, top > 0]), np.array([left + width < image[1], top + height < image[0]])
    return ~((near[0] & inside[0] | near[1] & inside[1]) & small).any(axis=1)


def taper(height: int, width: int) -> np.ndarray:
    """How much each pixel of a tile counts where tiles overlap: float32, falling towards its edges."""
    down, right = (np.minimum(np.arange(n) + 1, n - np.arange(n)).astype(np.float32) for n in (height, width))
    return np.minimum.outer(down, right)
