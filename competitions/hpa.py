"""Human Protein Atlas, single-cell classification (Kaggle 2021): classes, files, published defaults.

An image is four grey PNGs of one size, `<ID>_{red,green,blue,yellow}.png`: microtubules, the protein of interest,
nuclei and endoplasmic reticulum. Arrays hold the channels in that order, (height, width, 4): RGBY.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells.table import read_table
from common.errors import UserError, some
from common.files import existing, safe_name

CLASSES = (
    "0:Nucleoplasm", "1:Nuclear membrane", "2:Nucleoli", "3:Nucleoli fibrillar center", "4:Nuclear speckles",
    "5:Nuclear bodies", "6:Endoplasmic reticulum", "7:Golgi apparatus", "8:Intermediate filaments",
    "9:Actin filaments", "10:Microtubules", "11:Mitotic spindle", "12:Centrosome", "13:Plasma membrane",
    "14:Mitochondria", "15:Aggresome", "16:Cytosol", "17:Vesicles and punctate cytosolic patterns", "18:Negative",
)  # fmt: skip
NEGATIVE = 18  # excludes the other classes

CHANNELS = ("red", "green", "blue", "yellow")
MEAN = (0.074598, 0.050630, 0.050891, 0.076287)  # of pixels in 0..1, RGBY
STD = (0.122813, 0.085745, 0.129882, 0.119411)

# The published settings (12th place); a flag that is not given takes these.
TRAIN_DEFAULTS = {
    "arch": "class_densenet121_dropout", "loss": "BCE", "scheduler": "AdamAndrew35", "epochs": 35,
    "img_size": 768, "crop_size": 512, "batch_size": 17, "effective_batch": 34, "clipnorm": 1.0,
    "split_name": "random_folds10", "in_channels": 4, "augment": "dihedral_crop",
}  # fmt: skip


class ImageError(UserError):
    """An image that cannot be used: a channel is missing, unreadable, or unlike the others. Names the file."""


def read_labels(path: str | Path) -> pd.DataFrame:
    """train.csv as columns `ID` (text) and `Label` (class indices joined by `|`, sorted, each once).

    146 rows of the competition's file repeat a label; a label repeated within its row counts once.
    """
    table = read_table(path, {"ID": str, "Label": str}, key=["ID"])
    table["Label"] = [_clean_label(text, path, row) for row, text in enumerate(table["Label"], start=2)]
    return table


def _clean_label(text: str, path: str | Path, row: int) -> str:
    parts = text.split("|")
    if not all(part.isdecimal() and int(part) < len(CLASSES) for part in parts):
        raise UserError(f"{path} row {row}: Label {text!r} must be class indices 0 to {len(CLASSES) - 1} joined by |")
    return "|".join(str(index) for index in sorted({int(part) for part in parts}))


def multi_hot(labels: pd.Series) -> np.ndarray:
    """Label texts such as `0|5|16` as a float32 array, N x 19, of zeros and ones."""
    hot = np.zeros((len(labels), len(CLASSES)), np.float32)
    for row, text in enumerate(labels):
        hot[row, [int(part) for part in text.split("|")]] = 1
    return hot


def read_image(folder: str | Path, image_id: str) -> np.ndarray:
    """The four channels of an image, (height, width, 4) in RGBY order, uint8 or uint16 as the files are."""
    channels = [_read_channel(Path(folder) / f"{safe_name(image_id, 'ImageID')}_{name}.png") for name in CHANNELS]
    for name, channel in zip(CHANNELS, channels, strict=True):
        for what, own, first in (
            ("size", channel.shape[::-1], channels[0].shape[::-1]),
            ("depth", channel.dtype, channels[0].dtype),
        ):
            if own != first:
                raise ImageError(f"{image_id}: the {name} channel's {what} {own} differs from the red one's {first}")
    return np.dstack(channels)


def _read_channel(path: Path) -> np.ndarray:
    if not path.exists():
        raise ImageError(f"{path} is missing")
    channel = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if channel is None:
        raise ImageError(f"{path} is not a readable image")
    if channel.ndim == 3:  # some external images carry a grey value in three equal or one used plane
        channel = channel[..., :3].max(axis=2)
    if channel.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path} has depth {channel.dtype}; 8 or 16 bits are right")
    return channel


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An 8- or 16-bit array as 8 bits (test images are 16-bit, training images 8-bit: value = 257 x value)."""
    return image if image.dtype == np.uint8 else np.round(image / np.float32(257)).astype(np.uint8)


def read_metadata(path: str | Path) -> pd.DataFrame:
    """train.csv or sample_submission.csv as a table with a column `ID`; extra columns are kept."""
    header = pd.read_csv(existing(path, "--metadata"), nrows=0).columns
    if "Label" in header:
        return read_labels(path)
    if "PredictionString" in header:
        columns = {"ID": str, "ImageWidth": int, "ImageHeight": int, "PredictionString": str}
        return read_table(path, columns, key=["ID"])
    raise UserError(
        f"{path} has columns {some(header)}: train.csv's ID,Label or sample_submission.csv's "
        "ID,ImageWidth,ImageHeight,PredictionString are right"
    )
