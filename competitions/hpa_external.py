"""The public Human Protein Atlas images beside the competition's: the table that names them and its labels.

The table, kaggle_2021.tsv, is comma-separated in spite of its name: `Image,Label,Cellline,in_trainset,Label_idx`, a row
an image: where it is (`https://<host>/<antibody>/<plate>_<well>_<view>`, to which `_<channel>.tif.gz` is added), the
names of its labels joined by commas, the cell line, whether the competition's train.csv has it, and the classes of
its labels joined by `|`, empty when the competition has none of them.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd

from cells.table import read_table
from common.errors import UserError, some
from competitions.hpa import CLASSES, NEGATIVE

# Names of the atlas that the competition counts to one of its classes, beside the classes' own names.
MERGED = {
    "Focal adhesion sites": 9, "Centriolar satellite": 12, "Cell Junctions": 13, "Vesicles": 17, "Peroxisomes": 17,
    "Endosomes": 17, "Lysosomes": 17, "Lipid droplets": 17, "Cytoplasmic bodies": 17, "No staining": 18,
}  # fmt: skip
NAMES = {name.split(":", 1)[1].lower(): index for index, name in enumerate(CLASSES)}
NAMES |= {name.lower(): index for name, index in MERGED.items()}


def read_external(path: str | Path) -> pd.DataFrame:
    """The images to be had beside the training set: ID, Label (class indices joined by `|`) and Image (the address).

    ID is `<antibody>_<plate>_<well>_<view>`. Left out: images of the training set, and rows without a class. A row's
    classes are those of Label_idx and of the names in Label; rows of one image are merged; Negative, which excludes the
    other classes, goes when there is one. UserError names the row of an address, a class or a truth value gone wrong.
    """
    columns = dict.fromkeys(("Image", "Label", "in_trainset", "Label_idx"), str)
    table = read_table(path, columns)
    inside = _truths(table["in_trainset"], path)
    table = table[~table["Image"].isin(table["Image"][inside]) & _known(table["Label_idx"])]
    rows = [
        (_image_id(address, path, row), address.strip(), _classes(names, indices, path, row))
        for row, address, names, indices in zip(
            table.index + 2, table["Image"], table["Label"], table["Label_idx"], strict=True
        )
    ]
    merged: dict[str, tuple[str, set[int]]] = {}
    for image, address, classes in rows:
        first, known = merged.setdefault(image, (address, set()))
        if first != address:
            raise UserError(f"{path}: {first} and {address} would both be the image {image}; remove one of them")
        known |= classes
    return pd.DataFrame(
        [(image, _label(classes), address) for image, (address, classes) in merged.items()],
        columns=["ID", "Label", "Image"],
    )


def _known(indices: pd.Series) -> pd.Series:
    return ~indices.str.strip().str.lower().isin(["", "nan", "none"])


def _truths(values: pd.Series, path: str | Path) -> pd.Series:
    texts = values.str.strip().str.lower()
    bad = ~texts.isin(["true", "false", "1", "0"])
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise UserError(f"{path} row {row + 2}: in_trainset is {values.iloc[row]!r}; True or False are right")
    return texts.isin(["true", "1"])


def _image_id(address: str, path: str | Path, row: int) -> str:
    """The last two parts of the address as one name that is safe for a file."""
    try:
        parts = urlsplit(address.strip()).path.strip("/").split("/")[-2:]
    except ValueError:  # such as a bracket that is not closed
        parts = []
    name = "_".join(parts)
    if ".." in parts or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name, re.ASCII):
        raise UserError(
            f"{path} row {row}: Image {address!r} is not an address like https://<host>/<antibody>/<plate>_<well>_<view>"
        )
    return name


def _classes(names: str, indices: str, path: str | Path, row: int) -> set[int]:
    parts = [part.strip() for part in indices.split("|")]
    bad = [part for part in parts if not part.isdecimal() or int(part) >= len(CLASSES)]
    if bad:
        right = f"class indices 0 to {len(CLASSES) - 1} joined by |"
        raise UserError(f"{path} row {row}: Label_idx {some(bad)} must be {right}")
    named = (NAMES.get(name.strip().lower()) for name in names.split(","))
    return {int(part) for part in parts} | {index for index in named if index is not None}


def _label(classes: set[int]) -> str:
    return "|".join(map(str, sorted(classes - {NEGATIVE} or classes)))
