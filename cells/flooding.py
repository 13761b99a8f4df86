"""Marker-based watersheds in linear time, compiled.

`flood` gives what `skimage.segmentation.watershed(-height, markers, mask=region)` does on 8-bit heights, `split` what
it does on a flat image with `watershed_line=True` (from version 0.25 on; before, a flood that had come over a saddle
filled the whole basin behind it at once). Instead of a heap they use one queue a level (split: one in all).
"""

import numpy as np
from numba import njit

from cells.regions import Regions


def flood(height: np.ndarray, markers: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Grow the markers over `region`, from the highest level down: labels, int32 (H, W).

    height: uint8; markers: int32, 0 = none, those outside the region do not count; region: mask (bool or uint8).
    Pixels join over edges; on a plateau the markers advance by one pixel in turn (first come, first served).
    """
    return _flood(height, markers, region)


def split(mask: Regions, markers: np.ndarray) -> np.ndarray:
    """Share out each region of `mask` among its markers, which advance in turn, with a line of 0 where they meet.

    markers: int32 (H, W), 0 = none. Regions without a marker, and runs of region 0, are left out.
    Gives labels, int32 (H, W).
    """
    labels = np.zeros(markers.shape, np.int32)
    regions = mask.row, mask.start, mask.stop, mask.region
    owner = _only_marker(*regions, markers, len(mask.areas))
    owner[0] = 0
    _fill(*regions, owner, labels)
    if (owner < 0).any():
        _split_flat(*regions, owner, markers, labels, int(mask.areas[owner < 0].sum()))
    return labels


@njit(cache=True)
def _flood(height, markers, region):
    rows, columns = region.shape
    width = columns + 2
    # Per pixel of the padded image: > 0 its label, 0 outside the region, < 0 not reached yet: -1 - its height.
    state = np.zeros((rows + 2) * width, np.int32)
    first = np.zeros(257, np.int64)  # where each level's part of `waiting` begins
    for y in range(rows):
        for x in range(columns):
            if region[y, x]:
                level = np.int32(height[y, x])
                state[(y + 1) * width + x + 1] = markers[y, x] if markers[y, x] > 0 else -1 - level
                first[level + 1] += 1
    first = np.cumsum(first)
    last = first[:256].copy()
    waiting, queue = np.empty(first[256], np.int32), np.empty(first[256], np.int32)
    _seed(height, state, waiting, last, width)
    _spread(state, waiting, first, last, queue, width)
    labels = np.empty((rows, columns), np.int32)
    for y in range(rows):
        for x in range(columns):
            labels[y, x] = max(state[(y + 1) * width + x + 1], 0)
    return labels


@njit(cache=True)
def _seed(height, state, waiting, last, width):
    """Queue the markers' pixels that have somewhere to go."""
    for y in range(height.shape[0]):
        for x in range(height.shape[1]):
            at = (y + 1) * width + x + 1
            if state[at] > 0 and min(state[at - width], state[at - 1], state[at + 1], state[at + width]) < 0:
                level = height[y, x]
                waiting[last[level]] = at
                last[level] += 1


@njit(cache=True)
def _spread(state, waiting, first, last, queue, width):
    head, tail = 0, 0
    for level in range(255, -1, -1):
        for place in range(first[level], last[level]):
            queue[tail] = waiting[place]
            tail += 1
        while head < tail:
            at = queue[head]
            head += 1
            own = state[at]
            for step in (-width, -1, 1, width):
                beside = at + step
                found = state[beside]
                if found < 0:
                    state[beside] = own
                    its_level = -1 - found
                    if its_level >= level:  # never lower than the way that led here
                        queue[tail] = beside
                        tail += 1
                    else:
                        waiting[last[its_level]] = beside
                        last[its_level] += 1


@njit(cache=True)
def _only_marker(row, start, stop, region, markers, count):
    """Per region: 0 without a marker, the marker's id when there is one, -1 when there are several."""
    owner = np.zeros(count, np.int32)
    for run in range(len(row)):
        for x in range(start[run], stop[run]):
            marker = markers[row[run], x]
            if marker != 0 and owner[region[run]] != marker:
                owner[region[run]] = marker if owner[region[run]] == 0 else -1
    return owner


@njit(cache=True)
def _fill(row, start, stop, region, owner, labels):
    for run in range(len(row)):
        if owner[region[run]] > 0:
            labels[row[run], start[run] : stop[run]] = owner[region[run]]


@njit(cache=True)
def _split_flat(row, start, stop, region, owner, markers, labels, pixels):
    """Breadth-first growth in the regions with owner -1; a pixel between two labels becomes a line."""
    rows, columns = labels.shape
    queue = np.empty(5 * pixels, np.int32)  # a pixel is queued once by itself or by each of its neighbours
    source = np.empty(5 * pixels, np.int32)
    head, tail = 0, 0
    for run in range(len(row)):
        if owner[region[run]] == -1:
            for x in range(start[run], stop[run]):
                labels[row[run], x] = markers[row[run], x] if markers[row[run], x] else -1
                if markers[row[run], x]:
                    queue[tail], source[tail] = row[run] * columns + x, 0
                    tail += 1
    while head < tail:
        at, label = queue[head], source[head]
        y, x = at // columns, at % columns
        head += 1
        if label:
            if labels[y, x] != -1:
                continue
            labels[y, x] = 0 if _meets_other(labels, y, x, label) else label
        label = labels[y, x]
        if label == 0:
            continue
        for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            if 0 <= y + dy < rows and 0 <= x + dx < columns and labels[y + dy, x + dx] == -1:
                queue[tail], source[tail] = at + dy * columns + dx, label
                tail += 1
    for run in range(len(row)):
        if owner[region[run]] == -1:
            for x in range(start[run], stop[run]):
                labels[row[run], x] = max(labels[row[run], x], 0)


@njit(cache=True)
def _meets_other(labels, y, x, label):
    rows, columns = labels.shape
    for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        if 0 <= y + dy < rows and 0 <= x + dx < columns:
            other = labels[y + dy, x + dx]
            if other > 0 and other != label:
                return True
    return False
