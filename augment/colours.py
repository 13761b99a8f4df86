"""Random changes of an image's values, (H, W, C) uint8 in and out. Blur, noise, brightness and contrast take any number
of channels; hue, saturation and CLAHE need the three of a colour picture and leave other images as they are.
"""

import cv2
import numpy as np


def blur(image: np.ndarray, generator: np.random.Generator, most: float = 1.5) -> np.ndarray:
    """Gaussian blur, sigma up to `most` pixels."""
    return cv2.GaussianBlur(image, (0, 0), generator.uniform(0.3, most)).reshape(image.shape)


def noise(image: np.ndarray, generator: np.random.Generator, most: float = 12.0) -> np.ndarray:
    """Gaussian noise, sigma up to `most` of 255."""
    grain = generator.standard_normal(image.shape, np.float32) * np.float32(generator.uniform(0, most))
    return (image + grain).round().clip(0, 255).astype(np.uint8)


def brightness_contrast(image: np.ndarray, generator: np.random.Generator, most: float = 0.2) -> np.ndarray:
    """Brightness and contrast (about the middle grey) by up to a part of the range."""
    brightness, contrast = generator.uniform(-most, most, 2)
    values = (np.arange(256) - 127.5) * (1 + contrast) + 127.5 * (1 + brightness)
    return values.round().clip(0, 255).astype(np.uint8)[image]


def hue_saturation(
    image: np.ndarray, generator: np.random.Generator, hue: float = 10, saturation: float = 30, value: float = 0
) -> np.ndarray:
    """Hue, saturation and value shifted by up to these of 180, 255 and 255; images of 3 channels (RGB) only."""
    if image.shape[2] != 3:
        return image
    shift = generator.uniform(-1, 1, 3) * (hue, saturation, value)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV) + shift.round().astype(np.int16)
    hsv[..., 0] %= 180
    return cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)


def clahe(image: np.ndarray, generator: np.random.Generator, most: float = 4.0) -> np.ndarray:
    """Contrast-limited histogram equalisation of the lightness (LAB), limit 1 to `most`; 3 channels (RGB) only."""
    if image.shape[2] != 3:
        return image
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(generator.uniform(1, most), (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
