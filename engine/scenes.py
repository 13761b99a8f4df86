"""Whole images with their labelled cells as samples, and a detector's finds brought back to the images' pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from augment.mosaic import mixed
from augment.scenes import Scene, fitted, letterbox
from cells.crops import to_uint8
from cells.masks import decode_mask
from cells.table import BOX
from common.errors import UserError
from common.seeds import rng
from competitions import Competition
from engine.data import Item, channels_first


@dataclass
class Scenes(Dataset):
    """Images by ImageID with their cells, changed by `change` with randomness from (seed, epoch, ImageID, turn).

    An item is asked for by an `Item` and is (image (C, height, width) uint8, {"boxes", "labels", "masks"}, index);
    without `masks` it has none. cells: a cells table with a column Label, as competition.read_cells gives it.
    canvas: (height, width) of every item. single: all cells are of class 0. mosaic_epochs: the first so many epochs
    show mosaics of four scenes, mixed with a fifth (YOLOX); targets say whether these have ended, in "late".
    """

    competition: Competition
    root: Path
    keys: Sequence[str]
    cells: pd.DataFrame
    change: Callable[..., Scene]
    canvas: tuple[int, int]
    single: bool
    masks: bool = False
    keep_size: bool = False
    mosaic_epochs: int = 0
    seed: int = 0

    def __post_init__(self):
        self.rows = self.cells.groupby("ImageID").indices

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, item: Item) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
        epoch, index, turn = Item(*item)
        generator = rng(self.seed, epoch, self.keys[index], turn)
        scene = self.scene(self.keys[index])
        if 0 < epoch <= self.mosaic_epochs:
            scene = mixed(scene, lambda: self.scene(self.keys[generator.integers(len(self))]), self.canvas, generator)
        scene = self.change(scene, self.canvas, generator, keep_size=self.keep_size)
        target = {"boxes": torch.from_numpy(scene.boxes), "labels": torch.from_numpy(scene.labels)}
        if scene.masks is not None:
            target["masks"] = torch.from_numpy(scene.masks)
        target["late"] = epoch > self.mosaic_epochs
        return network_input(self.competition, scene.image), target, index

    @staticmethod
    def collate(batch: list[tuple]) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]], torch.Tensor]:
        """Images stacked (N, C, height, width), targets as a list, since each has another number of cells."""
        images, targets, index = zip(*batch, strict=True)
        return torch.stack(images), list(targets), torch.tensor(index)

    def shape(self, key: str) -> tuple[int, int]:
        """(height, width) of an image: the table's, or where it has no cell there the file's."""
        if key not in self.rows:
            return self.competition.read_image(self.root, key).shape[:2]
        height, width = self.cells[["ImageHeight", "ImageWidth"]].iloc[self.rows[key][0]].tolist()
        return height, width

    def scene(self, key: str) -> Scene:
        """An image with its cells, as large as it fits the canvas."""
        image = to_uint8(self.competition.read_image(self.root, key))
        height, width = image.shape[:2]
        own = self.cells.iloc[self.rows.get(key, np.zeros(0, np.int64))]
        labels = np.zeros(len(own), np.int64) if self.single else own["Label"].astype(np.int64).to_numpy()
        masks = None
        if self.masks:
            decoded = [decode_mask(text, height, width) for text in own["PredictionString"]]
            masks = np.array(decoded, np.uint8).reshape(-1, height, width)
        scene = Scene(image, own[BOX].to_numpy(np.float32), labels, masks)
        return letterbox(scene, fitted(height, width, self.canvas))


def network_input(competition: Competition, image: np.ndarray, raw: bool = False) -> torch.Tensor:
    """An image (H, W, C) uint8 as networks take it, (C, H, W): as it is if `raw`, else as the competition has it."""
    prepare = None if raw else getattr(competition, "prepare_image", None)
    return channels_first(prepare(image) if prepare else image)


def canvas_of(cells: pd.DataFrame, size: int, multiple: int = 32) -> tuple[int, int]:
    """The (height, width) that every image of the table fits into when its longer side is `size`.

    A multiple of 32, so that networks need not pad. UserError when the table has no cell.
    """
    if cells.empty:
        raise UserError("--metadata has no labelled cell to learn from")
    sides = cells[["ImageHeight", "ImageWidth"]].drop_duplicates().to_numpy()
    shapes = np.array([fitted(height, width, size) for height, width in sides])
    height, width = -(-shapes.max(axis=0) // multiple) * multiple
    return int(height), int(width)


def to_pixels(boxes: np.ndarray, shape: tuple[int, int], size: tuple[int, int] | int) -> np.ndarray:
    """Boxes (n, 4) on an image of `shape` (height, width) that was letterboxed into `size`, in that image's pixels."""
    height, width = shape
    new = fitted(height, width, size)
    return boxes / np.float32([new[1] / width, new[0] / height] * 2)


def of_side(boxes: np.ndarray, side: float | None) -> np.ndarray:
    """Squares of `side` pixels about the middles of boxes (n, 4), for competitions whose boxes all have one size; the
    boxes as they are where that is None.
    """
    if side is None:
        return boxes
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.hstack([middle - side / 2, middle + side / 2])
