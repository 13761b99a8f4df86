"""Cells that the image's border cuts: how much of each is seen, and which of them to drop."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from cells.crops import boxes

# The published rule (12th place): a mask that touches the border and has less than t times the mean area of those that
# do not is small; drop a cell with a small nucleus (t = .5), or with a cell (t = .4) and a nucleus (t = .7) both small.
# Its halves can be chosen alone. The truth counts a border cell only if more than half of it is visible.
Small = Callable[[float], np.ndarray]
RULES: dict[str, Callable[[Small, Small], np.ndarray]] = {
    "published": lambda cell, nucleus: nucleus(0.5) | (cell(0.4) & nucleus(0.7)),
    "nucleus": lambda cell, nucleus: nucleus(0.5),
    "both": lambda cell, nucleus: cell(0.4) & nucleus(0.7),
}
SCRAP = 0.1  # whatever the rule and wherever it lies, a mask under this share of the mean area is no cell

# Estimates of a border cell's visible share that can weigh its confidence, see `border_weights`; the columns that each
# reads besides ImageID and touches_border.
WEIGHTS: dict[str, dict[str, type]] = {
    "touch": {"area": int, "border_pixels": int},
    "area": {"area": int},
    "nucleus": {"area": int, "nucleus_area": int},
    "nucleus_box": {"area": int, "nucleus_area": int, "nucleus_box": int},
    "completeness": {"completeness": float},
}


def measure_borders(cells: np.ndarray, nuclei: np.ndarray, rule: str = "published") -> pd.DataFrame:
    """What the border does to each cell of a label image (height, width), nuclei carrying their cell's label.

    One row a cell, by CellID: `area`, `nucleus_area`, `nucleus_box` (pixels: of the cell, the nucleus, the box about
    the nucleus), `touches_border` (0 or 1), `border_pixels` (length of the border that the cell covers; a corner pixel
    counts for both its sides), `completeness` (see below) and `keep` (0 or 1): what `rule`, a name in RULES or "none",
    says.
    """
    size = int(max(cells.max(initial=0), nuclei.max(initial=0))) + 1
    area, border = _areas(cells, size), _areas(_frame(cells), size)
    nucleus_area, nucleus_border = _areas(nuclei, size), _areas(_frame(nuclei), size)
    found = np.flatnonzero(area)
    area, border, nucleus_area, nucleus_border = (
        values[found] for values in (area, border, nucleus_area, nucleus_border)
    )
    box_area = {label: (x2 - x1) * (y2 - y1) for label, (x1, y1, x2, y2) in boxes(nuclei).items()}
    return pd.DataFrame(
        {
            "area": area,
            "nucleus_area": nucleus_area,
            "nucleus_box": [box_area.get(cell, 0) for cell in found.tolist()],
            "touches_border": (border > 0).astype(np.int64),
            "border_pixels": border,
            "completeness": completeness(area, border, _typical(area, border > 0)).round(4),
            "keep": _keep(rule, (area, border > 0), (nucleus_area, nucleus_border > 0)).astype(np.int64),
        },
        index=pd.Index(found, name="CellID"),
    )


def border_weights(cells: pd.DataFrame, how: str) -> np.ndarray:
    """What to multiply each row's confidences with, 0..1, from the columns of a cells table of any number of images.

    1 for a cell that does not touch the border; else its visible share as `how` estimates it:
    `touch`         of a disc with the cell's area and length of border (`disc_share`);
    `area`          area / the mean area of the image's cells that do not touch the border, at most 1;
    `nucleus`       the same of the nuclei's areas; of the cells' in an image without nuclei;
    `nucleus_box`   the same of the areas of the boxes about the nuclei;
    `completeness`  the geometric mean of `touch` and `area`, as measured when the cells were found.
    An image with border cells only takes the mean of those. Continuous weights instead of dropping are what the 4th,
    6th and 7th place of HPA 2021 used, each with a formula of its own; these are ours.
    """
    touches, images = cells["touches_border"].to_numpy() > 0, cells["ImageID"].to_numpy()
    if how == "touch":
        share = disc_share(cells["area"].to_numpy(float), cells["border_pixels"].to_numpy())
    elif how == "completeness":
        share = cells["completeness"].to_numpy()
    else:
        size = cells["area"].to_numpy(float)
        if how != "area":
            with_nuclei = cells["nucleus_area"].groupby(images).transform("max").to_numpy() > 0
            size = np.where(with_nuclei, cells["nucleus_box" if how == "nucleus_box" else "nucleus_area"], size)
        share = np.minimum(size / np.maximum(_typical_of_each(size, touches, images), 1), 1)
    return np.where(touches, share, 1.0)


def _typical_of_each(area: np.ndarray, touches: np.ndarray, images: np.ndarray) -> np.ndarray:
    """`_typical` of each row's image, (N,)."""
    table = pd.DataFrame({"all": np.where(area > 0, area, np.nan)})
    table["whole"] = table["all"].where(~touches)
    means = table.groupby(images).transform("mean")
    return means["whole"].fillna(means["all"]).fillna(0).to_numpy()


def completeness(area: np.ndarray, border_pixels: np.ndarray, typical: float) -> np.ndarray:
    """An estimate of each cell's visible share, 0..1; 1 for a cell that does not touch the border.

    It is the geometric mean of two: the cell's area over the `typical` area of whole cells (at most 1), and the share
    of a disc that has this area and this length of border when the border cuts it (see `disc_share`). On whole cells of
    real images that a line or a corner cuts at random it is .09 off on average, and .9 of the time on the right side of
    a half; each of the two by itself is worse.
    """
    share = np.sqrt(disc_share(area, border_pixels) * np.minimum(area / max(typical, 1), 1))
    return np.where(border_pixels > 0, share, 1.0)


def disc_share(area: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The share of a disc that a straight cut of length `cut` leaves when it leaves `area`; 1 where `cut` is 0.

    A disc cut at the angle a (0: nothing is left, 2 pi: all of it) has the share (a - sin a) / 2 pi, and its area over
    the square of the cut's length is (a - sin a) / (8 sin^2(a / 2)), which grows with a: so the two known numbers give
    a. A half disc has area / cut^2 = pi / 8.
    """
    angle = np.linspace(1e-3, 2 * np.pi - 1e-3, 4096)
    segment = angle - np.sin(angle)
    ratio = area / np.maximum(cut, 1) ** 2
    share = np.interp(ratio, segment / (8 * np.sin(angle / 2) ** 2), segment / (2 * np.pi), left=0.0, right=1.0)
    return np.where(cut > 0, share, 1.0)


def _keep(rule: str, cell: tuple[np.ndarray, np.ndarray], nucleus: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    if rule == "none":
        return np.ones(len(cell[0]), bool)
    if not nucleus[0].any():  # a finder without nuclei: the cells are all there is to judge by
        nucleus = cell
    scrap = _small(*cell)(0) | _small(*nucleus)(0)
    return ~(RULES[rule](_small(*cell), _small(*nucleus)) | scrap)


def _small(area: np.ndarray, touches: np.ndarray) -> Small:
    """A function of t: which masks are too small, at the border under t x the mean, anywhere under SCRAP x the mean."""
    mean = _typical(area, touches)
    return lambda t: (touches & (area < t * mean)) | (area < SCRAP * mean)


def _typical(area: np.ndarray, touches: np.ndarray) -> float:
    """The mean area of those that do not touch the border, or of all if all do; 0 if there are none."""
    whole = area[~touches & (area > 0)]
    whole = whole if len(whole) else area[area > 0]
    return float(whole.mean()) if len(whole) else 0.0


def _frame(labels: np.ndarray) -> np.ndarray:
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])


def _areas(labels: np.ndarray, size: int) -> np.ndarray:
    """Pixels of each label 0..size-1, the background's as 0."""
    areas = np.bincount(labels.ravel(), minlength=size)
    areas[0] = 0
    return areas
