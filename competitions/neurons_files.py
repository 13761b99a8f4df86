"""The files of neurons: images, and the tables of their cells (see competitions/neurons.py for both forms)."""

from pathlib import Path

import numpy as np
import pandas as pd

from cells.images import SUFFIXES, read_rgb
from cells.table import read_header, read_table
from common.errors import UserError
from common.files import safe_name

MOST_PIXELS = 1 << 16  # a side of an image


def image_files(folder: str | Path, image_id: str) -> list[Path]:
    """The file of an image, whether it exists or not: the first of the known suffixes that does, else PNG."""
    suffixes = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))
    paths = [Path(folder) / f"{safe_name(image_id, 'id')}{suffix}" for suffix in suffixes]
    return [next((path for path in paths if path.exists()), paths[0])]


def read_image(folder: str | Path, image_id: str) -> np.ndarray:
    """An image (height, width, 3), RGB, uint8 or uint16 as the file is; grey ones have three equal channels."""
    return read_rgb(image_files(folder, image_id)[0])


def read_metadata(path: str | Path) -> pd.DataFrame:
    """The images of train.csv or sample_submission.csv, a row an image in the file's order.

    Columns: `ID`; where the file has them `ImageWidth`, `ImageHeight` and `cell_type`; and the column that says which
    form a submission is to have, `predicted` or `annotation`.
    """
    table = read_annotations(path)
    names = {"id": "ID", "width": "ImageWidth", "height": "ImageHeight"}
    form = "predicted" if "predicted" in table else "annotation"
    columns = [name for name in ("id", "width", "height", "cell_type", form) if name in table]
    images = table[columns].drop_duplicates("id", ignore_index=True)
    return images.rename(columns=names).assign(**{form: ""})


def read_annotations(path: str | Path) -> pd.DataFrame:
    """Either form of CSV as it is, with a column `runs`: the masks' run lengths, empty for an image without cells.

    UserError when an image that is said to have no cell has one, or has two sizes or types.
    """
    header = read_header(path, "table")
    mask = "predicted" if "predicted" in header else "annotation"
    known = {"id": str, mask: str, "width": int, "height": int, "cell_type": str}
    table = read_table(path, {name: kind for name, kind in known.items() if name in header or name in ("id", mask)})
    if table.empty:
        raise UserError(f"{path} has no image")
    _check_columns(path, table)
    table["runs"] = [text if text.strip() != "-1" else "" for text in table[mask].str.strip()]
    rows = table.groupby("id")["runs"].transform("size").to_numpy()
    wrong = np.flatnonzero((table["runs"] == "").to_numpy() & (rows > 1))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{path} row {row + 2}: the {mask} of {table['id'].iloc[row]} is empty, but the image has other rows; "
            "only an image without cells has an empty one, and then no other"
        )
    for name in ("width", "height", "cell_type"):
        if name in table and (table.groupby("id")[name].nunique() > 1).any():
            image_id = table.groupby("id")[name].nunique().idxmax()
            raise UserError(f"{path} gives the image {image_id} more than one {name}")
    return table


def _check_columns(path: str | Path, table: pd.DataFrame) -> None:
    """UserError for an image without a name, or sizes that are none."""
    if ("width" in table) != ("height" in table):
        raise UserError(f"{path} has one of the columns width and height; both or none are right")
    for name in ("id", "cell_type"):
        empty = np.flatnonzero(table[name] == "") if name in table else []
        if len(empty):
            raise UserError(f"{path} row {empty[0] + 2}: {name} is empty")
    for name in ("width", "height") if "width" in table else ():
        wrong = np.flatnonzero((table[name] < 1) | (table[name] > MOST_PIXELS))
        if len(wrong):
            row = int(wrong[0])
            value = table[name].iloc[row]
            raise UserError(f"{path} row {row + 2}: {name} {value} must be from 1 to {MOST_PIXELS} pixels")
