"""Human Protein Atlas, single-cell classification (Kaggle 2021): classes, files, published defaults.

An image is four grey PNGs of one size, `<ID>_{red,green,blue,yellow}.png`: microtubules, the protein of interest,
nuclei and endoplasmic reticulum. Arrays hold the channels in that order, (height, width, 4): RGBY.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cells.box_table import multi_hot as hot_labels
from cells.images import ImageError as ImageError
from cells.images import decode
from cells.table import KEY, MASK_COLUMNS, match_rows, read_header, read_table
from cells.table import read_cells as read_cells_table
from cells.triples import format_triples, parse_triples, read_rows, write_rows
from common.errors import UserError, some
from common.files import safe_name
from metrics.classification import average_precision
from metrics.mask_map import MaskMAP, score_table

CLASSES = (
    "0:Nucleoplasm", "1:Nuclear membrane", "2:Nucleoli", "3:Nucleoli fibrillar center", "4:Nuclear speckles",
    "5:Nuclear bodies", "6:Endoplasmic reticulum", "7:Golgi apparatus", "8:Intermediate filaments",
    "9:Actin filaments", "10:Microtubules", "11:Mitotic spindle", "12:Centrosome", "13:Plasma membrane",
    "14:Mitochondria", "15:Aggresome", "16:Cytosol", "17:Vesicles and punctate cytosolic patterns", "18:Negative",
)  # fmt: skip
SHORT_NAMES = (  # for pictures
    "Nucleoplasm", "Nuc. membrane", "Nucleoli", "Fibrillar center", "Speckles", "Nuc. bodies", "ER", "Golgi",
    "Interm. filaments", "Actin", "Microtubules", "Mitotic spindle", "Centrosome", "Plasma membrane", "Mitochondria",
    "Aggresome", "Cytosol", "Vesicles", "Negative",
)  # fmt: skip
NEGATIVE = 18  # excludes the other classes

CHANNELS = ("red", "green", "blue", "yellow")
CHANNEL_NAMES = ("microtubules", "protein", "nuclei", "ER")
MEAN = (0.074598, 0.050630, 0.050891, 0.076287)  # of pixels in 0..1, RGBY
STD = (0.122813, 0.085745, 0.129882, 0.119411)

# How much a class counts in --loss WeightedFocal: the published weights (12th place), larger for the rarer ones.
CLASS_WEIGHTS = (1, 16, 5, 13, 9, 9, 13, 5, 30, 18, 19, 100, 10, 3, 4, 50, 1, 3, 6)
EXCLUSIVE = False  # a cell may have several classes
DEFAULT_FINDER = "watershed"  # of segment.py, without weights
EDGE_RULE = "published"  # the same for cells at the border
ENSEMBLE_DEFAULTS = {"average": "probs", "combine": "product", "cell_weight": 0.7}

# The classes of the 2018 competition (28) that make each class but Negative; the others of the 28 have no successor.
OLD_CLASSES = (
    (0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,), (11,), (12, 13), (14,), (17,), (19,), (21, 22), (23,), (24,), (25,),
    (8, 9, 10, 20, 26),
)  # fmt: skip

# The published settings (12th place); a flag that is not given takes these.
TRAIN_DEFAULTS = {
    "classify": {
        "arch": "class_densenet121_dropout", "loss": "BCE", "scheduler": "AdamAndrew35", "epochs": 35,
        "img_size": 768, "crop_size": 512, "batch_size": 17, "effective_batch": 34, "clipnorm": 1.0,
        "split_name": "random_folds10", "in_channels": 4, "augment": "dihedral_crop",
    },
}  # fmt: skip
CELL_LABELS = False  # the labels are the images'; no cell has its own
ID_COLUMN = "ID"  # which image a row of the tables is of
SAMPLE = "sample_submission.csv", "PredictionString"  # what a submission is made from, and the column that tells it
BOX_SIZE = None  # boxes are as large as their cells
MASKED_CROPS, CROP_MARGIN = True, 0  # a crop shows its cell alone
MAX_DETECTIONS = 300  # an image

IOU_THRESHOLD = 0.6  # a detection must overlap a true cell so far
SCORE = f"mAP at mask IoU {IOU_THRESHOLD}"


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
    """Label texts such as `0|5|16` as a float32 array, N x 19, of zeros and ones; an empty text is all zeros."""
    return hot_labels(labels, len(CLASSES))


def nucleus_hot(labels: pd.Series) -> np.ndarray:
    """The same for NUCLEI's classes, N x 7: the first six, and that it is none of them."""
    inside = multi_hot(labels)[:, :6]
    return np.hstack([inside, 1 - inside.max(axis=1, keepdims=True)])


# What is different for networks that see nuclei alone (the published "single-channel 224 nucleus classifier").
NUCLEI = {
    "CLASSES": (*CLASSES[:6], "none of these"),
    "SHORT_NAMES": (*SHORT_NAMES[:6], "none"),
    "NEGATIVE": 6,
    "CHANNELS": CHANNELS[1:2],
    "MEAN": MEAN[1:2],
    "STD": STD[1:2],
    "CLASS_WEIGHTS": (*CLASS_WEIGHTS[:6], 1),
    "TRAIN_DEFAULTS": {
        "classify": {**TRAIN_DEFAULTS["classify"], "img_size": 224, "crop_size": 224, "in_channels": 1}
    },
    "multi_hot": nucleus_hot,
}


def image_files(folder: str | Path, image_id: str) -> list[Path]:
    """The files of an image, whether they exist or not."""
    return [Path(folder) / f"{safe_name(image_id, 'ImageID')}_{name}.png" for name in CHANNELS]


def read_image(folder: str | Path, image_id: str) -> np.ndarray:
    """The four channels of an image, (height, width, 4) in RGBY order, uint8 or uint16 as the files are."""
    channels = [_read_channel(path) for path in image_files(folder, image_id)]
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
    return decode_channel(path.read_bytes(), str(path))


def decode_channel(data: bytes, path: str) -> np.ndarray:
    """The bytes of one channel's file (PNG, TIFF, ...) as (height, width), uint8 or uint16; ImageError names `path`."""
    channel = decode(data)
    if channel is None:
        raise ImageError(f"{path} is not a readable image")
    if channel.ndim == 3:  # some external images carry a grey value in three equal or one used plane
        channel = channel[..., :3].max(axis=2)
    if channel.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path} has depth {channel.dtype}; 8 or 16 bits are right")
    return channel


def read_metadata(path: str | Path) -> pd.DataFrame:
    """train.csv or sample_submission.csv as a table with a column `ID`; extra columns are kept."""
    header = read_header(path, "--metadata")
    if "Label" in header:
        return read_labels(path)
    if "PredictionString" in header:
        columns = {"ID": str, "ImageWidth": int, "ImageHeight": int, "PredictionString": str}
        return read_table(path, columns, key=["ID"])
    raise UserError(
        f"{path} has columns {some(header)}: train.csv's ID,Label or sample_submission.csv's "
        "ID,ImageWidth,ImageHeight,PredictionString are right"
    )


def read_cells(path: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """The cells of a cells table with masks, for networks that learn to find cells: a made-up truth, or what segment.py
    wrote with another finder. They have no classes of their own: `Label` is 0.
    """
    cells = read_cells_table(path)
    return cells[cells["PredictionString"] != ""].assign(Label=0)


def write_submission(path: str | Path, sample: pd.DataFrame, cells: pd.DataFrame, probs: np.ndarray) -> None:
    """Write the submission: every row of sample_submission.csv in its order, every class of every cell as a triple.

    `probs` (len(cells), 19) belongs to the rows of the cells table. An image without cells keeps the sample's own
    placeholder. UserError when a cell's image is not in the sample, or is of another size there.
    """
    sizes = ["ImageWidth", "ImageHeight"]
    rows = match_rows(cells.rename(columns={"ImageID": "ID"}), sample, ["ID"], "sample_submission.csv", exact=False)
    differs = (sample[sizes].to_numpy()[rows] != cells[sizes].to_numpy()).any(axis=1)
    if differs.any():
        raise UserError(f"the image {cells['ImageID'][differs].iloc[0]} has another size in sample_submission.csv")
    own = cells.groupby("ImageID", sort=False).indices
    masks = cells["PredictionString"].to_numpy()

    def text(image_id: str, placeholder: str) -> str:
        rows = own.get(image_id, [])
        return format_triples(masks[rows], probs[rows]) if len(rows) else placeholder

    fields = sample[["ID", *sizes, "PredictionString"]].itertuples(index=False, name=None)
    write_rows(path, ((image_id, *size, text(image_id, placeholder)) for image_id, *size, placeholder in fields))


def score(submission: str | Path, truth: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """The competition's mAP of a submission file against a truth table: `Class,AP,Truths,Detections,Hits`, and a mean.

    Both must name the same images. Every triple is a detection, a placeholder too. Of equal confidences, the one that
    comes first in the file counts as the higher.
    """
    tally = _tally(truth)
    for row in read_rows(submission):
        classes, scores, masks = parse_triples(row.text, len(CLASSES), row.where)
        distinct = {text: index for index, text in enumerate(dict.fromkeys(masks))}
        which = np.array([distinct[text] for text in masks], np.int64)
        tally.add(row.id, (row.height, row.width), row.where, list(distinct), which, classes, scores)
    return tally.table(CLASSES, str(submission))


def score_cells(cells: pd.DataFrame, probs: np.ndarray, images: Sequence[str], truth: str | Path) -> pd.DataFrame:
    """The same score of probabilities (len(cells), 19) of a cells table, over `images` alone.

    `truth` may also be train.csv (`ID,Label`): then an image has the highest probability of its cells, and the scores
    are the average precision over images (`Class,AP,Truths`, last row mean).
    """
    if "PredictionString" not in read_header(truth, "--truth"):
        return _score_images(cells, probs, images, truth)
    tally = _tally(truth, images)
    own = cells.groupby("ImageID", sort=False).indices
    masks, sizes = cells["PredictionString"].to_numpy(), cells[["ImageHeight", "ImageWidth"]].to_numpy()
    for image_id in tally.images:
        rows = own.get(image_id, np.zeros(0, np.int64))
        size = tuple(sizes[rows[0]].tolist()) if len(rows) else tally.size(image_id)
        which, classes = np.indices((len(rows), len(CLASSES))).reshape(2, -1)
        tally.add(image_id, size, "the cells table", masks[rows], which, classes, probs[rows].ravel())
    return tally.table(CLASSES, "the cells table")


def read_truth(path: str | Path) -> tuple[pd.DataFrame, np.ndarray]:
    """A truth table (a cells table with a column Label), and the classes of its cells, (rows, 19) bool."""
    truth = read_table(path, {**MASK_COLUMNS, "Label": str}, key=KEY)
    labels = np.zeros((len(truth), len(CLASSES)), bool)
    for row, text in enumerate(truth["Label"]):
        if text:
            labels[row, [int(part) for part in _clean_label(text, path, row + 2).split("|")]] = True
    return truth, labels


def _tally(path: str | Path, images: Sequence[str] | None = None) -> MaskMAP:
    """A truth table, of some images or all, ready to be scored against."""
    truth, labels = read_truth(path)
    if images is not None:
        known = truth[["ImageID"]].drop_duplicates()
        match_rows(pd.DataFrame({"ImageID": images}), known, ["ImageID"], str(path), exact=False)
        chosen = truth["ImageID"].isin(images).to_numpy()
        truth, labels = truth[chosen], labels[chosen]
    return MaskMAP(truth, labels, IOU_THRESHOLD, str(path))


def _score_images(cells: pd.DataFrame, probs: np.ndarray, images: Sequence[str], truth: str | Path) -> pd.DataFrame:
    labels = read_labels(truth)
    keys = pd.DataFrame({"ID": list(images)})
    hot = multi_hot(labels["Label"].iloc[match_rows(keys, labels, ["ID"], str(truth), exact=False)])
    highest = pd.DataFrame(probs).groupby(cells["ImageID"].to_numpy()).max()
    values = highest.reindex(keys["ID"], fill_value=0.0).to_numpy()
    return score_table(CLASSES, average_precision(values, hot), str(truth), Truths=hot.sum(axis=0).astype(int))
