"""Which images or cells a run works on, and how they are read: from the resized images or from the crop store."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cells.crops import resize
from cells.groups import check_folds
from cells.store import Store, read_image_png
from cells.table import read_table
from common.errors import UserError, some
from common.files import existing
from competitions import Competition
from engine.data import Samples


@dataclass
class ImageReader:
    """Whole images, `<folder>/<ImageID>.png`; the first of `folders` that has the image gives it."""

    folders: Sequence[Path]

    def __call__(self, key: str, size: int) -> np.ndarray:
        """(size, size, 4) uint8."""
        return resize(read_image_png(find(self.folders, key, ".png") or self.folders[0] / f"{key}.png"), size)

    def state(self, keys: Sequence[str]) -> list[int]:
        """A checksum of each image's file."""
        return checksums(self.folders, keys, ".png")


@dataclass
class CropReader:
    """Cells by `<ImageID>+<CellID>` from crop stores; the first of `folders` that has the image gives its cells."""

    folders: Sequence[Path]

    def __call__(self, key: str, size: int) -> np.ndarray:
        """(size, size, 4) uint8."""
        image, cell = split_key(key)
        return self._store(image).read(image, cell, size)

    def state(self, keys: Sequence[str]) -> list[int]:
        """A checksum of each image's cells."""
        return [self._store(image).checksum(image) for image in dict.fromkeys(split_key(key)[0] for key in keys)]

    def _store(self, image: str) -> Store:
        return Store((find(self.folders, image, ".zip") or self.folders[0] / image).parent)


def checksums(folders: Sequence[Path], images: Sequence[str], suffix: str) -> list[int]:
    """A checksum of the content of each `<folder>/<image><suffix>`."""
    paths = (existing(find(folders, image, suffix) or folders[0] / f"{image}{suffix}", "image") for image in images)
    return [_checksum(path, path.stat().st_mtime_ns) for path in paths]


@lru_cache(maxsize=1 << 16)  # each seed asks for the same images
def _checksum(path: Path, written: int) -> int:
    """Of a file's content; written: when it was, so that a newer one is read again."""
    return zlib.crc32(path.read_bytes())


def find(folders: Sequence[Path], image: str, suffix: str) -> Path | None:
    """The first existing `<folder>/<image><suffix>`."""
    return next((path for path in (folder / f"{image}{suffix}" for folder in folders) if path.exists()), None)


def split_key(key: str) -> tuple[str, int]:
    """`<ImageID>+<CellID>` as its two parts."""
    image, _, cell = key.rpartition("+")
    return image, int(cell)


def dataset_folders(root: str | Path, datasets: str, flag: str) -> list[Path]:
    """`root/<dataset>` for each of the comma-separated datasets; they must exist."""
    root = existing(root, flag)
    folders = [root / name for name in datasets.split(",")]
    for folder in folders:
        if not folder.is_dir():
            there = some(sorted(path.name for path in root.iterdir() if path.is_dir()), 6) or "no datasets"
            raise UserError(f"{flag} {root} has no dataset {folder.name} (it has {there}); segment.py writes it")
    return folders


def split_file(cells: bool) -> str:
    """The name of a split's table, of images or of single cells with labels of their own."""
    return "cells.csv" if cells else "images.csv"


def read_fold(
    folds_dir: str | Path, split_name: str, fold: int, competition: Competition, cells: bool = False,
    test_fold: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of a split as two tables (training, validation) with columns ID and Label.

    cells: the cells with their own labels instead, ID = `<ImageID>+<CellID>`, with ImageID besides. test_fold: images
    of neither table.
    """
    path = Path(folds_dir) / split_name / split_file(cells)
    if not path.exists():
        more = " with --cell_metadata" if cells else ""
        raise UserError(f"--split_name {split_name}: {path} does not exist; makefolds.py --split_name writes it{more}")
    key = {"Image": str, "ImageID": str} if cells else {"ID": str}
    table = read_table(path, {**key, "Label": str, "Fold": int}, key=[next(iter(key))]).rename(columns={"Image": "ID"})
    check_labels(table["Label"], len(competition.CLASSES), path)
    for group in {"ImageID", "Cluster"} & set(table):
        check_folds(table, group, str(path))
    folds = sorted(table["Fold"].unique())
    if fold not in folds:
        raise UserError(f"--fold {fold} is not in {path}; it has the folds {some(folds, 20)}")
    if test_fold is not None:
        if test_fold not in folds or test_fold == fold or len(folds) < 3:
            raise UserError(f"--test_fold {test_fold} must be another fold than --fold {fold} of {path}, which has "
                f"{some(folds, 20)}, and leave one to train on")  # fmt: skip
        table = table[table["Fold"] != test_fold]
    inside = table["Fold"] == fold
    return table[~inside].reset_index(drop=True), table[inside].reset_index(drop=True)


def check_labels(labels: pd.Series, classes: int, path: Path) -> None:
    """UserError unless every label text is empty or class indices joined by `|`."""
    known = {str(index) for index in range(classes)}
    for row, text in enumerate(labels, start=2):
        if text and not known.issuperset(text.split("|")):
            raise UserError(f"{path} row {row}: Label {text!r} must be class indices 0 to {classes - 1} joined by |")


def open_samples(
    images: pd.DataFrame, name: str, *, kind: str, root: str | Path, datasets: str, flag: str,
    targets: Callable[[pd.Series], np.ndarray] | None, **options,
) -> Samples:  # fmt: skip
    """The samples of a table of images (column ID, and Label with `targets`): each image, or each of their cells.

    name: what the images are for, in messages. kind: "image" or "cell". root, datasets: where segment.py wrote them,
    and the `flag` that said so. options: the other fields of Samples. UserError when none of the images is there.
    """
    folders = dataset_folders(root, datasets, flag)
    if kind == "image":
        table = images_of(images, folders)
    else:
        table = (labelled_cells if "ImageID" in images else cells_of)(images, folders)
    if table.empty:
        raise UserError(f"{flag} {root} has no {kind} of the {len(images)} {name} images; segment.py writes them")
    return Samples(
        reader=(CropReader if kind == "cell" else ImageReader)(folders),
        keys=table["ID"].tolist(),
        targets=targets(table["Label"]) if targets else None,
        **options,
    )


def cells_of(images: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """One row a cell of the images in the crop store, with its image's columns and its own key as ID."""
    rows, keys = [], []
    for row, image in enumerate(tqdm(images["ID"], "list cells", leave=False)):
        path = find(folders, image, ".zip")
        cells = Store(path.parent).cells(image) if path else []
        rows += [row] * len(cells)
        keys += [f"{image}+{cell}" for cell in cells]
    return images.iloc[rows].assign(ID=keys).reset_index(drop=True)


def labelled_cells(cells: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """The rows of a table of cells (columns ID, ImageID) whose crop is in the store."""
    images = cells[["ImageID"]].drop_duplicates().rename(columns={"ImageID": "ID"})
    return cells[cells["ID"].isin(cells_of(images, folders)["ID"])].reset_index(drop=True)


def images_of(images: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """The rows whose resized image exists."""
    there = [find(folders, image, ".png") is not None for image in images["ID"]]
    return images[there].reset_index(drop=True)
