"""The submission of a single-cell competition: one row an image, `class confidence mask` triples joined by spaces.

A submission of 559 images has 400 MB, one of a whole training set tens of GB: it is written and read a row at a time.
"""

import csv
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError, some
from common.files import atomic, existing

COLUMNS = ["ID", "ImageWidth", "ImageHeight", "PredictionString"]


class Row(NamedTuple):
    """One image of a submission; `where` names file and row for error messages."""

    id: str
    width: int
    height: int
    text: str
    where: str


def write_rows(path: str | Path, rows: Iterable[tuple[str, int, int, str]]) -> None:
    """Write a submission, (ID, width, height, text) a row, atomically and without holding it in memory."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write((",".join(COLUMNS) + "\n").encode())
        for image_id, width, height, text in rows:
            file.write(f"{_quoted(image_id)},{width},{height},{_quoted(text)}\n".encode())


def _quoted(text: str) -> str:
    """A CSV field; the csv module would look at each of the text's characters, which takes longer than all the rest."""
    return '"' + text.replace('"', '""') + '"' if any(char in text for char in '",\r\n') else text


def read_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a submission, in the file's order. UserError names a row that is not of the right form."""
    path = existing(path, "submission")
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise UserError(f"{path} lacks the column {some(missing)}; it has {some(header, 8) or 'none'}")
            columns = [header.index(name) for name in COLUMNS]
            for number, fields in enumerate(reader, start=2):
                if fields:
                    yield _row(fields, columns, len(header), f"{path} row {number}")
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a submission: {error}") from error


def _row(fields: list[str], columns: list[int], width: int, where: str) -> Row:
    if len(fields) != width:
        raise UserError(f"{where} has {len(fields)} fields where the header has {width}")
    image_id, image_width, image_height, text = (fields[column] for column in columns)
    if not (image_width.isdecimal() and image_height.isdecimal()):
        raise UserError(f"{where}: ImageWidth {image_width!r} and ImageHeight {image_height!r} must be whole numbers")
    return Row(image_id, int(image_width), int(image_height), text, where)


def format_triples(masks: Sequence[str], probs: np.ndarray) -> str:
    """The triples of one image: N mask texts and their probabilities (N, C), every class of every cell."""
    classes = probs.shape[1]
    heads = [f"{index} {_number(prob)} " for row in probs.tolist() for index, prob in enumerate(row)]
    tails = [f"{mask} " for mask in masks for _ in range(classes)]
    return "".join(itertools.chain.from_iterable(zip(heads, tails, strict=True))).rstrip()


def _number(prob: float) -> str:
    """Six significant digits, or ten decimals where those would need an exponent, which not every reader knows."""
    return f"{prob:.6g}" if prob >= 1e-4 else f"{prob:.10f}"


def parse_triples(text: str, classes: int, where: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Class indices (N,), confidences (N,) and mask texts of one image's triples; no triples is no detection.

    UserError, beginning with `where`, when a triple is not a class below `classes`, a finite number and a mask text.
    """
    parts = text.split()
    if len(parts) % 3:
        raise UserError(f"{where}: PredictionString has {len(parts)} parts, not triples of class, confidence and mask")
    try:
        indices = np.array([int(part) for part in parts[0::3]], np.int64)
        scores = np.array([float(part) for part in parts[1::3]], float)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: a triple must be a class, a confidence and a mask text, but {error}") from None
    bad = ~np.isfinite(scores) | (indices < 0) | (indices >= classes)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise UserError(
            f"{where}: triple {first + 1} begins with {' '.join(parts[3 * first : 3 * first + 2])!r}; a class 0 to "
            f"{classes - 1} and a finite confidence are right"
        )
    return indices, scores, parts[2::3]
