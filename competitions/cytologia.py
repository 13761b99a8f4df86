"""Cytologia (Trustii): white blood cells in small fields, 23 classes, one box each; how many an image has is given.

`train.csv`: `NAME,x1,y1,x2,y2,class`, a row a cell, corners in pixels, class = short name. `test.csv`:
`trustii_id,NAME`, a row a box that is wanted. Images are single colour files; an image's id is its file name. A row of
train.csv with an empty class names an image without cells (its box is not looked at).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cells import box_table
from cells.box_table import class_indices, make_cells, read_boxes, refuse, refuse_unknown_images
from cells.boxes import top
from cells.images import ImageError as ImageError
from cells.images import doubled, list_images, read_rgb, unique_sizes
from cells.table import BOX, check_unique, match_rows, read_table, write_table
from common.errors import UserError, some
from common.files import existing, safe_name
from metrics.box_class import score_table

CLASSES = (
    "PNN", "LY", "MO", "EO", "BA", "Er", "PM", "Thromb", "LAM3", "Lysee", "LyB", "LLC", "MBL", "LGL", "B", "M", "MM",
    "LF", "MoB", "LH_lyAct", "LM", "LZMG", "SS",
)  # fmt: skip
SHORT_NAMES = CLASSES
BACKGROUND = "Background"  # an optional class after the others: crops without a cell; it is never the answer
NEGATIVE = None
CLASS_WEIGHTS = None  # by how rare a class is in the training cells
EXCLUSIVE = True
ENSEMBLE_DEFAULTS = {"average": "logits", "combine": "single", "cell_weight": 0.457}  # published
CELL_LABELS = True
ID_COLUMN = "NAME"  # which image a row of the tables is of
SAMPLE = "test.csv", "Count"  # what a submission is made from, and the column that tells it

CHANNELS = ("red", "green", "blue")
CHANNEL_NAMES = CHANNELS
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
BOX_SIZE = None  # boxes are of any size
IMAGE_SIZE = 370  # about the longer side of most images
MASKED_CROPS, CROP_MARGIN = False, 16  # a crop is the square about the box with so many more pixels on each side
USUAL_SIZE = (370, 368)  # width, height of most images, where no image's is known

TRAIN_DEFAULTS = {
    "detect": {  # mosaic and mixup until the last 15 epochs; rate .01 for 64 images, so .0025 for 16
        "arch": "yolox_s", "optimizer": "SGD", "lr": 0.0025, "weight_decay": 5e-4, "scheduler": "cosine",
        "warmup_epochs": 5, "final_lr": 0.05, "epochs": 110, "mosaic_epochs": 95, "batch_size": 16,
        "effective_batch": 16, "img_size": 640, "ema": 0.9998, "num_classes": 1, "in_channels": 3,
        "augment": "yolox", "split_name": "cytologia_folds4",
    },
    "classify": {  # epochs and batch size are ours, the rest is published
        "arch": "tf_efficientnetv2_m", "loss": "CrossEntropy", "optimizer": "AdamW", "lr": 2e-4, "weight_decay": 0.01,
        "scheduler": "cosine", "final_lr": 0.0, "epochs": 20, "batch_size": 16, "effective_batch": 16,
        "img_size": 512, "crop_size": 512, "mixup": 0.2, "cutmix": 1.0, "mix_share": 0.5, "clipnorm": 1.0,
        "in_channels": 3, "augment": "stained_crop", "split_name": "cytologia_folds4",
    },
}  # fmt: skip

FINDING_DEFAULTS = {"score_threshold": 0.001, "nms_iou": 0.3, "fuse_iou": 0.25}  # published
MAX_DETECTIONS = 100  # of an image, when a detector is judged
SCORE = ".2 x GIoU + .8 x macro-F1"

OUTSIDE = "puts the box outside the image"
TRAIN_COLUMNS = {"NAME": str, **dict.fromkeys(BOX, float), "class": str}


def read_metadata(path: str | Path, root: str | Path | None = None, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """The images of a table or folder: column `ID`, each once, in the order in which they are first named.

    train.csv also gives `Label`; test.csv `Count`, the boxes wanted of the image, with `trustii_id` and `Place` (the
    rows' ids and their places in the file) joined by `|`. root: the folder of the images, of which each must be there;
    its headers then give `ImageWidth` and `ImageHeight`.
    """
    path = existing(path, "--metadata")
    if path.is_dir():
        images = pd.DataFrame({"ID": list_images(path, "--metadata")})
    else:
        table = read_table(path, {"NAME": str})
        images = read_labels(path, classes) if "class" in table else _read_counts(path)
    if root is not None:
        images[["ImageWidth", "ImageHeight"]] = _sizes(images["ID"], root, path)
    return images


def _read_counts(path: Path) -> pd.DataFrame:
    """test.csv by image."""
    table = read_table(path, {"trustii_id": str, "NAME": str}, key=["trustii_id"])
    if table.empty:
        raise UserError(f"{path} has no rows")
    codes, names = pd.factorize(table["NAME"])
    places = map(str, range(len(table)))
    return pd.DataFrame(
        {
            "ID": np.asarray(names, object), "trustii_id": box_table.join(codes, table["trustii_id"], len(names)),
            "Place": box_table.join(codes, places, len(names)), "Count": np.bincount(codes),
        }
    )  # fmt: skip


def _sizes(names: pd.Series, root: str | Path, path: str | Path) -> np.ndarray:
    """Width and height of each image, (N, 2); UserError when `path` names images that the folder does not have."""
    files = {name: image_files(root, name)[0] for name in names.unique()}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise UserError(f"{path} names the image {some(missing)}, which {root} does not have")
    return unique_sizes([files[name] for name in names])


def read_labels(path: str | Path, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """train.csv as `ID,Label`: the classes of an image's cells joined by `|`, '' for an image without cells."""
    table = _read_train(path, classes)
    return box_table.image_labels(table["NAME"], table["class"].to_numpy())


def multi_hot(labels: pd.Series, classes: Sequence[str] = CLASSES) -> np.ndarray:
    """Label texts as a float32 array (N, C) of zeros and ones."""
    return box_table.multi_hot(labels, len(classes))


def image_files(folder: str | Path, image_id: str) -> list[Path]:
    """The file of an image, whether it exists or not."""
    return [doubled(folder) / safe_name(image_id, "NAME")]


def read_image(folder: str | Path, image_id: str) -> np.ndarray:
    """An image (height, width, 3), RGB."""
    return read_rgb(image_files(folder, image_id)[0])


def read_cells(path: str | Path, root: str | Path | None = None, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """train.csv as a cells table with `Label` and score 1.

    root: the folder of the images, whose headers then give ImageWidth and ImageHeight (else 0, not known). UserError
    for a box without area or wholly outside its image (one may reach over the border), an unknown class, a missing
    image. Equal rows stay equal cells.
    """
    table = _read_train(path, classes)
    own = (table["class"] >= 0).to_numpy()
    sizes = None
    if root is not None:
        sizes = _sizes(table["NAME"], root, path)
        for column, size in zip(("x1", "y1"), sizes.T, strict=True):
            refuse(own & (table[column] >= size), path, table[column], OUTSIDE)
        sizes = sizes[own]
    return make_cells(table["NAME"][own], table["class"].to_numpy()[own], table[BOX].to_numpy()[own], sizes)


def _read_train(path: str | Path, classes: Sequence[str]) -> pd.DataFrame:
    """The rows of train.csv with the class as an index, -1 for an image without cells (a row with an empty class)."""
    table = read_boxes(path, TRAIN_COLUMNS, "class")
    table["class"] = class_indices(table["class"], classes, path)
    _check_corners(table, (table["class"] >= 0).to_numpy(), path)
    return table


def _check_corners(table: pd.DataFrame, own: np.ndarray, path: str | Path) -> None:
    for low, high, size in (("x1", "x2", "width"), ("y1", "y2", "height")):
        why = f"is not above {low}: a box without area; both are corners, {low} no centre and {high} no {size}"
        refuse(own & (table[high] <= table[low]), path, table[high], why)
        refuse(own & (table[high] <= 0), path, table[high], OUTSIDE)


def choose_boxes(
    images: pd.DataFrame, cells: pd.DataFrame, probs: np.ndarray, classes: Sequence[str] = CLASSES
) -> pd.DataFrame:
    """As many boxes of each image as its `Count` wants, in the order of `images`: `ImageID,x1,y1,x2,y2,class` (index).

    An image's boxes of the highest `score` first, each with its likeliest class of `probs` (len(cells), C or C + 1 with
    Background, which is not an answer). What is missing is the whole image, with the class of the image's best box; an
    image without any gets the first class, the most frequent in training. Boxes are rounded to whole pixels, not cut at
    the border, beyond which true boxes reach too.
    """
    if "score" not in cells:
        raise UserError("the cells table lacks the column score, the confidence that there is a cell")
    keys = cells[["ImageID"]].rename(columns={"ImageID": "ID"})
    which = match_rows(keys, images, ["ID"], "the table of counts", exact=False)
    wanted, sizes = images["Count"].to_numpy(), _known_sizes(images, cells, which)
    rows = top(cells["score"].to_numpy(float), which, wanted[which])
    own, guess = which[rows], probs[rows, : len(classes)].argmax(axis=1)
    best = np.zeros(len(images), np.int64)
    best[own[::-1]] = guess[::-1]  # the first of an image, its best, is written last
    padded = np.repeat(np.arange(len(images)), wanted - np.bincount(own, minlength=len(images)))
    whole = np.hstack([np.zeros((len(padded), 2), np.int64), sizes[padded]])
    boxes = np.vstack([_whole_pixels(cells[BOX].to_numpy(float)[rows]), whole])
    owner = np.concatenate([own, padded])
    order = np.argsort(owner, kind="stable")
    table = pd.DataFrame(boxes[order], columns=BOX).assign(ImageID=images["ID"].to_numpy()[owner[order]])
    return table.assign(**{"class": np.concatenate([guess, best[padded]])[order]})


def _known_sizes(images: pd.DataFrame, cells: pd.DataFrame, which: np.ndarray) -> np.ndarray:
    """Width and height of each image, (N, 2): its own, else that of its cells, else that of most images."""
    columns = ["ImageWidth", "ImageHeight"]
    sizes = np.zeros((len(images), 2), np.int64)
    sizes[which] = cells[columns].to_numpy()
    if set(columns) <= set(images):
        sizes = images[columns].to_numpy(np.int64)
    known = (sizes > 0).all(axis=1)
    found, counts = np.unique(sizes[known], axis=0, return_counts=True)
    usual = found[counts.argmax()] if len(found) else USUAL_SIZE
    return np.where(known[:, None], sizes, usual)


def _whole_pixels(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) rounded, at least a pixel wide and high."""
    low, high = np.hsplit(boxes.round().astype(np.int64), 2)
    return np.hstack([low, np.maximum(high, low + 1)])


def write_submission(
    path: str | Path, sample: pd.DataFrame, cells: pd.DataFrame, probs: np.ndarray, classes: Sequence[str] = CLASSES
) -> None:
    """Write `trustii_id,NAME,x1,y1,x2,y2,class`, a row for each of test.csv and in its order; see `choose_boxes`.

    sample: test.csv as `read_metadata` gives it; `probs` (len(cells), C or C + 1) belongs to the rows of the cells
    table. UserError for a cell's image that test.csv does not name.
    """
    if "Count" not in sample:
        raise UserError("a submission needs test.csv (trustii_id,NAME), which says how many boxes each image has")
    chosen = choose_boxes(sample, cells, probs, classes)
    ids, places = ("|".join(sample[name]).split("|") for name in ("trustii_id", "Place"))
    table = pd.DataFrame({"trustii_id": ids, "NAME": chosen["ImageID"], **chosen[BOX]})
    table["class"] = np.array(classes, object)[chosen["class"]]
    write_table(table.iloc[np.argsort(np.array(places, np.int64))], path)


def score(
    submission: str | Path, truth: str | Path, classes: Sequence[str] = CLASSES, root: str | Path | None = None
) -> pd.DataFrame:
    """The challenge's score of a submission against a table in train.csv's form: `Class,Score,F1,GIoU,Truths,Guesses`,
    last row `mean` with the score itself (metrics/box_class.py says how).
    """
    table = read_table(submission, TRAIN_COLUMNS)
    if "trustii_id" in table:
        check_unique(table, ["trustii_id"], str(submission))
    refuse(table["class"] == "", submission, table["class"], "is no class: each row of a submission has one")
    table["class"] = class_indices(table["class"], classes, submission)
    _check_corners(table, np.ones(len(table), bool), submission)
    table = table.rename(columns={"NAME": "ImageID"})
    true = _read_truth(truth, classes, table["ImageID"], str(submission))
    return _score_table(true, table, truth, classes)


def score_cells(
    cells: pd.DataFrame, probs: np.ndarray, images: Sequence[str], truth: str | Path, classes: Sequence[str] = CLASSES
) -> pd.DataFrame:
    """The same score of probabilities (len(cells), C) of a cells table, over `images` alone: of each as many boxes as
    it has true cells, chosen as for a submission.
    """
    true = _read_truth(truth, classes, pd.Series(images), "the list of images")
    true = true[true["ImageID"].isin(images)]
    own = true["ImageID"][true["class"] >= 0].value_counts()
    counts = pd.DataFrame({"ID": images, "Count": own.reindex(images, fill_value=0).to_numpy()})
    own = cells["ImageID"].isin(images).to_numpy()
    return _score_table(true, choose_boxes(counts, cells[own], probs[own], classes), truth, classes)


def _read_truth(truth: str | Path, classes: Sequence[str], names: pd.Series, what: str) -> pd.DataFrame:
    """The rows of a truth with ImageID; UserError when `what` has an image, of `names`, that it does not know."""
    table = _read_train(truth, classes).rename(columns={"NAME": "ImageID"})
    refuse_unknown_images(names, table["ImageID"], what, truth)
    return table


def _score_table(true: pd.DataFrame, found: pd.DataFrame, truth: str | Path, classes: Sequence[str]) -> pd.DataFrame:
    true = true[true["class"] >= 0]
    if true.empty:
        raise UserError(f"{truth} has no labelled row to score against")
    return score_table(classes, true, found)
