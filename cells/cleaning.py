"""What is wrong with labelled boxes, and images made empty of cells to train on (winner of the Cytologia challenge)."""

import cv2
import numpy as np
import pandas as pd

from cells.boxes import areas, best_match, clip, iou, nms
from cells.table import BOX

LEAST_BACKGROUND = 0.05  # the share of an image that must be free of cells to take its background from
RIM = 0.015  # of the shorter side: how far a cell may reach beyond its stained pixels
GRAIN = 2.0  # pixels: finer detail is grain, coarser is illumination


def noisy_boxes(
    cells: pd.DataFrame, shortest: float = 8, longest_ratio: float = 4, inside: float = 0.5, overlap: float = 0.9
) -> np.ndarray:
    """Which labelled boxes of a cells table can hardly be right: (N,) bool.

    A side below `shortest` pixels, one side more than `longest_ratio` times the other, less than the share `inside` of
    the area within the image (where its size is known), or an IoU above `overlap` with a box before it in its image.
    """
    boxes, sizes = cells[BOX].to_numpy(float), cells[["ImageWidth", "ImageHeight"]].to_numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    noisy = (sides.min(axis=1) < shortest) | (sides.max(axis=1) > longest_ratio * sides.min(axis=1))
    noisy |= (sizes > 0).all(axis=1) & (areas(clip(boxes, sizes)) < inside * areas(boxes))
    again = np.ones(len(cells), bool)
    again[nms(boxes, -np.arange(len(cells)), overlap, pd.factorize(cells["ImageID"])[0])] = False
    return noisy | again


def noisy_images(truth: pd.DataFrame, found: pd.DataFrame, overlap: float = 0.5, score: float = 0.5) -> pd.DataFrame:
    """How far detections of networks that have not seen the images contradict their labels, the worst images first.

    `ImageID,Truths,Missed,Extra`: true boxes that no detection overlaps by IoU `overlap`, and detections of at least
    `score` that overlap no true box so far. Both tables have `ImageID,x1,y1,x2,y2`, found a `score`.
    """
    sure = found[found["score"] >= score]
    missed, extra = _highest_iou(truth, found) < overlap, _highest_iou(sure, truth) < overlap
    parts = {"Truths": truth["ImageID"], "Missed": truth["ImageID"][missed], "Extra": sure["ImageID"][extra]}
    counts = pd.DataFrame({name: images.value_counts() for name, images in parts.items()}).fillna(0).astype(int)
    wrong = counts["Missed"] + counts["Extra"]
    return counts.iloc[np.lexsort((counts.index, -wrong))].rename_axis("ImageID").reset_index()


def _highest_iou(table: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    codes, _ = pd.factorize(pd.concat([table["ImageID"], others["ImageID"]]))
    own, other = codes[: len(table)], codes[len(table) :]
    return best_match(table[BOX].to_numpy(float), own, others[BOX].to_numpy(float), other, iou)[1]


def remove_cells(
    image: np.ndarray, boxes: np.ndarray, generator: np.random.Generator, margin: float = 0.1
) -> np.ndarray | None:
    """An image (H, W, 3) uint8 RGB without its cells, or None when hardly any background is left to fill them with.

    Cells: the boxes (N, 4), wider by the share `margin` on each side, and all that Otsu's threshold calls stained. They
    are filled with the illumination of the background around them and grain that is drawn from it.
    """
    cells = _stained(image)
    height, width = cells.shape
    grown = boxes + np.tile(boxes[:, 2:] - boxes[:, :2], (1, 2)) * margin * [-1, -1, 1, 1]
    for x1, y1, x2, y2 in clip(grown, (width, height)).round().astype(int):
        cells[y1:y2, x1:x2] = 1
    # Rims of cells and the gaps between them are no background.
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, [2 * round(min(height, width) * RIM) + 1] * 2)
    free = cv2.morphologyEx(1 - cv2.dilate(cells, brush), cv2.MORPH_OPEN, brush).astype(np.float32)
    if free.mean() < LEAST_BACKGROUND:
        return None
    pixels, hidden = image.astype(np.float32), free == 0
    light = _spread(pixels, free, max(height, width) / 8)
    grain = (pixels - _spread(pixels, free, GRAIN))[~hidden]
    filled = image.copy()
    filled[hidden] = (light[hidden] + generator.choice(grain, int(hidden.sum()))).round().clip(0, 255)
    return filled


def _stained(image: np.ndarray) -> np.ndarray:
    """Stained pixels, (H, W) uint8 of 0 and 1: stain takes green light away, and Otsu tells where."""
    green = cv2.GaussianBlur(image[..., 1], (0, 0), GRAIN)
    return cv2.threshold(green, 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1]


def _spread(image: np.ndarray, free: np.ndarray, sigma: float) -> np.ndarray:
    """The Gaussian mean of the free pixels around each pixel, (H, W, 3); of all free ones where none is near."""
    step = max(int(sigma / 4), 1)  # a wide mean needs no fine pixels
    size = (-(-free.shape[1] // step), -(-free.shape[0] // step))
    weight, total = (
        cv2.GaussianBlur(cv2.resize(values, size, interpolation=cv2.INTER_AREA), (0, 0), sigma / step)
        for values in (free, image * free[..., None])
    )
    far = image[free > 0].mean(axis=0)
    mean = np.where(weight[..., None] > 1e-3, total / np.maximum(weight, 1e-3)[..., None], far)
    return cv2.resize(mean.astype(np.float32), free.shape[::-1])
