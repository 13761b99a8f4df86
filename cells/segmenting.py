"""One image's way through segment.py: read, find the cells, judge the border's, write everything that belongs to it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

import competitions
from cells.borders import measure_borders
from cells.crops import boxes, cut_cell, narrow, resize, to_uint8
from cells.masks import encode_label_image
from cells.store import write_rgby_png, write_shard
from common.errors import UserError, explain
from common.files import atomic

VERSION = 1  # of what is written; a higher one does all images again
COLUMNS = (
    "Image", "ImageID", "CellID", "ImageWidth", "ImageHeight", "PredictionString", "x1", "y1", "x2", "y2",
    "area", "nucleus_area", "touches_border", "border_pixels", "completeness", "keep",
)  # fmt: skip
Size = tuple[int, int] | None  # width and height as the metadata says, None where it does not


@dataclass(frozen=True)
class Job:
    """What is the same for all images of a run: the finder's `label`, the settings, the folders of this dataset."""

    label: Callable
    settings: dict  # what the results depend on, but for the images
    competition: str
    edge_rule: str
    img_size: int
    root: Path
    cache: Path
    crops: Path
    images: Path

    def outputs(self, image_id: str) -> dict[str, Path]:
        """The files of an image, by kind; `rows` is written last."""
        return {
            "crops": self.crops / f"{image_id}.zip",
            "image": self.images / f"{image_id}.png",
            "cells": self.cache / f"{image_id}.cells.png",
            "nuclei": self.cache / f"{image_id}.nuclei.png",
            "rows": self.cache / f"{image_id}.csv",
        }

    def fingerprint(self, image_id: str, size: Size) -> str:
        """A text that changes with whatever an image's results depend on."""
        files = []
        for path in competitions.get(self.competition).image_files(self.root, image_id):
            state = path.stat() if path.exists() else None
            files.append((path.name, state and (state.st_size, state.st_mtime_ns)))
        known = [VERSION, self.settings, size and [int(side) for side in size], files]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def is_done(self, image_id: str, mark: str) -> bool:
        """Whether all files of an image are there, made when its fingerprint was `mark`."""
        outputs = self.outputs(image_id)
        if not all(path.exists() for path in outputs.values()):
            return False
        with outputs["rows"].open() as rows:
            return rows.readline() == f"# {mark}\n"


def segment_image(job: Job, image_id: str, size: Size, mark: str, prediction: object) -> None:
    """Find the cells of one image and write its files. UserError when the image cannot be used."""
    cv2.setNumThreads(1)  # the images are what is done in parallel
    outputs = job.outputs(image_id)
    outputs["rows"].unlink(missing_ok=True)
    image = read_image(job, image_id)
    height, width = image.shape[:2]
    if size is not None and tuple(size) != (width, height):
        raise UserError(f"{image_id} is {width} x {height} pixels, the metadata says {size[0]} x {size[1]}")
    cells, nuclei = job.label(image, prediction)
    table = describe_cells(image_id, cells, nuclei, job.edge_rule)
    kept = table.loc[table["keep"] == 1, ["CellID", "x1", "y1", "x2", "y2"]].to_numpy().tolist()
    write_shard(outputs["crops"], {cell: cut_cell(image, cells, cell, box) for cell, *box in kept})
    write_rgby_png(outputs["image"], to_uint8(resize(image, job.img_size)))
    write_labels(outputs["cells"], cells)
    write_labels(outputs["nuclei"], nuclei)
    with atomic(outputs["rows"]) as temporary:
        temporary.write_text(f"# {mark}\n{table.to_csv(index=False, lineterminator=chr(10))}")


def read_image(job: Job, image_id: str) -> np.ndarray:
    """An image (height, width, 4), RGBY, 8 bits if it can be without loss, else 16."""
    competition = competitions.get(job.competition)
    try:
        return narrow(competition.read_image(job.root, image_id))
    except OSError as error:
        raise competition.ImageError(f"{image_id}: {explain(error)}") from None


def describe_cells(image_id: str, cells: np.ndarray, nuclei: np.ndarray, edge_rule: str) -> pd.DataFrame:
    """An image's rows of the cells table, by CellID, from its label images (height, width)."""
    borders = measure_borders(cells, nuclei, edge_rule)
    texts, frames = encode_label_image(cells), boxes(cells)
    x1, y1, x2, y2 = np.array([frames[cell] for cell in borders.index], np.int64).reshape(-1, 4).T
    height, width = cells.shape
    own = pd.DataFrame(
        {
            "Image": [f"{image_id}+{cell}" for cell in borders.index], "ImageID": image_id, "CellID": borders.index,
            "ImageWidth": width, "ImageHeight": height, "PredictionString": [texts[cell] for cell in borders.index],
            "x1": x1, "y1": y1, "x2": x2, "y2": y2,
        }
    )  # fmt: skip
    return pd.concat([own, borders.reset_index(drop=True)], axis=1)[list(COLUMNS)]


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label image (height, width) as a grey PNG of 16 bits."""
    if labels.max() > np.iinfo(np.uint16).max:
        raise UserError(f"{path.stem}: {labels.max()} cells are more than a label image of 16 bits can hold")
    data = cv2.imencode(".png", labels.astype(np.uint16))[1].tobytes()
    with atomic(path) as temporary:
        temporary.write_bytes(data)
