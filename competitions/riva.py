"""RIVA cervical cytology: find the nuclei of a Pap smear, eight Bethesda classes, boxes of 100 x 100 pixels.

`annotations/{train,val}.csv`: `image_filename,x,y,width,height,class_name,class`, a row a cell, where x and y are the
CENTRE of the box, which may leave the image. Images are single colour files; an image's id is its file name. The
folders may be doubled as in some downloads (annotations/annotations/train.csv).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cells import box_table
from cells.box_table import class_indices, make_cells, read_boxes, refuse, refuse_unknown_images
from cells.boxes import to_centres, to_corners
from cells.images import ImageError as ImageError
from cells.images import doubled, list_images, read_rgb, unique_sizes
from cells.table import BOX, match_rows, read_table, write_table
from common.errors import UserError, some
from common.files import existing, safe_name
from metrics.box_map import ap_table

CLASSES = ("NILM", "ENDO", "INFL", "ASCUS", "LSIL", "HSIL", "ASCH", "SCC")
SHORT_NAMES = CLASSES
NEGATIVE = None
CLASS_WEIGHTS = None  # by how rare a class is in the training cells
EXCLUSIVE = True
ENSEMBLE_DEFAULTS = {"average": "probs", "combine": "weighted", "cell_weight": 0.7}
CELL_LABELS = True
ID_COLUMN = "image_filename"  # which image a row of the tables is of
SAMPLE = "sample_submission.csv", "ID"  # what a submission is made from, and the column that tells it

CHANNELS = ("red", "green", "blue")
CHANNEL_NAMES = CHANNELS
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
BOX_SIZE = 100  # every box, in the images' pixels
IMAGE_SIZE = 1024
MASKED_CROPS, CROP_MARGIN = False, 0  # a crop is the box, with all that is in it

TRAIN_DEFAULTS = {
    "detect": {
        "arch": "centernet_resnet50", "optimizer": "AdamW", "lr": 1.25e-4, "weight_decay": 1e-4, "backbone_lr": 0.1,
        "scheduler": "cosine", "warmup_epochs": 5, "final_lr": 0.01, "epochs": 100, "patience": 25, "batch_size": 4,
        "effective_batch": 4, "img_size": 1024, "clipnorm": 35.0, "num_classes": 1,
        "in_channels": 3, "augment": "riva", "split_name": "riva_folds5",
    },
    "classify": {  # the published sampler and class weights are one correction twice: the sampler alone is the default
        "arch": "tf_efficientnet_b2", "loss": "CrossEntropy", "sample": -1, "optimizer": "AdamW", "lr": 1e-4,
        "weight_decay": 1e-4, "scheduler": "cosine", "warmup_epochs": 3, "epochs": 50, "batch_size": 64,
        "effective_batch": 64, "img_size": 224, "crop_size": 224, "clipnorm": 5.0, "drop_rate": 0.3, "in_channels": 3,
        "augment": "stained_crop", "split_name": "riva_folds5",
    },
}  # fmt: skip

FINDING_DEFAULTS = {"score_threshold": 0.01}  # low-scored boxes add to the score, see CONFIDENCE_MIN
MAX_DETECTIONS = 100  # of an image and class that count: COCO's
# Rows below this confidence are not written. It is near zero since a rare low-scored hit adds recall while low-scored
# misses come after all hits and take nothing away; below it, four decimals no longer rank the rows.
CONFIDENCE_MIN = 0.001
SCORE = "COCO mAP@[.50:.05:.95]"

OUTSIDE = "lies outside the image; x and y are the centre of a box, not a corner"
COLUMNS = {"image_filename": str, "x": float, "y": float, "width": float, "height": float}
CENTRED = ["x", "y", "width", "height"]


def read_metadata(path: str | Path, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """The images of a table or folder: column `ID`, each once.

    Annotations also have `Label`. A sample submission, a plain list with `image_filename`, or a folder of images name
    images to predict; of a table with a leading `id` the images' first ids are kept as column `id`.
    """
    path = existing(doubled(path), "--metadata")
    if path.is_dir():
        return pd.DataFrame({"ID": list_images(path, "--metadata")})
    table = read_table(path, {"image_filename": str})
    if {"class", "class_name"} & set(table) and "conf" not in table:
        return read_labels(path, classes)
    if table.empty:
        raise UserError(f"{path} has no rows")
    if "id" in table and not pd.api.types.is_integer_dtype(table["id"]):
        raise UserError(f"{path}: the column id must number the rows; {table['id'].iloc[0]!r} is no whole number")
    table = table.rename(columns={"image_filename": "ID"}).drop_duplicates("ID", ignore_index=True)
    return table[[name for name in ("ID", "id") if name in table]]


def read_labels(path: str | Path, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """Annotations as `ID,Label`: the classes of an image's cells joined by `|`, '' for an image without cells."""
    table = _read_annotations(path, classes)
    return box_table.image_labels(table["image_filename"], table["class"].to_numpy())


def multi_hot(labels: pd.Series, classes: Sequence[str] = CLASSES) -> np.ndarray:
    """Label texts as a float32 array (N, C) of zeros and ones."""
    return box_table.multi_hot(labels, len(classes))


def image_files(folder: str | Path, image_id: str) -> list[Path]:
    """The file of an image, whether it exists or not."""
    return [doubled(folder) / safe_name(image_id, "image_filename")]


def read_image(folder: str | Path, image_id: str) -> np.ndarray:
    """An image (height, width, 3), RGB."""
    return read_rgb(image_files(folder, image_id)[0])


def read_cells(path: str | Path, root: str | Path | None = None, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """Annotations as a cells table with `Label` and score 1; boxes are corners now.

    root: the folder of the images, whose headers then give ImageWidth and ImageHeight (else 0, not known). UserError
    for a centre outside its image, a box without area, an unknown class, a missing image. Equal rows stay equal cells.
    """
    table = _read_annotations(path, classes)
    names = table["image_filename"]
    sizes = None
    if root is not None:
        files = {name: image_files(root, name)[0] for name in names.unique()}
        sizes = unique_sizes([files[name] for name in names])
        for column, size in zip("xy", sizes.T, strict=True):
            refuse((table["class"] >= 0) & (table[column] > size), path, table[column], OUTSIDE)
    own = (table["class"] >= 0).to_numpy()
    boxes = to_corners(table[CENTRED].to_numpy())
    return make_cells(names[own], table["class"].to_numpy()[own], boxes[own], None if sizes is None else sizes[own])


def _read_annotations(path: str | Path, classes: Sequence[str]) -> pd.DataFrame:
    """The rows of annotations with the class as an index, -1 for an image without cells (a row with an empty class)."""
    path = existing(doubled(path), "the annotations")
    table = read_boxes(path, COLUMNS | {"class_name": str}, "class_name")
    own = class_indices(table["class_name"], classes, path)
    if "class" in table:
        wrong = (own >= 0) & (pd.to_numeric(table["class"], errors="coerce") != own)
        refuse(wrong, path, table["class"], f"is not the place, from 0, of its class_name in {some(classes, 30)}")
    table["class"] = own
    for column in ("width", "height"):
        refuse((own >= 0) & (table[column] <= 0), path, table[column], "makes a box without area")
    for column in ("x", "y"):
        refuse((own >= 0) & (table[column] < 0), path, table[column], OUTSIDE)
    return table


def detections(cells: pd.DataFrame, probs: np.ndarray) -> pd.DataFrame:
    """Cells with probabilities (N, C) as detections `ImageID,class,x1,y1,x2,y2,score`, one a cell and class.

    The score is that of the cell times the class's probability; those below CONFIDENCE_MIN are left out.
    """
    if "score" not in cells:
        raise UserError("the cells table lacks the column score, the confidence that there is a cell")
    confidence = cells["score"].to_numpy(float)[:, None] * probs
    rows, index = np.nonzero(confidence >= CONFIDENCE_MIN)
    table = cells[["ImageID", *BOX]].iloc[rows].reset_index(drop=True)
    return table.assign(**{"class": index, "score": confidence[rows, index]})


def write_submission(
    path: str | Path, sample: pd.DataFrame, cells: pd.DataFrame, probs: np.ndarray, classes: Sequence[str] = CLASSES
) -> None:
    """Write `image_filename,x,y,width,height,conf,class`: a row a cell and class, images in the order of the sample,
    falling confidence; with `id` in the sample (Kaggle's form) rows numbered from its first id lead.

    `probs` (len(cells), C) belongs to the rows of the cells table. An image without a row of its own gets one of
    confidence 0, which costs nothing, so that every image is in the file. UserError for a cell's image not in the
    sample.
    """
    match_rows(cells[["ImageID"]].rename(columns={"ImageID": "ID"}), sample, ["ID"], "the sample", exact=False)
    own = detections(cells, probs[:, : len(classes)])
    empty = sample["ID"][~sample["ID"].isin(own["ImageID"])]
    if len(empty):
        corner = dict(zip(BOX, (0, 0, BOX_SIZE, BOX_SIZE), strict=True))
        own = pd.concat([own, pd.DataFrame({"ImageID": empty, **corner, "class": 0, "score": 0.0})], ignore_index=True)
    place = own["ImageID"].map({name: row for row, name in enumerate(sample["ID"])})
    own = own.iloc[np.lexsort((-own["score"], place))]
    columns = dict(zip(CENTRED, to_centres(own[BOX].to_numpy(float)).T, strict=True))
    table = pd.DataFrame(
        {"image_filename": own["ImageID"].to_numpy()}
        | {name: np.char.mod("%.1f", values) for name, values in columns.items()}
        | {"conf": np.char.mod("%.4f", own["score"].to_numpy(float)), "class": own["class"].to_numpy()}
    )
    if "id" in sample:
        table.insert(0, "id", np.arange(len(table)) + int(sample["id"].iloc[0]))
    write_table(table, path)


def score(
    submission: str | Path, truth: str | Path, classes: Sequence[str] = CLASSES, max_dets: int = MAX_DETECTIONS,
    root: str | Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """COCO's mAP of a submission against annotations: `Class,AP,AP50,Truths,Detections`, last row the mean."""
    table = read_table(submission, COLUMNS | {"conf": float, "class": int})
    last = len(classes) - 1
    for column, bad, why in (
        ("class", ~table["class"].between(0, last), f"is no class index 0 to {last}"),
        ("conf", ~table["conf"].between(0, 1), "is no confidence in 0..1"),
        ("width", table["width"] <= 0, "makes a box without area"),
        ("height", table["height"] <= 0, "makes a box without area"),
    ):
        refuse(bad, submission, table[column], why)
    found = pd.DataFrame(to_corners(table[CENTRED].to_numpy()), columns=BOX)
    found = found.assign(ImageID=table["image_filename"], score=table["conf"]).assign(**{"class": table["class"]})
    return _ap_table(found, str(submission), truth, classes, max_dets)


def score_cells(
    cells: pd.DataFrame, probs: np.ndarray, images: Sequence[str], truth: str | Path, classes: Sequence[str] = CLASSES
) -> pd.DataFrame:
    """The same score of probabilities (len(cells), C) of a cells table, over `images` alone."""
    found = detections(cells, probs[:, : len(classes)])
    return _ap_table(found[found["ImageID"].isin(images)], "the cells table", truth, classes, MAX_DETECTIONS, images)


def _ap_table(
    found: pd.DataFrame, what: str, truth: str | Path, classes: Sequence[str], max_dets: int,
    images: Sequence[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    true = _read_annotations(truth, classes).rename(columns={"image_filename": "ImageID"})
    refuse_unknown_images(found["ImageID"] if images is None else pd.Series(images), true["ImageID"], what, truth)
    true[BOX] = to_corners(true[CENTRED].to_numpy())
    true = true[(true["class"] >= 0) & (True if images is None else true["ImageID"].isin(images))]
    if true.empty:
        raise UserError(f"{truth} has no labelled row to score against")
    return ap_table(classes, true, found, max_dets)
