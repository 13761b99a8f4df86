"""PanNuke: nuclei of five types in stained tissue of 19 organs, in three folds (competitions/pannuke_files.py)."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells.box_table import multi_hot as hot_labels
from cells.crops import boxes
from cells.images import ImageError as ImageError
from cells.instances import class_map, merge_channels
from cells.masks import decode_mask, encode_label_image
from cells.overlaps import cut_mask, remove_overlaps
from cells.table import CELL_COLUMNS, KEY, match_rows, read_table, write_table
from common.errors import UserError
from competitions import pannuke_files
from competitions.pannuke_files import MOST_IDS, read_metadata
from competitions.pannuke_files import digest as digest_labels  # noqa: F401
from competitions.pannuke_files import image_files as image_files
from competitions.pannuke_files import image_sizes as image_sizes
from competitions.pannuke_files import read_image as read_image
from metrics.dice import class_pixels, frequency_weights, weighted_dice
from metrics.panoptic import image_quality, tissue_table

CLASSES = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
SHORT_NAMES = CLASSES
NEGATIVE = None
CLASS_WEIGHTS = None  # measured from the training fold
EXCLUSIVE = True
ENSEMBLE_DEFAULTS = {"average": "probs", "combine": "weighted", "cell_weight": 0.7}
CELL_LABELS = True  # every nucleus has its own label
ID_COLUMN = "ID"  # which image a row of the tables is of
SAMPLE = "the folder of the images", "ID"  # what a submission is made from, and the column that tells it
BOX_SIZE = None  # boxes are as large as their nuclei
MAX_DETECTIONS = 1000  # an image
MASKED_CROPS, CROP_MARGIN = False, 16  # a crop is the square about the nucleus with so many more pixels on each side
IMAGE_SIZE = 256

TISSUES = (
    "Adrenal_gland", "Bile-duct", "Bladder", "Breast", "Cervix", "Colon", "Esophagus", "HeadNeck", "Kidney", "Liver",
    "Lung", "Ovarian", "Pancreatic", "Prostate", "Skin", "Stomach", "Testis", "Thyroid", "Uterus",
)  # fmt: skip

CHANNELS = ("red", "green", "blue")
CHANNEL_NAMES = CHANNELS
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

SCORE = "mPQ"

# The published settings (X-SIGHT), and its plain variant; a flag that is not given takes the first ones.
TRAIN_DEFAULTS = {
    "segment": {
        "arch": "unet_resnet34", "loss": "DiceFocalBoundary", "optimizer": "AdamW", "scheduler": "onecycle",
        "lr": 3e-4, "weight_decay": 1e-4, "epochs": 60, "batch_size": 16, "effective_batch": 16, "clipnorm": 1.0,
        "img_size": 256, "in_channels": 3, "augment": "pannuke", "progressive": 128, "ema": 0.9999,
        "swa_start": 30, "mixup": 0.4, "mix_share": 0.3, "patience": 15, "skip_nonfinite": 100,
    },
}  # fmt: skip


def read_masks(folder: str | Path, image_id: str, classes: Sequence[str] = CLASSES) -> np.ndarray:
    """The instance ids of an image's nuclei by type, (height, width, classes) int32, without the background."""
    return pannuke_files.read_masks(folder, image_id, classes)


def read_labels(path: str | Path, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """The images of a folder as `read_metadata` gives them, with `Label`: the indices of their nuclei's types joined by
    `|`, empty for an image without nuclei. A table must have the column itself.
    """
    table = read_metadata(path)
    if Path(path).is_file():
        return read_table(path, {"ID": str, "Label": str}, key=["ID"])
    present = [read_masks(path, image_id, classes).any(axis=(0, 1)) for image_id in table["ID"]]
    return table.assign(Label=["|".join(map(str, np.flatnonzero(own))) for own in present])


def multi_hot(labels: pd.Series, classes: Sequence[str] = CLASSES) -> np.ndarray:
    """Label texts such as `0|4` as a float32 array (N, classes) of zeros and ones; an empty text is zeros."""
    return hot_labels(labels, len(classes))


def equalize(image: np.ndarray) -> np.ndarray:
    """CLAHE on the lightness of LAB (clip limit 2, 8 x 8 tiles): RGB uint8 (height, width, 3) -> the same."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def standardize(image: np.ndarray) -> np.ndarray:
    """Each channel of an image less its mean, over its standard deviation, clipped to +-10: float32 (H, W, C)."""
    pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
    mean, deviation = pixels.mean(axis=0), pixels.std(axis=0)
    return np.clip((image - mean) / np.maximum(deviation, 1e-6), -10, 10).astype(np.float32)


def prepare_image(image: np.ndarray) -> np.ndarray:
    """What a network gets to see of an image, the same in training and inference: RGB uint8 -> float32 (H, W, 3).

    The numbers are such that the networks' own normalising, by MEAN and STD, makes of them the standardised image.
    """
    return ((standardize(equalize(image)) * STD + MEAN) * 255).astype(np.float32)


def read_cells(path: str | Path, root: str | Path | None = None, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """The labelled nuclei of the images that `path` names (see `read_metadata`) as a cells table with `Label`.

    `root` is the folder of the arrays where `path` is a table. Where types overlap the last one keeps the pixel.
    Images without nuclei have no row.
    """
    folder = _mask_folder(path, root)
    parts = [_image_cells(image_id, read_masks(folder, image_id, classes)) for image_id in read_metadata(path)["ID"]]
    return pd.concat(parts, ignore_index=True)


def _image_cells(image_id: str, masks: np.ndarray) -> pd.DataFrame:
    labels = merge_channels(masks)
    height, width = labels.shape
    texts, frames = encode_label_image(labels), boxes(labels)
    names = np.zeros(labels.max() + 1, np.int64)
    names[labels] = class_map(masks)
    cells = np.array(list(texts), np.int64)
    x1, y1, x2, y2 = np.array([frames[cell] for cell in cells], np.int64).reshape(-1, 4).T
    return pd.DataFrame(
        {
            "Image": [f"{image_id}+{cell}" for cell in cells], "ImageID": image_id, "CellID": cells,
            "ImageWidth": width, "ImageHeight": height, "PredictionString": list(texts.values()),
            "x1": x1, "y1": y1, "x2": x2, "y2": y2, "score": 1.0,
            "Label": [str(names[cell]) for cell in cells],
        }
    )  # fmt: skip


def instance_arrays(cells: pd.DataFrame, types: np.ndarray, channels: int) -> np.ndarray:
    """One image's cells of `types` (rows,) as PanNuke keeps them, (height, width, channels + 1) int32: the instance ids
    of each type and the background. A pixel of several masks is the one's of the highest `score`.
    """
    height, width = cells[["ImageHeight", "ImageWidth"]].iloc[0].tolist()
    cuts = [cut_mask(decode_mask(text, height, width)) for text in cells["PredictionString"]]
    labels = remove_overlaps(cuts, cells.get("score", pd.Series(1.0, cells.index)).to_numpy(float), (height, width))
    owner = np.append(channels, types)[labels]
    arrays = np.where(owner[..., None] == np.arange(channels + 1), labels[..., None], 0)
    arrays[..., channels] = labels == 0
    return arrays.astype(np.int32)


def write_submission(
    path: str | Path, sample: pd.DataFrame, cells: pd.DataFrame, probs: np.ndarray, classes: Sequence[str] = CLASSES
) -> None:
    """Write the cells table with `Label`, the index of each cell's likeliest type, and beside it, where all images are
    of one size, `<name>_masks.npy`: the arrays (N, H, W, classes + 1) uint16 that the official score reads, in the
    order of `sample`. An image without cells has one row with CellID 0 and no mask text.
    """
    match_rows(cells.rename(columns={"ImageID": "ID"}), sample, ["ID"], "the metadata", exact=False)
    table = cells.assign(Label=probs.argmax(axis=1).astype(str))
    empty = sample["ID"][~sample["ID"].isin(cells["ImageID"])].tolist()
    blank = {name: 0 if kind is int else "" for name, kind in CELL_COLUMNS.items()}
    rows = pd.DataFrame({**blank, "Image": [f"{name}+0" for name in empty], "ImageID": empty, "Label": ""})
    table = pd.concat([table, rows[[name for name in rows if name in table]]], ignore_index=True) if empty else table
    order = pd.Series(np.arange(len(sample)), sample["ID"]).loc[table["ImageID"]].to_numpy()
    arrays = Path(path).with_name(f"{Path(path).stem}_masks.npy")
    arrays.unlink(missing_ok=True)  # those of an earlier submission
    write_table(table.iloc[np.argsort(order, kind="stable")], path)
    known = sample if "ImageWidth" in sample else cells  # a table of images may not say
    sizes = known[["ImageHeight", "ImageWidth"]].drop_duplicates().to_numpy().tolist()
    if len(sizes) == 1:
        _write_arrays(arrays, sample["ID"], sizes[0], table, len(classes))


def _write_arrays(path: Path, images: Sequence[str], size: list[int], table: pd.DataFrame, channels: int) -> None:
    find = finds(table, channels)
    parts = (find(image_id, tuple(size)) for image_id in images)
    pannuke_files.write_array(path, np.uint16, (len(images), *size, channels + 1), parts)


def finds(table: pd.DataFrame, channels: int) -> Callable[[str, tuple[int, int]], np.ndarray]:
    """A function (ImageID, (height, width)) -> `instance_arrays` of the cells that `table` has of the image."""
    table = table[table["PredictionString"] != ""]
    rows = table.groupby("ImageID", sort=False).indices
    types = table["Label"].to_numpy(np.int64)

    def of_image(image_id: str, size: tuple[int, int]) -> np.ndarray:
        if image_id not in rows:
            arrays = np.zeros((*size, channels + 1), np.int32)
            arrays[..., channels] = 1
            return arrays
        return instance_arrays(table.iloc[rows[image_id]], types[rows[image_id]], channels)

    return of_image


def score(
    submission: str | Path, truth: str | Path, classes: Sequence[str] = CLASSES, root: str | Path | None = None
) -> pd.DataFrame:
    """The score of a cells table with `Label`, or of the arrays `.npy` in the order of the truth's images.

    truth: the folder of the images that are to be scored (`read_metadata`), one fold or all, or a table of them with
    their folder `root`. Gives a row a tissue and the mean: `Class,mPQ,bPQ,Dice,Images,Truths` (see `scores`).
    """
    images, folder = read_metadata(truth), _mask_folder(truth, root)
    if Path(submission).suffix == ".npy":
        found = _read_arrays(submission, len(images), len(classes))
        place = {image_id: number for number, image_id in enumerate(images["ID"])}

        def of_image(image_id: str, size: tuple[int, int]) -> np.ndarray:
            return pannuke_files.whole(found[place[image_id]][..., : len(classes)], MOST_IDS, submission, image_id)

        return scores(images, of_image, folder, classes)
    table = read_table(submission, {**CELL_COLUMNS, "Label": str}, key=KEY)
    known = table[["ImageID"]].drop_duplicates().rename(columns={"ImageID": "ID"})
    match_rows(images, known, ["ID"], str(submission))
    labels = zip(table["Label"], table["PredictionString"], strict=True)
    wrong = [row for row, (text, mask) in enumerate(labels) if (text or mask) and not _is_class(text, len(classes))]
    if wrong:
        raise UserError(
            f"{submission} row {wrong[0] + 2}: Label {table['Label'].iloc[wrong[0]]!r} must be a class index "
            f"0 to {len(classes) - 1}"
        )
    return scores(images, finds(table, len(classes)), folder, classes)


def _mask_folder(truth: str | Path, root: str | Path | None) -> str | Path:
    """The folder with the masks: `root`, or the truth where that is a folder itself."""
    if Path(truth).is_dir():
        return truth
    if root is None:
        raise UserError(f"{truth} is a table; the folder with the masks must be named, too: --root_dir")
    return root


def _is_class(text: str, number: int) -> bool:
    return text.isdecimal() and int(text) < number


def _read_arrays(path: str | Path, images: int, channels: int) -> np.ndarray:
    arrays = pannuke_files.open_array(Path(path))
    if arrays.ndim != 4 or arrays.shape[0] != images or arrays.shape[3] != channels + 1:
        raise UserError(f"{path} holds {arrays.shape}; the truth needs ({images}, height, width, {channels + 1})")
    if not pannuke_files.is_number(arrays):
        raise UserError(f"{path} holds {arrays.dtype}; numbers, the instances' ids, are right")
    return arrays


def score_cells(
    cells: pd.DataFrame, probs: np.ndarray, images: Iterable[str], truth: str | Path, classes: Sequence[str] = CLASSES
) -> pd.DataFrame:
    """The same score of probabilities (len(cells), classes) of a cells table, over `images` alone."""
    folder, known = _mask_folder(truth, None), read_metadata(truth)
    rows = match_rows(pd.DataFrame({"ID": list(images)}), known, ["ID"], str(truth), exact=False)
    table = cells.assign(Label=probs.argmax(axis=1))
    return scores(known.iloc[rows], finds(table, len(classes)), folder, classes)


def scores(
    images: pd.DataFrame, found: Callable[[str, tuple[int, int]], np.ndarray], truth: str | Path,
    classes: Sequence[str] = CLASSES,
) -> pd.DataFrame:  # fmt: skip
    """The score table of `images` (ID, type), whose instance arrays `found` gives.

    mPQ and bPQ as the official code has them. Dice: of the class maps, background included, the tissue's images taken
    together, each class weighted by `frequency_weights` of all images' true pixels; its mean is over the tissues.
    truth: the folder with the masks.
    """
    qualities, cells, pixels = [], [], []
    for image_id in images["ID"]:
        true = read_masks(truth, image_id, classes)
        own = np.asarray(found(image_id, true.shape[:2]))[..., : len(classes)]
        if own.shape != true.shape:
            raise UserError(f"the finds of {image_id} have {own.shape[:2]} pixels, but {true.shape[:2]} in {truth}")
        qualities.append(image_quality(true, own))
        pixels.append(class_pixels(class_map(true), class_map(own), len(classes) + 1))
        cells.append(sum(np.count_nonzero(np.bincount(channel.ravel())[1:]) for channel in np.moveaxis(true, 2, 0)))
    tissues = images["type"].to_numpy()
    table = tissue_table(np.array(qualities), tissues)
    table["Dice"], table["Truths"] = 0.0, sum(cells)
    weights = frequency_weights(sum(pixels)[1])
    for row, tissue in enumerate(table["Class"].iloc[:-1]):
        own = np.flatnonzero(tissues == tissue)
        table.loc[row, "Dice"] = weighted_dice(sum(pixels[place] for place in own), weights)
        table.loc[row, "Truths"] = sum(cells[place] for place in own)
    table.loc[len(table) - 1, "Dice"] = table["Dice"].iloc[:-1].mean()
    return table[["Class", "mPQ", "bPQ", "Dice", "Images", "Truths"]]
