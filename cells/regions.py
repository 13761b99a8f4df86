"""Connected regions, watersheds and small repairs of label images, compiled: the parts that labelling repeats.

Regions are found by runs (stretches of equal value in a row), so that measuring, dropping, filling and numbering cost
one look at the image. All arrays are (H, W); ids count from 1 in the order of the regions' first pixels.
"""

from typing import NamedTuple

import numpy as np
from numba import njit


class Regions(NamedTuple):
    """The regions of an image as runs: per run its row, first column, end column (exclusive) and region id."""

    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    region: np.ndarray
    areas: np.ndarray  # pixels of each region; [0] is 0
    inner: np.ndarray  # whether the region keeps away from the image's edge; [0] is False


def find_regions(values: np.ndarray, diagonal: bool = False) -> Regions:
    """Regions of equal, non-zero value, joined over edges, or over corners too when `diagonal`. values: integers.

    >>> find_regions(np.array([[1, 0], [0, 1], [2, 1]], np.uint8)).areas
    array([0, 1, 2, 1])
    """
    return Regions(*_find_regions(np.ascontiguousarray(values), diagonal))


def number(keep: np.ndarray) -> np.ndarray:
    """New ids, int32, for the regions with keep[id]: 1, 2, ... in order; 0 for the others."""
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)


def paint(regions: Regions, ids: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Write ids[region] into the pixels of each region whose ids[region] is not 0; gives back `onto`."""
    _paint(regions.row, regions.start, regions.stop, regions.region, ids, onto)
    return onto


def keep_regions(regions: Regions, keep: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A label image, int32, of the regions with keep[id], numbered anew."""
    return paint(regions, number(keep), np.zeros(shape, np.int32))


def fill_holes(mask: np.ndarray, below: float | None = None) -> np.ndarray:
    """Fill, in place, holes of a uint8 mask: background regions smaller than `below` pixels (at the image's edge too),
    or without `below` those of any size that keep away from the edge."""
    holes = find_regions((mask == 0).view(np.uint8))
    which = holes.inner if below is None else (holes.areas < below)
    which[0] = False
    return paint(holes, which.view(np.uint8), mask)


def label_areas(labels: np.ndarray) -> np.ndarray:
    """Pixels of each label 0..max of an integer image: what np.bincount gives."""
    return _label_areas(labels, int(labels.max(initial=0)))


@njit(cache=True)
def root(parent, node):
    """The representative of a node's set in a forest of parents, whose paths it halves; for compiled loops."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True)
def _join(parent, one, two):
    one, two = root(parent, one), root(parent, two)
    if one < two:
        parent[two] = one
    else:
        parent[one] = two


@njit(cache=True)
def _find_runs(values, row, start, stop, parent, diagonal):
    """Fill in the runs, give back their number; `parent` ends as a forest whose roots are the regions' first runs."""
    rows, columns = values.shape
    reach = 1 if diagonal else 0
    run, above, above_end = 0, 0, 0  # above..above_end: the runs of the row before
    for y in range(rows):
        row_begin = run
        x = 0
        while x < columns:
            value = values[y, x]
            if value == 0:
                x += 1
                continue
            row[run], start[run], parent[run] = y, x, run
            while x < columns and values[y, x] == value:
                x += 1
            stop[run] = x
            while above < above_end and stop[above] + reach <= start[run]:
                above += 1
            other = above
            while other < above_end and start[other] < x + reach:
                if values[y - 1, start[other]] == value:
                    _join(parent, run, other)
                other += 1
            run += 1
        above, above_end = row_begin, run
    return run


@njit(cache=True)
def _find_regions(values, diagonal):
    rows, columns = values.shape
    most = rows * columns  # memory that no run is written to is never really taken
    row, start, stop = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32)
    region = np.empty(most, np.int32)
    runs = _find_runs(values, row, start, stop, region, diagonal)
    row, start, stop, region = row[:runs].copy(), start[:runs].copy(), stop[:runs].copy(), region[:runs].copy()
    count = 0
    areas, inner = np.zeros(runs + 1, np.int64), np.ones(runs + 1, np.bool_)
    for run in range(runs):  # a root comes before the rest of its region, so its parent's entry is an id already
        if region[run] == run:
            count += 1
            region[run] = -count
        else:
            region[run] = region[region[run]]
    for run in range(runs):
        region[run] = -region[run]
        areas[region[run]] += stop[run] - start[run]
        if row[run] == 0 or row[run] == rows - 1 or start[run] == 0 or stop[run] == columns:
            inner[region[run]] = False
    inner[0] = False
    return row, start, stop, region, areas[: count + 1], inner[: count + 1]


@njit(cache=True)
def _paint(row, start, stop, region, ids, onto):
    for run in range(len(row)):
        value = ids[region[run]]
        if value != 0:
            for x in range(start[run], stop[run]):
                onto[row[run], x] = value


@njit(cache=True)
def _label_areas(labels, highest):
    areas = np.zeros(highest + 1, np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            areas[labels[y, x]] += 1
    return areas


@njit(cache=True)
def interiors(labels):
    """Mask, uint8, of the labelled pixels all of whose neighbours over an edge have the same label."""
    rows, columns = labels.shape
    mask = np.zeros((rows, columns), np.uint8)
    for y in range(rows):
        up, down = max(y - 1, 0), min(y + 1, rows - 1)
        for x in range(columns):
            own = labels[y, x]
            left, right = max(x - 1, 0), min(x + 1, columns - 1)
            same = (labels[up, x] == own) & (labels[down, x] == own) & (labels[y, left] == own)
            mask[y, x] = (own != 0) & same & (labels[y, right] == own)
    return mask
