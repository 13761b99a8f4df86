"""Cell instance segmentation in the form of Sartorius (Kaggle 2021): one row a cell, its mask as run lengths.

`train.csv` is `id,annotation` or `id,annotation,width,height,cell_type,...`; images are `<id>.png` (or TIFF or JPEG),
grey or coloured. An empty annotation, or -1, says that an image has no cell. A submission is `idx,id,annotation`, -1
where an image has none, or Sartorius' own `id,predicted`, empty where it has none; its masks must not overlap. Those of
the truth may (they do in all labelled images of Sartorius): each true cell counts whole.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cells import rle
from cells.box_table import multi_hot as hot_labels
from cells.crops import boxes
from cells.images import ImageError as ImageError
from cells.images import list_images, read_size
from cells.masks import decode_mask, encode_label_image
from cells.overlaps import cut_mask, remove_overlaps
from cells.table import match_rows, read_header, write_table
from common.errors import UserError, some
from competitions.neurons_files import image_files as image_files
from competitions.neurons_files import read_annotations, read_metadata
from competitions.neurons_files import read_image as read_image
from metrics.instance_ap import ap_table
from metrics.instance_pairs import Pairs, pair_layers

CLASSES = ("shsy5y", "astro", "cort")  # an image has cells of one type
SHORT_NAMES = CLASSES
NEGATIVE = None
CLASS_WEIGHTS = None
EXCLUSIVE = True
ENSEMBLE_DEFAULTS = {"average": "probs", "combine": "weighted", "cell_weight": 0.7}
CELL_LABELS = True  # every cell has its own label
ID_COLUMN = "id"  # which image a row of the tables is of
SAMPLE = "sample_submission.csv", "ID"  # what a submission is made from, and the column that tells it
BOX_SIZE = None  # boxes are as large as their cells
IMAGE_SIZE = 704
MASKED_CROPS, CROP_MARGIN = False, 16  # a crop is the square about the cell with so many more pixels on each side

CHANNELS = ("red", "green", "blue")  # grey images are given three equal ones, as the backbones expect
CHANNEL_NAMES = CHANNELS
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

MAX_DETECTIONS = 1000  # an image: above the densest one's 790 cells, where 100 would lose most

# What a cell of each type must reach: score and pixels (public Mask R-CNN of Sartorius); the last is for other types.
THRESHOLDS = {"shsy5y": 0.15, "astro": 0.35, "cort": 0.55, "": 0.5}
MIN_AREAS = {"shsy5y": 75, "astro": 150, "cort": 75, "": 10}

SUBMISSION_FLAGS = "score_threshold", "min_area"  # of submit.py, in place of these two

SCORE = "mean AP at IoU .50:.95"

# The starter's settings (Mask R-CNN); a flag that is not given takes these.
TRAIN_DEFAULTS = {
    "detect": {
        "arch": "maskrcnn_convnext_tiny", "optimizer": "AdamW", "lr": 1e-4, "weight_decay": 5e-4,
        "scheduler": "plateau", "epochs": 20, "batch_size": 2, "effective_batch": 2, "clipnorm": 1.0, "img_size": 704,
        "num_classes": 1, "in_channels": 3, "augment": "neurons", "split_name": "neurons_folds10",
        "skip_nonfinite": 100,
    },
}  # fmt: skip


def read_labels(path: str | Path, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """The images as columns `ID` and `Label`: the index of the type of their cells among `classes`, as text.

    One class alone stands for the cells of every type. `cell_type` is kept.
    """
    if "cell_type" not in read_header(path, "table") and len(classes) > 1:
        raise UserError(f"{path} has no column cell_type; name one class for all cells, such as --classes cell")
    images = read_metadata(path)
    types = images.get("cell_type", pd.Series("", images.index))
    unknown = [name for name in types.unique() if name not in classes]
    if len(classes) > 1 and unknown:
        raise UserError(f"{path} has the cell_type {some(unknown)}; --classes names {some(classes, 8)}")
    labels = [str(classes.index(name)) if len(classes) > 1 else "0" for name in types]
    return pd.DataFrame({"ID": images["ID"], "Label": labels, "cell_type": types})


def multi_hot(labels: pd.Series, classes: Sequence[str] = CLASSES) -> np.ndarray:
    """Label texts such as `2` or `0|1` as a float32 array (N, classes) of zeros and ones; an empty text is zeros."""
    return hot_labels(labels, len(classes))


def read_cells(path: str | Path, root: str | Path | None = None, classes: Sequence[str] = CLASSES) -> pd.DataFrame:
    """The labelled cells as a cells table with `Label` (index of the type), `cell_type` and `area`.

    Images without cells have no row. `root`, the images' folder, is needed where the file does not give the images'
    sizes, and checked against it where it does.
    """
    table, labels = read_annotations(path), read_labels(path, classes).set_index("ID")
    parts = []
    for image_id, rows in table.groupby("id", sort=False).indices.items():
        size = _size(path, table.iloc[rows[0]], root)
        where = [f"{path} row {row + 2} ({image_id})" for row in rows]
        own = _image_cells(image_id, table["runs"].iloc[rows], size, where)
        parts.append(own.assign(Label=labels.at[image_id, "Label"], cell_type=labels.at[image_id, "cell_type"]))
    return pd.concat(parts, ignore_index=True)


def _size(path: str | Path, row: pd.Series, root: str | Path | None) -> tuple[int, int]:
    """Height and width of an image, from its row, its file, or both, which must agree."""
    said = (int(row["height"]), int(row["width"])) if {"width", "height"} <= set(row.index) else None
    if root is None and said is None:
        raise UserError(f"{path} has no columns width and height; give the folder of the images, --root_dir")
    if root is None:
        return said
    width, height = read_size(image_files(root, row["id"])[0])
    size = height, width
    if said not in (None, size):
        raise UserError(f"{row['id']} is {size[1]} x {size[0]} pixels, but {path} says {said[1]} x {said[0]}")
    return size


def _image_cells(image_id: str, texts: Sequence[str], size: tuple[int, int], where: list[str]) -> pd.DataFrame:
    height, width = size
    layers = rle.decode_layers(texts, height, width, where)
    masks, frames, areas = {}, {}, np.zeros(len(texts) + 1, np.int64)
    for layer in layers:
        masks |= encode_label_image(layer)
        frames |= boxes(layer)
        areas += np.bincount(layer.ravel(), minlength=len(areas))
    cells = np.array(sorted(masks), np.int64)
    x1, y1, x2, y2 = np.array([frames[cell] for cell in cells], np.int64).reshape(-1, 4).T
    return pd.DataFrame(
        {
            "Image": [f"{image_id}+{cell}" for cell in cells], "ImageID": image_id, "CellID": cells,
            "ImageWidth": width, "ImageHeight": height, "PredictionString": [masks[cell] for cell in cells],
            "x1": x1, "y1": y1, "x2": x2, "y2": y2, "score": 1.0, "area": areas[1:][areas[1:] > 0],
        }
    )  # fmt: skip


def final_labels(
    cells: pd.DataFrame, probs: np.ndarray, classes: Sequence[str] = CLASSES, score_threshold: float | None = None,
    min_area: int | None = None,
) -> np.ndarray:  # fmt: skip
    """The cells of one image that a submission holds, as a label image, int32; label i + 1 is row i.

    The image's type is the class that most of the cells' `score` is for; its THRESHOLDS and MIN_AREAS hold for all, if
    `score_threshold` and `min_area`, in pixels, do not say otherwise. Overlaps go to the higher score. probs: (rows,
    classes). A row without mask text is no cell.
    """
    sizes = set(zip(cells["ImageHeight"].tolist(), cells["ImageWidth"].tolist(), strict=True))
    if len(sizes) > 1:
        raise UserError(f"the cells of {cells['ImageID'].iloc[0]} are for images of several sizes")
    height, width = sizes.pop()
    scores = cells.get("score", pd.Series(1.0, cells.index)).to_numpy(float)
    kind = classes[int((probs * scores[:, None]).sum(axis=0).argmax())]
    sure = scores >= (THRESHOLDS.get(kind, THRESHOLDS[""]) if score_threshold is None else score_threshold)
    use = np.flatnonzero(sure & (cells["PredictionString"] != "").to_numpy())
    cuts = [cut_mask(_mask(cells, row, (height, width))) for row in use]
    least = MIN_AREAS.get(kind, MIN_AREAS[""]) if min_area is None else min_area
    labels = remove_overlaps(cuts, scores[use], (height, width), least)
    return np.append(0, use + 1).astype(np.int32)[labels]


def _mask(cells: pd.DataFrame, row: int, size: tuple[int, int]) -> np.ndarray:
    try:
        return decode_mask(cells["PredictionString"].iat[row], *size)
    except UserError as error:
        raise UserError(f"cell {cells['CellID'].iat[row]} of {cells['ImageID'].iat[row]}: {error}") from error


def write_submission(
    path: str | Path, sample: pd.DataFrame, cells: pd.DataFrame, probs: np.ndarray, classes: Sequence[str] = CLASSES,
    **limits,
) -> int:  # fmt: skip
    """Write the submission for the images of `sample`, in its order: `id,predicted` if the sample is of that form,
    else `idx,id,annotation`, with the cells that `final_labels` leaves, which takes the `limits`. Gives their number.
    """
    match_rows(cells.rename(columns={"ImageID": "ID"}), sample, ["ID"], "sample_submission.csv", exact=False)
    if len(cells) and (cells["PredictionString"] == "").all():
        raise UserError("the cells have boxes and no masks, of which a submission of neurons is made")
    _check_sizes(sample, cells)
    own = cells.groupby("ImageID", sort=False).indices
    ids, texts, count = [], [], 0
    sartorius = "predicted" in sample
    for image_id in sample["ID"]:
        rows = own.get(image_id, [])
        masks = rle.encode_labels(final_labels(cells.iloc[rows], probs[rows], classes, **limits)) if len(rows) else {}
        count += len(masks)
        masks = list(masks.values()) or ["" if sartorius else "-1"]
        ids += [image_id] * len(masks)
        texts += masks
    table = pd.DataFrame({"id": ids, "predicted" if sartorius else "annotation": texts})
    write_table(table if sartorius else table.reset_index(names="idx"), path)
    return count


def _check_sizes(sample: pd.DataFrame, cells: pd.DataFrame) -> None:
    """UserError when the sample says that an image is of another size than its cells say."""
    if "ImageWidth" not in sample:
        return
    sides = ["ImageWidth", "ImageHeight"]
    right = sample.set_index("ID")[sides].loc[cells["ImageID"]].to_numpy()
    wrong = np.flatnonzero((right != cells[sides].to_numpy()).any(axis=1))
    if len(wrong):
        own = cells.iloc[wrong[0]]
        width, height = right[wrong[0]]
        raise UserError(
            f"the cells of {own['ImageID']} are for {own['ImageWidth']} x {own['ImageHeight']} pixels, but the "
            f"metadata says {width} x {height}"
        )


def read_submission(path: str | Path, sizes: dict[str, tuple[int, int]]) -> Iterator[tuple[str, np.ndarray]]:
    """Each image of a submission with its cells as a label image; `sizes` gives the (height, width) of the known ones.

    UserError for run lengths that are none, an unknown or missing image, and masks that overlap.
    """
    table = read_annotations(path)
    unknown = [row for row, image_id in enumerate(table["id"]) if image_id not in sizes]
    if unknown:
        raise UserError(f"{path} row {unknown[0] + 2}: the image {table['id'].iloc[unknown[0]]} is not known")
    for image_id, rows in table.groupby("id", sort=False).indices.items():
        where = [f"{path} row {row + 2} ({image_id})" for row in rows]
        layers = rle.decode_layers(table["runs"].iloc[rows], *sizes[image_id], where)
        if len(layers) > 1:
            both = (layers[0] > 0) & (layers[1] > 0)
            other = int(layers[1][both][0])
            first = int(layers[0][layers[1] == other].max())
            raise UserError(
                f"{where[other - 1]}: the mask overlaps that of row {rows[first - 1] + 2}; "
                "no two masks of a submission may share a pixel"
            )
        yield image_id, layers[0]
    missing = sorted(set(sizes) - set(table["id"]))
    if missing:
        raise UserError(f"{path} lacks the image {some(missing)}; an image without cells has a row, too")


def check_submission(path: str | Path, root: str | Path) -> pd.DataFrame:
    """Read a submission for the images in the folder `root` without their truth: `ID,Cells,Covered` (share of pixels).

    UserError as in `read_submission`.
    """
    names = [Path(name).stem for name in list_images(root, "--root_dir")]
    sizes = {name: read_size(image_files(root, name)[0])[::-1] for name in names}
    rows = [(name, int(labels.max()), (labels > 0).mean()) for name, labels in read_submission(path, sizes)]
    return pd.DataFrame(rows, columns=["ID", "Cells", "Covered"])


def score(submission: str | Path, truth: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """The score of a submission by cell type: `Class,AP,AP50,Images,Truths,Detections`, last row the mean of images."""
    true = Truth(truth, root)
    pairs = {image_id: true.pairs(image_id, found) for image_id, found in read_submission(submission, true.sizes)}
    return ap_table([pairs[image_id] for image_id in true.sizes], list(true.types.values()))


def score_cells(
    cells: pd.DataFrame, probs: np.ndarray, images: Sequence[str], truth: str | Path, root: str | Path | None = None,
    classes: Sequence[str] = CLASSES,
) -> pd.DataFrame:  # fmt: skip
    """The same score of what `final_labels` leaves of a cells table, over `images` alone."""
    true = Truth(truth, root, images)
    own = cells.groupby("ImageID", sort=False).indices
    pairs = []
    for image_id, size in true.sizes.items():
        rows = own.get(image_id, [])
        found = final_labels(cells.iloc[rows], probs[rows], classes) if len(rows) else np.zeros(size, np.int32)
        pairs.append(true.pairs(image_id, found))
    return ap_table(pairs, list(true.types.values()))


class Truth:
    """The true cells of images: their sizes (height, width), their types, and what a label image hits of them."""

    def __init__(self, path: str | Path, root: str | Path | None = None, images: Sequence[str] | None = None):
        self.path = path
        table = read_annotations(path)
        own = table.groupby("id", sort=False).indices
        known = pd.DataFrame({"ID": list(own)})
        images = list(own) if images is None else list(images)
        match_rows(pd.DataFrame({"ID": images}), known, ["ID"], str(path), exact=False)
        self.rows = {image_id: own[image_id] for image_id in images}
        self.runs = table["runs"]
        self.sizes = {image_id: _size(path, table.iloc[rows[0]], root) for image_id, rows in self.rows.items()}
        kinds = table.get("cell_type", pd.Series("cell", table.index))
        self.types = {image_id: kinds.iloc[rows[0]] for image_id, rows in self.rows.items()}

    def pairs(self, image_id: str, found: np.ndarray) -> Pairs:
        """The pairs of the image's true cells with those of a label image, which must be of its size."""
        rows, size = self.rows[image_id], self.sizes[image_id]
        if found.shape != size:
            raise UserError(
                f"the cells of {image_id} are for {found.shape[1]} x {found.shape[0]} pixels, "
                f"but {self.path} says {size[1]} x {size[0]}"
            )
        where = [f"{self.path} row {row + 2} ({image_id})" for row in rows]
        return pair_layers(rle.decode_layers(self.runs.iloc[rows], *size, where), found)
