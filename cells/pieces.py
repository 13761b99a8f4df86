"""Images, or tiles of them, as the batches that networks see."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

import competitions
from augment.scenes import FILL, fitted, scaled
from cells.crops import stretched, to_uint8
from cells.tiling import is_whole, tile_corners
from competitions import Competition
from engine.scenes import network_input

MULTIPLE = 32  # what networks need of an input's sides
BATCH = 8  # images or tiles at once on a GPU; a CPU is faster one by one


class Piece(NamedTuple):
    """An image, or a tile of one: its place in the batch, its upper left corner (y, x), its pixels (h, w, C), and the
    shape (height, width) that the network sees it at.
    """

    image: int
    corner: tuple[int, int]
    pixels: np.ndarray
    size: tuple[int, int]


def batches(
    images: list[np.ndarray], settings: dict, tile: int, device: torch.device, zoom: float = 1.0
) -> Iterator[tuple[list[Piece], torch.Tensor]]:
    """Images (H, W, C), or with `tile` their tiles of so many pixels a side, of one size in each batch, with what a
    network of these settings sees of them: prepared as in its training, whatever competition it finds cells for now.
    zoom: they are shown so much larger, in more tiles.
    """
    trained, raw = competitions.get(settings["competition"]), bool(settings.get("raw"))
    images = [image[..., : len(trained.CHANNELS)] for image in images]  # of hpa, a network of RGB sees those
    if settings.get("stretch"):
        images = [stretched(image) for image in images]
    for pieces in pieces_of(images, settings["img_size"], tile, zoom, 1 if device.type == "cpu" else BATCH):
        canvas = tuple(-(-side // MULTIPLE) * MULTIPLE for side in pieces[0].size)
        inputs = [to_input(piece.pixels, piece.size, canvas, trained, raw) for piece in pieces]
        yield pieces, torch.stack(inputs).to(device)


def pieces_of(images: list[np.ndarray], img_size: int, tile: int, zoom: float, batch: int) -> list[list[Piece]]:
    """The images, or their tiles, in lists of one size and at most `batch`."""
    by_shape: dict[tuple, list[Piece]] = {}
    for index, image in enumerate(images):
        side = round((tile or max(image.shape[:2])) / zoom) or 1
        for y, x in tile_corners(image.shape[:2], side):
            pixels = image[y : y + side, x : x + side]
            longer = max(pixels.shape[:2])
            size = fitted(*pixels.shape[:2], round(img_size * longer / side) or 1)
            by_shape.setdefault(pixels.shape, []).append(Piece(index, (y, x), pixels, size))
    return [own[first : first + batch] for own in by_shape.values() for first in range(0, len(own), batch)]


def to_input(
    image: np.ndarray, size: tuple[int, int], canvas: tuple[int, int], competition: Competition, raw: bool = False
) -> torch.Tensor:
    """An image (h, w, C) at `size` in the upper left corner of `canvas`, both (height, width), as networks take it."""
    padded = np.full((*canvas, image.shape[2]), FILL, np.uint8)
    padded[: size[0], : size[1]] = scaled(to_uint8(image), size)
    return network_input(competition, padded, raw)


def in_image(find: dict, piece: Piece, shape: tuple[int, int]) -> dict:
    """The finds of a piece with their boxes, and frames of masks, in the pixels of the image of `shape`, without those
    that other tiles see better.
    """
    tile = piece.pixels.shape[:2]
    y, x = piece.corner
    scale = np.float32([piece.size[1] / tile[1], piece.size[0] / tile[0]] * 2)
    whole = is_whole(find["boxes"] / scale, piece.corner, tile, shape)
    moved = {name: find[name] / scale + np.float32([x, y, x, y]) for name in ("boxes", "frames") if name in find}
    return {name: values[whole] for name, values in {**find, **moved}.items()}
