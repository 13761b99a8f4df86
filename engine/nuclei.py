"""Nuclei as samples: cut out of the cells' crops by segment.py's label images of nuclei, in one channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cells.crops import boxes, cut_cell, resize
from cells.images import decode
from common.errors import UserError
from common.files import existing
from engine.data import Samples
from engine.image_cells import read_numbers
from engine.samples import CropReader, checksums, dataset_folders, find, split_key

Box = tuple[int, int, int, int]
PROTEIN = 1  # the channel that the classes are of


@lru_cache(maxsize=2)  # prediction asks for the cells of an image one after another
def read_labels(path: Path, written: int) -> np.ndarray:
    """A label image (height, width); written: when the file was, so that a newer one is read again."""
    labels = decode(path.read_bytes())
    if labels is None or labels.ndim != 2:
        raise UserError(f"{path} is not a grey image of labels; run segment.py again")
    return labels


@dataclass
class NucleusReader(CropReader):
    """The nuclei of cells by `<ImageID>+<CellID>`: masked, padded to a square, in one channel of the crops.

    labels: folders of `<ImageID>.nuclei.png`; boxes: of the cells in their images, x1, y1, x2, y2.
    """

    labels: Sequence[Path]
    boxes: dict[str, Box]
    channel: int

    def state(self, keys: Sequence[str]) -> list[int]:
        """A checksum of each image's cells, and of its nuclei."""
        images = list(dict.fromkeys(split_key(key)[0] for key in keys))
        return super().state(keys) + checksums(self.labels, images, ".nuclei.png")

    def __call__(self, key: str, size: int) -> np.ndarray:
        """(size, size) uint8; zero where the cell has no nucleus."""
        image, cell = split_key(key)
        crop = super().__call__(key, None)[..., self.channel]
        path = existing(find(self.labels, image, ".nuclei.png") or self.labels[0] / f"{image}.nuclei.png", "nuclei")
        x1, y1, x2, y2 = self.boxes[key]
        inside = (read_labels(path, path.stat().st_mtime_ns)[y1:y2, x1:x2] == cell).astype(np.uint8)
        if inside.shape != (y2 - y1, x2 - x1) or len(crop) != max(inside.shape):
            raise UserError(f"{path} does not go with the crop of cell {cell}; run segment.py again")
        inside = cut_cell(inside, inside, 1, (0, 0, x2 - x1, y2 - y1))
        box = boxes(inside).get(1)
        return resize(cut_cell(crop, inside, 1, box), size) if box else np.zeros((size, size), np.uint8)


def nuclei_of(cells: Samples, cache_dir: str | Path, datasets: str) -> Samples:
    """Samples of cells as samples of their nuclei in the protein's channel, in place; UserError if one lacks."""
    folders = dataset_folders(cache_dir, datasets, "--cache_dir")
    images = list(dict.fromkeys(split_key(key)[0] for key in cells.keys))
    found = {}
    for image in tqdm(images, "list nuclei", leave=False):
        path = existing(find(folders, image, ".csv") or folders[0] / f"{image}.csv", "the cells of an image")
        rows = read_numbers(path, ["CellID", "x1", "y1", "x2", "y2"]).to_numpy().tolist()
        found |= {f"{image}+{cell}": tuple(box) for cell, *box in rows}
    missing = [key for key in cells.keys if key not in found]
    if missing:
        raise UserError(f"--cache_dir {cache_dir} does not know the cell {missing[0]}; run segment.py again")
    cells.reader = NucleusReader(cells.reader.folders, folders, found, PROTEIN)
    return cells
