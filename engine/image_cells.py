"""Samples that are images together with their cells: with their masks, or with crops of some of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from augment.crops import whole
from cells.images import decode
from common.errors import UserError, first_line
from common.files import existing
from common.seeds import rng
from engine.data import Item, Samples, channels_first
from engine.samples import checksums, dataset_folders, find, split_key


@dataclass
class LabelledImages(Samples):
    """Images with their label images, changed in step.

    An item is ({"images": (C, crop_size, crop_size) uint8, "labels": (crop_size, crop_size) int32}, target, index): the
    cells that can be seen are counted from 1, in the order of `cells`, the CellIDs of each image. `augment` must take
    the keyword `resize`. A crop without any cell becomes the whole image.
    """

    folders: Sequence[Path] = ()
    cells: Sequence[np.ndarray] = ()

    @property
    def rows(self) -> list[str]:
        """A prediction's rows: `<ImageID>+<CellID>`."""
        return [f"{key}+{cell}" for key, own in zip(self.keys, self.cells, strict=True) for cell in own]

    @property
    def identity(self) -> list:
        """As of `Samples`, with the label images."""
        return [*super().identity, checksums(self.folders, self.keys, ".cells.png")]

    def __getitem__(self, item: Item) -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
        epoch, index, turn = Item(*item)
        key = self.keys[index]
        image, labels = self.reader(key, self.img_size), read_labels(self.folders, key, self.cells[index])
        labels, augment = resize_labels(labels, self.img_size), self.augment
        seen = augment(labels, self.crop_size, rng(self.seed, epoch, key, turn), resize=resize_labels)
        if not seen.any():
            seen, augment = whole(labels, self.crop_size, resize=resize_labels), whole
        image = augment(image, self.crop_size, rng(self.seed, epoch, key, turn))
        batch = {"images": channels_first(image), "labels": torch.from_numpy(consecutive(seen))}
        return batch, self.target(index), index


@dataclass
class Bags(Dataset):
    """Images as bags of up to `most` of their cells, drawn anew in each epoch; with `images` the whole image, too.

    cells: the samples of single cells; members: the rows there of each image. An item is ({"cells": (n, C, crop_size,
    crop_size) uint8, perhaps "images": (C, crop_size, crop_size)}, target, index); in a batch the cells lie image after
    image, and "counts" says how many belong to each.
    """

    keys: Sequence[str]
    targets: np.ndarray | None
    cells: Samples
    members: Sequence[np.ndarray]
    most: int
    images: Samples | None = None
    reader = None  # the keys are images', whatever is read

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rows(self) -> Sequence[str]:
        """The ids of a prediction's rows: the images'."""
        return self.keys

    @property
    def identity(self) -> list:
        """As of `Samples`."""
        return [self.most, *self.cells.identity, *(self.images.identity if self.images else [])]

    def __getitem__(self, item: Item) -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
        epoch, index, turn = Item(*item)
        generator = rng(self.cells.seed, "cells", epoch, self.keys[index], turn)
        drawn = generator.permutation(self.members[index])[: self.most]
        batch = {"cells": torch.stack([self.cells[epoch, int(row), turn][0] for row in drawn])}
        if self.images:
            batch["images"] = self.images[epoch, index, turn][0]
        target = torch.empty(0) if self.targets is None else torch.from_numpy(self.targets[index])
        return batch, target, index

    @staticmethod
    def collate(items: Sequence[tuple]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """The batch of some items."""
        inputs, targets, index = zip(*items, strict=True)
        batch = {
            "cells": torch.cat([own["cells"] for own in inputs]),
            "counts": torch.tensor([len(own["cells"]) for own in inputs]),
        }
        if "images" in inputs[0]:
            batch["images"] = torch.stack([own["images"] for own in inputs])
        return batch, torch.stack(targets), torch.tensor(index)


def with_labels(samples: Samples, cache_dir: str | Path, datasets: str) -> LabelledImages:
    """Samples of whole images with the label images that segment.py left in --cache_dir; images without cells go."""
    folders = dataset_folders(cache_dir, datasets, "--cache_dir")
    cells = [kept_cells(folders, key) for key in tqdm(samples.keys, "list cells", leave=False)]
    rows = [row for row, own in enumerate(cells) if len(own)]
    if not rows:
        raise UserError(f"--cache_dir {cache_dir}: none of the {len(cells)} images has a cell")
    return LabelledImages(**vars(only(samples, rows)), folders=folders, cells=[cells[row] for row in rows])


def bags_of(cells: Samples, most: int, images: Samples | None = None) -> Bags:
    """Samples of single cells as bags, one an image; with `images` those of them whose whole image is there, too."""
    names = pd.Series([split_key(key)[0] for key in cells.keys])
    members = names.groupby(names, sort=False).indices
    if images:
        images = only(images, [row for row, key in enumerate(images.keys) if key in members])
        members = {key: members[key] for key in images.keys}
    if not members:
        raise UserError("no image is there with its crops: --img_path and --crop_dir must hold the same images")
    targets = None if cells.targets is None else cells.targets[[rows[0] for rows in members.values()]]
    return Bags(list(members), targets, cells, list(members.values()), most, images)


def only(samples: Samples, rows: Sequence[int]) -> Samples:
    """Some of the samples."""
    targets = None if samples.targets is None else samples.targets[rows]
    plain = {field.name: getattr(samples, field.name) for field in fields(Samples)}
    return Samples(**plain | {"keys": [samples.keys[row] for row in rows], "targets": targets})


def kept_cells(folders: Sequence[Path], image: str) -> np.ndarray:
    """The CellIDs of an image that segment.py kept, ascending."""
    path = existing(find(folders, image, ".csv") or folders[0] / f"{image}.csv", "the cells of an image")
    table = read_numbers(path, ["CellID", "keep"])
    return np.sort(table.loc[table["keep"] != 0, "CellID"].to_numpy())


def read_numbers(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of whole numbers of the rows that segment.py left in --cache_dir, below a line with a fingerprint."""
    try:
        return pd.read_csv(path, skiprows=1, usecols=columns, dtype=np.int64)[list(columns)]
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is not what segment.py writes ({first_line(error)}); run it again") from None


def read_labels(folders: Sequence[Path], image: str, cells: np.ndarray) -> np.ndarray:
    """The label image (H, W) uint16 of an image, in which `cells` are counted from 1 and all others are 0.

    UserError when it is missing or lacks one of the cells.
    """
    path = existing(find(folders, image, ".cells.png") or folders[0] / f"{image}.cells.png", "a label image")
    labels = decode(path.read_bytes())
    if labels is None or labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} is not a grey image of labels; run segment.py again")
    there = np.bincount(labels.ravel()) > 0
    missing = [cell for cell in cells if not (0 < cell < len(there) and there[cell])]
    if missing:
        raise UserError(f"{path} lacks cell {missing[0]}, which its table has; run segment.py again")
    numbers = np.zeros(len(there), np.uint16)
    numbers[cells] = np.arange(1, len(cells) + 1)
    return numbers[labels]


def resize_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """A label image (H, W) stretched to size x size by the nearest pixel; a cell that would vanish keeps one."""
    if labels.shape == (size, size):
        return labels
    small = cv2.resize(np.ascontiguousarray(labels), (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    before = np.bincount(labels.ravel())
    lost = np.flatnonzero((before > 0) & (np.bincount(small.ravel(), minlength=len(before)) == 0))
    for cell in lost[lost > 0]:
        places = np.argwhere(labels == cell)
        y, x = places[len(places) // 2] * size // labels.shape
        small[y, x] = cell
    return small


def consecutive(labels: np.ndarray) -> np.ndarray:
    """The cells that are there counted from 1 without gaps: int32."""
    there = np.bincount(labels.ravel()) > 0
    there[0] = False
    return (np.cumsum(there, dtype=np.int32) * there)[labels]
