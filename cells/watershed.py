"""The finder `watershed`: cells and nuclei of an RGBY image, without trained weights.

The image is reduced until a nucleus is `WIDTH` pixels wide, whatever its size, objective or camera; there nuclei are
found in blue (cells.watershed_nuclei) and grown over red, yellow and blue (cells.watershed_cytoplasm); the labels are
brought back to the original size with smooth outlines. docs/watershed.md tells why, and how well it does.
"""

import cv2
import numpy as np
from scipy import ndimage

from cells.regions import number
from cells.watershed_cytoplasm import grow_cells
from cells.watershed_nuclei import WIDTH, blur, find_nuclei, grow, nuclear_width, unmix

LOOK = 512  # longer side of the image in which the nuclei's width is measured, pixels
WORK = 256, 640  # shortest and longest longer side of the working image

# The HPA segmentator drops smaller ones, pixels of the original image, at the sizes that the HPA publishes.
NUCLEUS_AREA, CELL_AREA, PUBLISHED = 2500, 5500, 1500
# Small nuclei and reduced images: never more than this part of the typical nucleus' area; of a cell, twice as much.
NUCLEUS_PART, REDUCED_PART = 0.35, 0.1


def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells of an image (H, W, 4) RGBY, uint8 or uint16, and their nuclei: two label images, int32 (H, W).

    Ids count from 1 without gaps; a nucleus carries its cell's id, every cell has a nucleus; 0 is background.
    """
    shape = image.shape[:2]
    work = working_image(image)
    nuclei = find_nuclei(work[..., 2])
    areas = np.bincount(nuclei.ravel())
    areas[0] = 0
    scale = nuclei.size / (shape[0] * shape[1])
    smallest = _smallest(areas, shape, scale)
    nuclei = number(areas >= smallest)[nuclei]
    if not nuclei.any():
        return np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    cells = grow_cells(work, nuclei)
    cells = np.where((np.bincount(cells.ravel()) >= CELL_AREA / NUCLEUS_AREA * smallest)[cells], cells, 0)
    return _matched(enlarge(cells, shape), enlarge(nuclei, shape))


def working_image(image: np.ndarray) -> np.ndarray:
    """RGBY, float32 (h, w, 4) in 0..255, at the size at which nuclei are `WIDTH` wide, as far as `WORK` allows."""
    longer = max(image.shape[:2])
    look = reduce(image, LOOK / longer)
    width = nuclear_width(unmix(look))
    side = float(np.clip(LOOK * WIDTH / width, *WORK)) if width else LOOK
    work = reduce(image, side / longer)
    work[..., 2] = unmix(work)
    return work


def reduce(image: np.ndarray, factor: float) -> np.ndarray:
    """The image (H, W, C), uint8 or uint16, at `factor` of its size, float32 in 0..255."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    values = image.astype(np.float32)
    if image.dtype == np.uint16:
        values /= 257
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def _smallest(areas: np.ndarray, shape: tuple[int, int], scale: float) -> float:
    """The smallest nucleus that counts, pixels of the working image. scale: its area / area of the original."""
    likely = areas[areas >= 0.15 * WIDTH**2]
    typical = float(np.median(likely)) if len(likely) else WIDTH**2
    return min(NUCLEUS_AREA * scale, (NUCLEUS_PART if min(shape) >= PUBLISHED else REDUCED_PART) * typical)


def enlarge(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A label image at another size (H, W), its outlines smooth: each pixel to the label that weighs most there."""
    high, wide = shape[0] / labels.shape[0], shape[1] / labels.shape[1]
    large = np.zeros(shape, np.int32)
    best = cv2.resize(blur((labels == 0).astype(np.float32), 1), shape[::-1], interpolation=cv2.INTER_LINEAR)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        rows, columns = grow(box, 3)
        weight = blur((labels[rows, columns] == label).astype(np.float32), 1)
        top, left = round(rows.start * high), round(columns.start * wide)
        bottom = round(min(rows.stop, labels.shape[0]) * high)
        right = round(min(columns.stop, labels.shape[1]) * wide)
        weight = cv2.resize(weight, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        part = np.s_[top:bottom, left:right]
        better = weight > best[part]
        best[part][better] = weight[better]
        large[part][better] = label
    return large


def _matched(cells: np.ndarray, nuclei: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nuclei only inside their own cells, only cells with a nucleus, both numbered alike without gaps."""
    nuclei = np.where(nuclei == cells, nuclei, 0)
    keep = np.bincount(nuclei.ravel(), minlength=int(cells.max()) + 1) > 0
    keep[0] = False
    ids = number(keep)
    return ids[cells], ids[nuclei]
