"""From microscope channels to colours: stretch each channel's contrast, mix them, bring pictures to a size."""

from collections.abc import Sequence

import cv2
import numpy as np

# How much of a channel goes into red, green and blue. Yellow is half as bright as its name, and blue a little lighter,
# so that the protein (green) stays visible where it lies on the endoplasmic reticulum or in the nucleus.
MIX = np.array([[0.80, 0.00, 0.00], [0.00, 1.00, 0.00], [0.10, 0.25, 1.00], [0.40, 0.32, 0.00]], np.float32)
PERCENTILES = 0.5, 99.8  # black and white of a channel
LEAST = 0.06  # of the full scale: a channel that varies less is noise and is not stretched further
PROTEIN = 1  # the channel that is also shown alone
SAMPLE = 1 << 18  # pixels that are enough to find percentiles


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """`image` (height, width, ...) with its longer side brought to `size`, by area where it shrinks."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    shape = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def shrink_mask(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A boolean mask at another (height, width): pixels of which at least half is covered."""
    return cv2.resize(mask.astype(np.uint8) * 255, (shape[1], shape[0]), interpolation=cv2.INTER_AREA) > 127


def stretch(image: np.ndarray, masked: bool = False) -> np.ndarray:
    """Each channel of `image` (height, width, channels), uint8 or uint16, as float32 in 0..1, black to white.

    Black and white are the channel's percentiles. masked: the image is a cell cut out, zero around it; then zero is
    black and white is found within the cell.
    """
    full = np.float32(np.iinfo(image.dtype).max)
    pixels = image.reshape(-1, image.shape[2])
    if masked:
        pixels = pixels[pixels.any(axis=1)]
    if not len(pixels):
        return np.zeros(image.shape, np.float32)
    pixels = pixels[:: max(len(pixels) // SAMPLE, 1)] / full
    black, white = np.percentile(pixels, PERCENTILES, axis=0).astype(np.float32)
    if masked:
        black = np.zeros_like(white)
    return np.clip((image / full - black) / np.maximum(white - black, LEAST), 0, 1).astype(np.float32)


def composite(channels: np.ndarray) -> np.ndarray:
    """Stretched channels (height, width, 4) RGBY in 0..1 as one picture, (height, width, 3) uint8."""
    return np.round(np.clip(channels @ MIX, 0, 1) * 255).astype(np.uint8)


def picture_of(image: np.ndarray, masked: bool = False) -> np.ndarray:
    """An image (height, width, C), uint8 or uint16, as one picture (height, width, 3) uint8: colours as they are, but
    made brighter where all of it is dark; four channels mixed. masked: as in `stretch`.
    """
    return brighten(image) if image.shape[2] == 3 else composite(stretch(image, masked))


def brighten(image: np.ndarray) -> np.ndarray:
    """Colours (height, width, 3), uint8 or uint16, scaled alike so that the brightest pixels are white: uint8."""
    full = np.iinfo(image.dtype).max
    values = image.reshape(-1)
    white = max(float(np.percentile(values[:: max(len(values) // SAMPLE, 1)], PERCENTILES[1])), LEAST * full)
    return np.round(np.minimum(image * np.float32(255 / white), 255)).astype(np.uint8)


def alone(channels: np.ndarray, channel: int) -> np.ndarray:
    """One stretched channel as a grey picture, (height, width, 3) uint8."""
    return np.repeat(np.round(channels[..., channel, None] * 255).astype(np.uint8), 3, axis=2)


def square(box: Sequence[int], margin: float) -> tuple[int, int, int]:
    """Left, top, side of the square about the middle of a box x1, y1, x2, y2, `margin` of its side larger each way."""
    x1, y1, x2, y2 = map(int, box)
    side = max(round(max(x2 - x1, y2 - y1) * (1 + 2 * margin)), 1)
    return (x1 + x2 - side) // 2, (y1 + y2 - side) // 2, side


def cut(image: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A part of an image (height, width, ...), zero where it reaches beyond the image."""
    out = np.zeros((height, width, *image.shape[2:]), image.dtype)
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, image.shape[1]), min(top + height, image.shape[0])
    if x1 < x2 and y1 < y2:
        out[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    return out
