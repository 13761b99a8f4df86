"""One image's way through segment.py: read, find the cells, judge the border's, write everything that belongs to it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells.borders import measure_borders
from cells.crops import boxes, cut_box, cut_cell, narrow, resize, to_uint8
from cells.finders import Found
from cells.masks import encode_label_image
from cells.store import write_image_png, write_shard
from cells.table import BOX
from common.errors import UserError, explain
from common.files import atomic, text_digest
from competitions import Competition

VERSION = 5  # of what is written; a higher one does all images again
COLUMNS = (
    "Image", "ImageID", "CellID", "ImageWidth", "ImageHeight", "PredictionString", "x1", "y1", "x2", "y2",
    "area", "nucleus_area", "nucleus_box", "touches_border", "border_pixels", "completeness", "score", "keep",
)  # fmt: skip
CLASS_COLUMN = "Label"  # before the last column where single cells have classes: the truth's, or the finder's opinion
Size = tuple[int, int] | None  # width and height as the metadata says, None where it does not


@dataclass(frozen=True)
class Job:
    """What is the same for all images of a run: the finder's `label`, the settings, the folders of this dataset."""

    label: Callable
    settings: dict  # what the results depend on, but for the images
    competition: Competition
    edge_rule: str
    img_size: int
    root: Path
    cache: Path
    crops: Path
    images: Path

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the cells table."""
        return (*COLUMNS[:-1], CLASS_COLUMN, COLUMNS[-1]) if self.competition.CELL_LABELS else COLUMNS

    def outputs(self, image_id: str) -> dict[str, Path]:
        """The files of an image, by kind; `rows` is written last."""
        return {
            "crops": self.crops / f"{image_id}.zip",
            "image": self.images / f"{image_id}.png",
            "cells": self.cache / f"{image_id}.cells.png",
            "nuclei": self.cache / f"{image_id}.nuclei.png",
            "rows": self.cache / f"{image_id}.csv",
        }

    def fingerprint(self, image_id: str, size: Size, state: str | None = None) -> str:
        """A text that changes with whatever an image's results depend on; state: what the finder knows of it."""
        files = []
        for path in self.competition.image_files(self.root, image_id):
            file = path.stat() if path.exists() else None
            files.append((path.name, file and (file.st_size, file.st_mtime_ns)))
        known = [VERSION, self.settings, size and [int(side) for side in size], files, state]
        return text_digest(json.dumps(known, sort_keys=True))

    def is_done(self, image_id: str, mark: str) -> bool:
        """Whether all files of an image are there, made when its fingerprint was `mark`."""
        outputs = self.outputs(image_id)
        if not all(path.exists() for path in outputs.values()):
            return False
        with outputs["rows"].open("rb") as rows:
            return rows.readline() == f"# {mark}\n".encode()


def segment_image(job: Job, image_id: str, size: Size, mark: str, prediction: object) -> None:
    """Find the cells of one image and write its files. UserError when the image cannot be used."""
    cv2.setNumThreads(1)  # the images are what is done in parallel
    outputs = job.outputs(image_id)
    for path in reversed(outputs.values()):  # `rows` first; the others, too: whoever reads a folder takes what is there
        path.unlink(missing_ok=True)
    image = read_image(job, image_id)
    height, width = image.shape[:2]
    if size is not None and tuple(size) != (width, height):
        raise UserError(f"{image_id} is {width} x {height} pixels, the metadata says {size[0]} x {size[1]}")
    found = job.label(image, prediction)
    table = describe_cells(image_id, image.shape[:2], found, job)
    write_shard(outputs["crops"], cut_crops(image, found, table[table["keep"] == 1], job.competition))
    write_image_png(outputs["image"], to_uint8(resize(image, job.img_size)))
    nothing = np.zeros((1, 1), np.int32)
    write_labels(outputs["cells"], nothing if found.cells is None else found.cells)
    write_labels(outputs["nuclei"], nothing if found.nuclei is None else found.nuclei)
    with atomic(outputs["rows"]) as temporary:
        text = f"# {mark}\n{table.to_csv(index=False, lineterminator=chr(10))}"
        temporary.write_text(text, encoding="utf-8")


def read_image(job: Job, image_id: str) -> np.ndarray:
    """An image (height, width, 4), RGBY, 8 bits if it can be without loss, else 16."""
    try:
        return narrow(job.competition.read_image(job.root, image_id))
    except OSError as error:
        raise UserError(f"{image_id}: {explain(error)}") from None


def describe_cells(image_id: str, shape: tuple[int, int], found: Found, job: Job) -> pd.DataFrame:
    """An image's rows of the cells table, by CellID."""
    own = describe_boxes(found, shape) if found.cells is None else describe_masks(found, job.edge_rule)
    ids = own.index.to_numpy()
    own = own.assign(
        Image=[f"{image_id}+{cell}" for cell in ids], ImageID=image_id, CellID=ids,
        ImageWidth=shape[1], ImageHeight=shape[0],
        score=1.0 if found.scores is None else np.round(found.scores[ids - 1], 6),
        Label="" if found.labels is None else found.labels[ids - 1],
    )  # fmt: skip
    return own[list(job.columns)]


def describe_masks(found: Found, edge_rule: str) -> pd.DataFrame:
    """Masks, boxes and what the border does to cells that are label images; the index is the CellID."""
    borders = measure_borders(found.cells, found.nuclei, edge_rule)
    texts, frames = encode_label_image(found.cells), boxes(found.cells)
    own = np.array([frames[cell] for cell in borders.index], np.int64).reshape(-1, 4)
    masks = pd.Series([texts[cell] for cell in borders.index], index=borders.index, dtype=object)
    return borders.assign(**dict(zip(BOX, own.T, strict=True)), PredictionString=masks)


def describe_boxes(found: Found, shape: tuple[int, int]) -> pd.DataFrame:
    """The same of cells that are boxes: no mask, no border rule; `area` is the box's inside the image."""
    height, width = shape
    own = np.round(found.boxes, 2)
    seen = own.clip(0, [width, height, width, height])
    area, whole = ((part[:, 2:] - part[:, :2]).prod(1) for part in (seen, own))
    touches = ((own <= 0) | (own >= [width, height, width, height])).any(1)
    return pd.DataFrame(
        {
            "PredictionString": "", **dict(zip(BOX, own.T, strict=True)),
            "area": area.round().astype(np.int64), "nucleus_area": 0, "nucleus_box": 0,
            "touches_border": touches.astype(np.int64), "border_pixels": 0,
            "completeness": (area / np.maximum(whole, 1e-9)).round(4), "keep": 1,
        },
        index=pd.RangeIndex(1, len(own) + 1),
    )  # fmt: skip


def cut_crops(image: np.ndarray, found: Found, table: pd.DataFrame, competition: Competition) -> dict[int, np.ndarray]:
    """The crop of each cell of the table: alone where it has a mask and the competition says so, else its square."""
    rows = table[["CellID", *BOX]].itertuples(index=False, name=None)
    if found.cells is None or not competition.MASKED_CROPS:
        return {cell: cut_box(image, box, competition.CROP_MARGIN) for cell, *box in rows}
    return {cell: cut_cell(image, found.cells, cell, tuple(map(int, box))) for cell, *box in rows}


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label image (height, width) as a grey PNG of 16 bits."""
    if labels.max() > np.iinfo(np.uint16).max:
        raise UserError(f"{path.stem}: {labels.max()} cells are more than a label image of 16 bits can hold")
    data = cv2.imencode(".png", labels.astype(np.uint16))[1].tobytes()
    with atomic(path) as temporary:
        temporary.write_bytes(data)
