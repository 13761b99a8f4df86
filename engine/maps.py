"""Whole images with the class of each of their pixels as samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from augment.maps import placed
from cells.crops import to_uint8
from cells.instances import class_map, merge_channels
from cells.masks import decode_mask
from common.seeds import rng
from competitions import Competition
from engine.scenes import network_input


@dataclass
class Maps(Dataset):
    """Images by ImageID with their class maps, changed by `change` with randomness from (seed, epoch, ImageID) alone.

    An item is asked for by (epoch, index) and is (image (C, height, width), class map (height, width) uint8, index);
    the background is the last class, num_classes. cells: a cells table with Label and masks; None where the competition
    reads its own arrays. canvas: epoch -> (height, width) of its items. single: all cells are of class 0.
    """

    competition: Competition
    root: Path
    keys: Sequence[str]
    cells: pd.DataFrame | None
    change: Callable[..., tuple[np.ndarray, np.ndarray]]
    canvas: Callable[[int], tuple[int, int]]
    single: bool
    seed: int = 0

    def __post_init__(self):
        self.rows = {} if self.cells is None else self.cells.groupby("ImageID").indices

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def classes(self) -> int:
        """The number of classes, without the background."""
        return 1 if self.single else len(self.competition.CLASSES)

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        epoch, index = item
        key = self.keys[index]
        image = to_uint8(self.competition.read_image(self.root, key))
        labels = class_map(self.instances(key, image.shape[:2]))
        image, labels = placed(image, labels, self.canvas(epoch), self.classes)
        image, labels = self.change(image, labels, rng(self.seed, epoch, key), epoch)
        return network_input(self.competition, image), torch.from_numpy(labels), index

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
        for number, (text, label) in enumerate(zip(own["PredictionString"], labels, strict=True), start=1):
            arrays[decode_mask(text, height, width), label] = number
        return arrays

    def pixels(self) -> np.ndarray:
        """The pixels of each class and, last, of the background in all images: int (classes + 1,)."""
        maps = (class_map(self.instances(key)) for key in self.keys)
        return sum(np.bincount(own.ravel(), minlength=self.classes + 1) for own in maps)
