"""Whole images with the class of each of their pixels as samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from augment.maps import multiple_of, placed, window
from cells.crops import stretched, to_uint8
from cells.instances import cell_depths, merge_channels, numbered, scale_for
from cells.masks import decode_mask
from common.seeds import rng
from competitions import Competition
from engine.data import Item
from engine.scenes import BOX, network_input


@dataclass
class Maps(Dataset):
    """Images by ImageID with their class maps, changed by `change` with randomness from (seed, epoch, ImageID, turn).

    An item is asked for by an `Item` and is (image (C, height, width), target, index); the target is a class map
    (height, width) uint8, or shares (K, height, width) float32; the background is the last class. cells: a cells table
    with Label and masks; None where the competition reads its own arrays. canvas: epoch -> (height, width) of its
    items. single: all cells are of class 0. depths: a cell's pixels belong to its class by the share of their depth in
    it, and by the rest to one more, before the background. scale: items are windows of the image at about this scale,
    or without `canvas` whole images at it, in place of images scaled to the canvas; with `diameter` at the scale that
    gives an image's own cells this median diameter instead.
    stretch: grey values as `stretched`. raw: not prepared as the competition does.
    """

    competition: Competition
    root: Path
    keys: Sequence[str]
    cells: pd.DataFrame | None
    change: Callable[..., tuple[np.ndarray, np.ndarray]]
    canvas: Callable[[int], tuple[int, int]] | None
    single: bool
    depths: bool = False
    scale: float = 0.0
    diameter: float = 0.0
    stretch: bool = False
    raw: bool = False
    seed: int = 0

    def __post_init__(self):
        self.rows = {} if self.cells is None else self.cells.groupby("ImageID").indices

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def classes(self) -> int:
        """The number of classes of cells."""
        return 1 if self.single else len(self.competition.CLASSES)

    @property
    def maps(self) -> int:
        """The number of maps that a network of these samples gives."""
        return self.classes + self.depths + 1

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, torch.Tensor, int]:
        epoch, index, turn = Item(*item)
        key = self.keys[index]
        image = (stretched if self.stretch else to_uint8)(self.competition.read_image(self.root, key))
        generator = rng(self.seed, epoch, key, turn)
        cells, types = numbered(self.instances(key, image.shape[:2]))
        scale = scale_for(cells, self.diameter, self.scale) if self.diameter else self.scale
        if self.canvas and scale:
            image, cells = window(image, cells, self.canvas(epoch), scale, 0, generator)
        else:
            canvas = self.canvas(epoch) if self.canvas else multiple_of(cells.shape, scale)
            image, cells = placed(image, cells, canvas, 0)
        image, cells = self.change(image, cells, generator, epoch)
        return network_input(self.competition, image, self.raw), torch.from_numpy(self.target(cells, types)), index

    def target(self, cells: np.ndarray, types: np.ndarray) -> np.ndarray:
        """The class map of cells as `numbered` gives them, uint8 (height, width); with depths the shares of all maps,
        float32 (K, height, width).
        """
        if not self.depths:
            return types[cells]
        names = np.append(self.classes + 1, types[1:].astype(np.intp))[cells]
        own = np.where(cells > 0, cell_depths(cells), np.float32(1))
        shares = np.zeros((self.maps, *cells.shape), np.float32)
        np.put_along_axis(shares, names[None], own[None], axis=0)
        shares[self.classes] = 1 - own
        return shares

    def instances(self, key: str, shape: tuple[int, int] | None = None) -> np.ndarray:
        """An image's true cells: ids by class, int32 (height, width, classes), 0 where there is none of the class.

        shape: of the image, where it is known.
        """
        if self.cells is None:
            arrays = self.competition.read_masks(self.root, key)
            return merge_channels(arrays)[..., None] if self.single else arrays
        height, width = shape or self.competition.read_image(self.root, key).shape[:2]
        arrays = np.zeros((height, width, self.classes), np.int32)
        own = self.cells.iloc[self.rows.get(key, np.zeros(0, np.int64))]
        labels = np.zeros(len(own), np.int64) if self.single else own["Label"].astype(np.int64)
        boxes = own[BOX].to_numpy(int)  # a cell is small beside its image: only its box is looked at
        for number, (text, label, box) in enumerate(zip(own["PredictionString"], labels, boxes, strict=True), start=1):
            x1, y1, x2, y2 = box
            arrays[y1:y2, x1:x2, label][decode_mask(text, height, width)[y1:y2, x1:x2]] = number
        return arrays

    def pixels(self) -> np.ndarray:
        """The pixels, or their shares, of each map in all images: (K,)."""
        maps = (self.target(*numbered(self.instances(key))) for key in self.keys)
        return sum(own.sum((1, 2)) if own.ndim == 3 else np.bincount(own.ravel(), minlength=self.maps) for own in maps)
