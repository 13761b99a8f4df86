"""From the HPA Cell Segmentator's two predictions to cells and nuclei: its published steps, quickly.

Areas and lengths are pixels of the full-size image; at `scale` they shrink with it. Numbers are probabilities.

1. Nuclei: seeds are the interior above .15 that is no border, from 500 px; the mask is the interior above .4, its holes
   below 1000 px filled, specks below 8 px gone; the seeds share the mask out by a watershed with lines; nuclei from
   2500 px stay.
2. Cells: the nuclei grow over the cell interior above max(.22, Otsu / 2), brightest first; cells from 5500 px stay.
3. Closing with a disk of 6 px; boundary pixels cut; holes filled; the pieces numbered anew.
4. The cells grow again, into the border above .05 too; cut, filled and numbered as in 3; cells from 5500 px stay.
5. Nuclei take their cell's id; nuclei outside the cells, and pieces below 2500 px, go.

Where the published program does not do what it seems to say, this one does what gave the published masks, or is right:

- Nuclei border + cell border wrapped at 256 in 8 bits, so that two sure borders made none: here the sum is a sum.
- Seeds were to exclude a sum above .05; `1 - sum > .05` excludes a sum of .95 and more. The published masks come from
  .95, the default `seed_border`; .05 can be given.
- Step 2 was to exclude the border (> .05); an 8-bit inversion makes it exclude nothing. The published masks come from
  excluding nothing, the default; `exclude_border` does what was meant.
- The interior was to be clipped below at the threshold; the clipping's upper limit undoes it. Not clipped here either.
- Labels from 256 on wrapped at step 3; images that are not square broke. Both are right here.
"""

from typing import NamedTuple

import cv2
import numpy as np

from cells.flooding import flood, split
from cells.regions import fill_holes, find_regions, interiors, keep_regions, label_areas, number, paint

SEED, MASK, CELL, BORDER = 0.15, 0.4, 0.22, 0.05
SEED_AREA, HOLE_AREA, SPECK_AREA, NUCLEUS_AREA, CELL_AREA, CLOSING = 500, 1000, 8, 2500, 5500, 6
LEVELS = np.arange(256) / 255


class Rules(NamedTuple):
    """What the published program leaves open (see above). scale: side of the predictions / side of the image."""

    scale: float = 1
    seed_border: float = 0.95
    exclude_border: bool = False


PUBLISHED = Rules()


class Prediction(NamedTuple):
    """What the networks say of an image, at a quarter of its size: uint8 (h, w, 2), border and interior, 255 = 1."""

    nuclei: np.ndarray
    cells: np.ndarray


def label_image(image: np.ndarray, prediction: Prediction, rules: Rules = PUBLISHED) -> tuple[np.ndarray, np.ndarray]:
    """Cells and nuclei of an image (H, W, 4) from its prediction: two label images, int32 (H, W), of the full size.

    The prediction is brought to `rules.scale` of the image's size and labelled there (see `label_cells`); pixels are
    repeated both then, as published, and to enlarge the labels.
    """
    height, width = image.shape[:2]
    size = max(1, round(width * rules.scale)), max(1, round(height * rules.scale))
    labels = label_cells(*(cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in prediction), rules)
    if size == (width, height):
        return labels
    return tuple(cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST) for plane in labels)


def label_cells(nuclei: np.ndarray, cells: np.ndarray, rules: Rules = PUBLISHED) -> tuple[np.ndarray, np.ndarray]:
    """Cells and their nuclei of one image: two label images, int32 (H, W), ids from 1 without gaps, 0 = background.

    nuclei, cells: the networks' probabilities of border and interior, uint8 (H, W, 2), 255 = 1, any H and W.
    A nucleus carries its cell's id; a cell can have several nuclei or, rarely, none.
    """
    area = rules.scale**2
    border, interior = (np.ascontiguousarray(cells[..., channel]) for channel in (0, 1))
    nucleus_labels = label_nuclei(nuclei, border, rules)
    region = _above(interior, cell_threshold(interior))
    if rules.exclude_border:
        region &= ~_above(border, BORDER)
    labels = flood(interior, nucleus_labels, region)
    labels = _close(_drop_small(labels, CELL_AREA * area), CLOSING * rules.scale)
    labels = _pieces(labels)
    labels = flood(interior, labels, (labels > 0) | _above(border, BORDER))
    pieces = find_regions(fill_holes(interiors(labels)), diagonal=True)
    labels = keep_regions(pieces, pieces.areas >= CELL_AREA * area, labels.shape)
    return labels, _nuclei_of_cells(labels, nucleus_labels, area)


def label_nuclei(nuclei: np.ndarray, cell_border: np.ndarray, rules: Rules = PUBLISHED) -> np.ndarray:
    """Step 1: the nuclei as a label image, int32 (H, W). nuclei: uint8 (H, W, 2); cell_border: uint8 (H, W)."""
    area = rules.scale**2
    interior = np.ascontiguousarray(nuclei[..., 1])
    border = cv2.add(np.ascontiguousarray(nuclei[..., 0]), cell_border)  # stops at 255
    seeds = find_regions((_above(interior, SEED) & ~_from(border, rules.seed_border)).view(np.uint8))
    seeds = keep_regions(seeds, seeds.areas >= SEED_AREA * area, interior.shape)
    mask = find_regions(fill_holes(_above(interior, MASK).view(np.uint8), below=HOLE_AREA * area))
    specks = mask.areas < SPECK_AREA * area
    labels = split(mask._replace(region=np.where(specks[mask.region], 0, mask.region)), seeds)
    large = label_areas(labels) >= NUCLEUS_AREA * area
    pieces = find_regions(labels, diagonal=True)  # one seed can reach into several parts of the mask
    keep = np.zeros(len(pieces.areas), bool)
    keep[pieces.region] = large[labels[pieces.row, pieces.start]]
    return keep_regions(pieces, keep, labels.shape)


def cell_threshold(interior: np.ndarray) -> float:
    """The probability above which a pixel is cell: half of Otsu's threshold, at least .22. interior: uint8."""
    counts = cv2.calcHist([interior], [0], None, [256], [0, 256]).ravel()
    return max(CELL, 0.5 * otsu(LEVELS, counts))


def otsu(values: np.ndarray, counts: np.ndarray) -> float:
    """Otsu's threshold of `values` that occur `counts` times, from a histogram of 256 bins between the extremes."""
    values, counts = values[counts > 0], counts[counts > 0]
    if len(values) < 2:
        return 0.0
    counts, edges = np.histogram(values, 256, weights=counts)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[-2::-1]
    mean_below = np.cumsum(counts * centres)[:-1] / below
    mean_above = np.cumsum((counts * centres)[::-1])[-2::-1] / above
    return float(centres[np.argmax(below * above * (mean_below - mean_above) ** 2)])


def _above(plane: np.ndarray, probability: float) -> np.ndarray:
    """plane / 255 > probability, as bool; uint8 levels are compared by table, so that rounding is numpy's."""
    return plane >= _first_level(probability < LEVELS)


def _from(plane: np.ndarray, probability: float) -> np.ndarray:
    return plane >= _first_level(probability <= LEVELS)


def _first_level(passes: np.ndarray) -> int:
    return int(np.argmax(passes)) if passes.any() else 256


def _drop_small(labels: np.ndarray, below: float) -> np.ndarray:
    """`labels` without those smaller than `below` pixels, as the narrowest kind of number that OpenCV can close."""
    keep = label_areas(labels) >= below
    keep[0] = False
    kind = np.uint8 if len(keep) <= 1 << 8 else np.uint16 if len(keep) <= 1 << 16 else np.float32
    return np.where(keep, np.arange(len(keep)), 0).astype(kind)[labels]


def _close(labels: np.ndarray, radius: float) -> np.ndarray:
    steps = np.arange(-int(radius), int(radius) + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)
    return cv2.morphologyEx(labels, cv2.MORPH_CLOSE, disk)


def _pieces(labels: np.ndarray) -> np.ndarray:
    pieces = find_regions(fill_holes(interiors(labels)))
    return keep_regions(pieces, pieces.areas > 0, labels.shape)


def _nuclei_of_cells(cells: np.ndarray, nuclei: np.ndarray, area: float) -> np.ndarray:
    inside = find_regions(((cells > 0) & (nuclei > 0)).view(np.uint8), diagonal=True)
    keep = number(inside.areas >= NUCLEUS_AREA * area) > 0
    return cells * paint(inside, keep.view(np.uint8), np.zeros(cells.shape, np.uint8))
