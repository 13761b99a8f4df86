"""The finder `watershed`: cells and nuclei of an RGBY image, without trained weights."""

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

WORK_SIZE = 512  # longer side of the reduced image, pixels


def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells of an image (H, W, 4) RGBY, uint8 or uint16, and their nuclei: two label images, int32 (H, W).

    Ids count from 1 without gaps; a nucleus carries its cell's id, every cell has a nucleus, 0 is background.
    """
    reduced = _reduce(image)
    nuclei = _find_nuclei(reduced[..., 2])
    if not nuclei.any():
        return np.zeros(image.shape[:2], np.int32), np.zeros(image.shape[:2], np.int32)
    light = reduced[..., 0] + reduced[..., 3] + reduced[..., 2]
    cells = watershed(-_blur(light, 2), nuclei, mask=(_blur(light, 1.5) > 7) | (nuclei > 0))
    return _enlarge(cells, image.shape[:2]), _enlarge(np.where(cells == nuclei, nuclei, 0), image.shape[:2])


def _reduce(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = WORK_SIZE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return reduced / 257 if image.dtype == np.uint16 else reduced


def _blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def _find_nuclei(blue: np.ndarray) -> np.ndarray:
    smooth, smoother = _blur(blue, 1.5), _blur(blue, 3)
    if smooth.max() - smooth.min() < 1:
        return np.zeros(blue.shape, np.int32)
    mask = smooth > 0.35 * threshold_otsu(smooth)
    seeds = ndimage.label(h_maxima(np.log1p(smoother), 0.15) * mask > 0)[0]
    basins = watershed(-smoother, seeds, mask=mask)
    level = np.array([0.0] + [np.percentile(smooth[basins == k], 75) for k in range(1, basins.max() + 1)])
    mask = (smooth > 0.45 * level[basins]) & (basins > 0)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(ndimage.binary_opening(mask)))
    keep = np.bincount(labels.ravel()) >= 150
    keep[0] = False
    return ndimage.label(keep[labels])[0]


def _enlarge(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(labels.astype(np.float32), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
