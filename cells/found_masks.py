"""Masks that a network gives on its boxes, such as 28 x 28 numbers, brought to the pixels of an image."""

from collections.abc import Sequence

import cv2
import numpy as np

from cells.masks import decode_mask
from cells.overlaps import Cut


def frames_of(boxes: np.ndarray) -> np.ndarray:
    """What the masks of a network cover, (n, 4) as its boxes, in pixels that the network sees.

    Half a pixel right of and below their boxes: Mask R-CNN's masks are learned from samples at whole pixels' corners
    (roi_align without half a pixel's shift). To be turned and scaled as the boxes are.
    """
    return boxes + np.float32(0.5)


def cut_from_box(mask: np.ndarray, box: Sequence[float], frame: Sequence[float], shape: tuple[int, int]) -> Cut:
    """The probabilities (h, w) of the pixels that a box x1, y1, x2, y2 covers in an image of `shape` (height, width),
    and the corner (x, y) of the first; from `mask` (m, m), which covers `frame`, see `frames_of`. Beyond its first and
    last numbers these go on.
    """
    height, width = shape
    (x1, y1, x2, y2), (rows, columns) = map(float, box), mask.shape
    left, right = max(round(x1), 0), min(max(round(x2), round(x1) + 1), width)
    top, bottom = max(round(y1), 0), min(max(round(y2), round(y1) + 1), height)
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.float32), (left, top)
    x1, y1, x2, y2 = map(float, frame)
    x_step, y_step = columns / max(x2 - x1, 1e-3), rows / max(y2 - y1, 1e-3)
    matrix = np.array([[x_step, 0, (left + 0.5 - x1) * x_step - 0.5], [0, y_step, (top + 0.5 - y1) * y_step - 0.5]])
    pixels = cv2.warpAffine(
        np.ascontiguousarray(mask, np.float32), matrix, (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return pixels, (left, top)


def stack_layers(texts: Sequence[str], height: int, width: int) -> list[np.ndarray]:
    """The masks of an image as label images, int32, mask i with the label i + 1 and whole in the first image where it
    covers no other: masks that do not overlap make one image.
    """
    layers = [np.zeros((height, width), np.int32)]
    for label, text in enumerate(texts, start=1):
        mask = decode_mask(text, height, width)
        free = next((layer for layer in layers if not layer[mask].any()), None)
        if free is None:
            free = np.zeros((height, width), np.int32)
            layers.append(free)
        free[mask] = label
    return layers
