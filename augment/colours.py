"""Random changes of an image's values, (H, W, C) uint8 in and out. Blur, noise, brightness, contrast, gamma, grey and
inversion take any number of channels; hue, saturation, stain and CLAHE need the three of a colour picture and leave
other images as they are.
"""

import cv2
import numpy as np

# light of each colour that haematoxylin, eosin and DAB take away (Ruifrok and Johnston 2001), rows of unit length
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)
DENSITIES = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)  # of each grey value


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


def gamma(image: np.ndarray, generator: np.random.Generator, most: float = 1.5) -> np.ndarray:
    """Dark values brighter or darker: to the power of 1 / most to most."""
    power = most ** generator.uniform(-1, 1)
    return (255 * np.linspace(0, 1, 256) ** power).round().astype(np.uint8)[image]


def inverted(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Dark for bright: a stained picture for a fluorescent one."""
    return 255 - image


def grey(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The mean of the channels in each of them."""
    mean = image.mean(axis=2, keepdims=True).round().astype(np.uint8)
    return np.repeat(mean, image.shape[2], axis=2)


def hue_saturation(
    image: np.ndarray, generator: np.random.Generator, hue: float = 8, saturation: float = 0.25
) -> np.ndarray:
    """Hue turned by up to `hue` of 180, saturation by up to a part of itself, so greys stay grey; RGB images only."""
    turn, gain = generator.uniform(-1, 1, 2) * (hue, saturation)
    return in_hsv(image, np.array([turn, 0, 0]), np.array([1, 1 + gain, 1]))


def stain(image: np.ndarray, generator: np.random.Generator, most: float = 0.2) -> np.ndarray:
    """The amounts of haematoxylin, eosin and DAB of an RGB picture each times 1 - most to 1 + most, as from another
    laboratory (Tellez et al. 2018). Pictures without any colour are not stained and stay as they are.
    """
    if image.shape[2] != 3 or not np.ptp(image, axis=2).any():
        return image
    gains = 1 + generator.uniform(-most, most, 3)
    change = np.linalg.inv(STAINS) @ (gains[:, None] * STAINS)  # of the density of each colour
    density = DENSITIES[image].reshape(-1, 3) @ change.astype(np.float32)
    light = cv2.exp(density * np.float32(-1)) * 256 - 1
    return light.round().clip(0, 255).astype(np.uint8).reshape(image.shape)


def shift_hsv(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """YOLOX's: hue, saturation and value shifted by up to 5, 30 and 30, each with even odds; RGB images only."""
    shift = generator.uniform(-1, 1, 3) * (5, 30, 30) * generator.integers(2, size=3)
    return in_hsv(image, shift, np.ones(3))


def in_hsv(image: np.ndarray, shift: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """An RGB image with gain x value + shift in OpenCV's hue (of 180), saturation and value; others unchanged."""
    if image.shape[2] != 3:
        return image
    values = (np.arange(256)[:, None] * gain + shift).round()
    table = np.column_stack([values[:, 0] % 180, values[:, 1:].clip(0, 255)]).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table.reshape(256, 1, 3)), cv2.COLOR_HSV2RGB)


def clahe(image: np.ndarray, generator: np.random.Generator, most: float = 4.0) -> np.ndarray:
    """Contrast-limited histogram equalisation of the lightness (LAB), limit 1 to `most`; 3 channels (RGB) only."""
    if image.shape[2] != 3:
        return image
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(generator.uniform(1, most), (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
