"""The slow truth for `cells.segmentator_labels`, and made-up network outputs to try it on.

`oracle` is the published labelling, step by step with scikit-image and scipy, with the corrections that the fast
version documents. `predictions` draws what the two networks could say of a field of cells.
"""

import inspect
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, remove_small_holes, remove_small_objects
from skimage.segmentation import find_boundaries, watershed

NEW_SIZES = "max_size" in inspect.signature(remove_small_objects).parameters  # scikit-image renamed the arguments


def drop_objects(array: np.ndarray, area: float) -> np.ndarray:
    """Objects (labels, or components of a mask) below `area` pixels removed."""
    size = {"max_size": int(np.ceil(area)) - 1} if NEW_SIZES else {"min_size": int(np.ceil(area))}
    return remove_small_objects(array, **size) if array.any() else array


def drop_holes(mask: np.ndarray, area: float) -> np.ndarray:
    """Components of the background below `area` pixels filled."""
    size = {"max_size": int(np.ceil(area)) - 1} if NEW_SIZES else {"area_threshold": int(np.ceil(area))}
    return remove_small_holes(mask, **size)


def disk(radius: float) -> np.ndarray:
    """Pixels within `radius` of the centre; scikit-image's own for a whole radius."""
    steps = np.arange(-int(radius), int(radius) + 1)
    return (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)


def cut_and_fill(labels: np.ndarray) -> np.ndarray:
    """Cells without the pixels at their boundaries, holes filled, numbered anew."""
    return ndimage.label(ndimage.binary_fill_holes((labels > 0) & ~find_boundaries(labels)))[0]


def oracle_nuclei(nuclei: np.ndarray, cell_border: np.ndarray, seed_border: float, area: float) -> np.ndarray:
    interior = nuclei[..., 1] / 255
    border = (nuclei[..., 0].astype(int) + cell_border) / 255
    seeds = drop_objects((interior > 0.15) & (border < seed_border), 500 * area)
    mask = drop_objects(drop_holes(interior > 0.4, 1000 * area), 8 * area)
    labels = watershed(mask.astype(np.uint8), ndimage.label(seeds)[0], mask=mask, watershed_line=True)
    return label(drop_objects(labels, 2500 * area))


def oracle(
    nuclei: np.ndarray, cells: np.ndarray, scale: float = 1, seed_border: float = 0.95, exclude_border: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Cells and nuclei, int (H, W), of two predictions uint8 (H, W, 2): border, interior. See the fast version."""
    area = scale**2
    nucleus_labels = oracle_nuclei(nuclei, cells[..., 0], seed_border, area)
    border, interior = cells[..., 0] / 255 > 0.05, cells[..., 1] / 255
    threshold = max(0.22, 0.5 * threshold_otsu(interior)) if np.ptp(interior) else 0.22
    height = -cells[..., 1].astype(float)
    region = (interior > threshold) & ~(border & exclude_border)
    labels = drop_objects(watershed(height, nucleus_labels, mask=region), 5500 * area)
    labels = cut_and_fill(closing(labels.astype(np.int32), disk(6 * scale)))
    labels = cut_and_fill(watershed(height, labels, mask=(labels > 0) | border))
    labels = label(drop_objects(label(labels > 0), 5500 * area))
    inside = drop_objects(label((labels > 0) & (nucleus_labels > 0)), 2500 * area) > 0
    return labels, labels * inside


class Field(NamedTuple):
    """How a made-up field of cells looks; lengths in pixels of the networks' output (a quarter of the image's)."""

    cells: int = 30
    nucleus: float = 17
    reach: float = 55
    twins: float = 0.15  # share of cells with a second nucleus at the first
    waviness: float = 5


ORDINARY = Field()


def _smooth_noise(shape: tuple[int, int], sigma: float, random: np.random.Generator) -> np.ndarray:
    noise = cv2.GaussianBlur(random.normal(size=shape), (0, 0), sigma)
    return noise / max(noise.std(), 1e-9)


def _centres(shape: tuple[int, int], count: int, random: np.random.Generator) -> np.ndarray:
    """Points that keep their distance: each is the farthest of ten tries from those before it."""
    points = [random.random(2) * shape]
    for _ in range(count - 1):
        tries = random.random((10, 2)) * shape
        points.append(tries[cKDTree(points).query(tries)[0].argmax()])
    return np.array(points)


def _two_nearest(points: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    far = np.vstack([points, [[-1e6, -1e6]]])
    distances = cKDTree(far).query(grid.reshape(-1, 2), k=2)[0].reshape(*grid.shape[:2], 2)
    return distances[..., 0], distances[..., 1]


def _softmax(border: np.ndarray, interior: np.ndarray) -> np.ndarray:
    powers = np.exp(np.stack([np.zeros_like(border), border, interior], axis=-1))
    return np.rint(255 * powers[..., 1:] / powers.sum(-1, keepdims=True)).astype(np.uint8)


def predictions(
    shape: tuple[int, int], seed: int, field: Field = ORDINARY, smooth: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Nuclei's and cells' predictions of a field, uint8 (H, W, 2): border and interior, at full size.

    The networks answer at a quarter of the image's size; the published enlargement repeats pixels (`smooth` blends).
    """
    random = np.random.default_rng(seed)
    small = tuple(-(-side // 4) for side in shape)
    nuclei, cells = _draw(small, field, random)
    method = cv2.INTER_LINEAR if smooth else cv2.INTER_AREA
    return tuple(cv2.resize(plane, shape[::-1], interpolation=method) for plane in (nuclei, cells))


def _draw(shape: tuple[int, int], field: Field, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(float)
    bent = grid + field.waviness * np.dstack([_smooth_noise(shape, 12, random) for _ in range(2)])
    centres = _centres(shape, field.cells, random) if field.cells else np.zeros((0, 2))
    twins = centres[random.random(len(centres)) < field.twins]
    twins = twins + field.nucleus * random.uniform(1.2, 1.9) * _directions(len(twins), random)
    first, second = _two_nearest(np.vstack([centres, twins]), grid + (bent - grid) / 3)
    between, depth = (second - first) / 2, field.nucleus - first
    nuclei = _softmax(
        3.5 - np.abs(depth - np.clip(depth, -2, None)) - 1.5 * between + _smooth_noise(shape, 2, random) / 2,
        np.clip(2 * np.minimum(depth, 1.5 * between), -9, 6) + _smooth_noise(shape, 3, random) / 2,
    )
    first, second = _two_nearest(centres, bent)
    between, depth = (second - first) / 2, field.reach - first
    edge = np.minimum(between, depth)
    cells = _softmax(
        3 - 1.2 * np.abs(edge) + 1.5 * _smooth_noise(shape, 6, random),
        np.clip(0.8 * edge, -9, 5) + 0.7 * _smooth_noise(shape, 8, random),
    )
    return nuclei, cells


def _directions(count: int, random: np.random.Generator) -> np.ndarray:
    angles = random.uniform(0, 2 * np.pi, count)
    return np.column_stack([np.sin(angles), np.cos(angles)])


def matched_iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the truth's labels of the best IoU with a found label; when it has none: 1 if none is found, else 0."""
    counts = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(counts, (truth.ravel(), found.ravel()), 1)
    union = counts.sum(0) + counts.sum(1)[:, None] - counts
    best = (counts / np.maximum(union, 1))[1:, 1:].max(axis=1, initial=0)[counts[1:].sum(axis=1) > 0]
    return float(best.mean() if len(best) else not found.any())
