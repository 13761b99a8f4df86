"""Cut cells out of an image, and bring images to a size and a depth."""

import cv2
import numpy as np


def boxes(labels: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """The box of each cell of a label image (height, width): label -> x1, y1, x2, y2 in pixels, x2 and y2 exclusive."""
    from scipy.ndimage import find_objects  # a quarter of a second, which scripts that only resize need not wait

    slices = enumerate(find_objects(labels), start=1)
    return {label: (s[1].start, s[0].start, s[1].stop, s[0].stop) for label, s in slices if s is not None}


def cut_cell(image: np.ndarray, labels: np.ndarray, label: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A cell alone: `image` (height, width, channels) within `box`, zero outside the cell, padded to a square by zeros.

    The square's side is the box's longer side; the cell is in its middle, an odd pixel of padding right or below.
    """
    x1, y1, x2, y2 = box
    side = max(x2 - x1, y2 - y1)
    left, top = (side - (x2 - x1)) // 2, (side - (y2 - y1)) // 2
    crop = np.zeros((side, side, *image.shape[2:]), image.dtype)
    inside = labels[y1:y2, x1:x2] == label
    crop[top : top + y2 - y1, left : left + x2 - x1][inside] = image[y1:y2, x1:x2][inside]
    return crop


def cut_box(image: np.ndarray, box: tuple[float, float, float, float], margin: float = 0.0) -> np.ndarray:
    """The square about a box of an image (height, width, channels), zero outside the image.

    Its middle is the box's, its side the box's longer one and `margin` pixels on each side; at least one pixel.
    """
    x1, y1, x2, y2 = box
    side = max(round(max(x2 - x1, y2 - y1) + 2 * margin), 1)
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    crop = np.zeros((side, side, *image.shape[2:]), image.dtype)
    inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    height, width = inside.shape[:2]
    crop[max(-top, 0) : max(-top, 0) + height, max(-left, 0) : max(-left, 0) + width] = inside
    return crop


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """`image` (height, width, channels) stretched to size x size: by area where it shrinks, linearly where it grows."""
    height, width = image.shape[:2]
    if height > size or width > size:
        image = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    if height < size or width < size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return image


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An 8- or 16-bit array as 8 bits (test images are 16-bit, training images 8-bit: value = 257 x value)."""
    return image if image.dtype == np.uint8 else np.round(image / np.float32(257)).astype(np.uint8)


def stretched(image: np.ndarray, low: float = 1.0, high: float = 99.8) -> np.ndarray:
    """An image (height, width, channels) as 8 bits with the grey values between two percentiles stretched to 0..255.

    All channels share them, so that colours stay; an image of one grey value stays as it is. What StarDist and Cellpose
    do before their networks: exposures of one to ten look the same.
    """
    image = to_uint8(image)
    darkest, brightest = np.percentile(image, (low, high))
    if darkest == brightest:
        return image
    table = np.rint((np.arange(256) - darkest) * (255 / (brightest - darkest))).clip(0, 255)
    return table.astype(np.uint8)[image]


def narrow(image: np.ndarray) -> np.ndarray:
    """A 16-bit image that is an 8-bit one times 257 as that 8-bit image, so nothing is lost; any other as it is.

    The competition's test images are 16-bit files of 8-bit pictures; so stored they take half the space.
    """
    if image.dtype != np.uint16:
        return image
    low = image.astype(np.uint8)  # 257 v = 256 v + v: the low byte is v
    return low if np.array_equal(image, low * np.uint16(257)) else image
