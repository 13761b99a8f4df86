"""Random flips, transpose and crop: the augmentation of the 12th-place HPA system, in training and at test time."""

from collections.abc import Callable

import numpy as np

from cells.crops import resize

Resize = Callable[[np.ndarray, int], np.ndarray]  # another one than `resize` for label images


def whole(
    image: np.ndarray, crop_size: int, generator: np.random.Generator | None = None, resize: Resize = resize
) -> np.ndarray:
    """The whole image, resized to crop_size x crop_size."""
    return resize(image, crop_size)


def random_crop(
    image: np.ndarray, crop_size: int, generator: np.random.Generator, resize: Resize = resize
) -> np.ndarray:
    """A random square of side crop_size to the image's shorter side, at a random place, resized to crop_size."""
    height, width = image.shape[:2]
    side = int(generator.integers(min(crop_size, height, width), min(height, width) + 1))
    top = int(generator.integers(height - side + 1))
    left = int(generator.integers(width - side + 1))
    return resize(image[top : top + side, left : left + side], crop_size)


def dihedral_crop(
    image: np.ndarray, crop_size: int, generator: np.random.Generator, resize: Resize = resize
) -> np.ndarray:
    """A random crop (see `random_crop`), flipped up-down, left-right and transposed, each with even odds."""
    image = random_crop(image, crop_size, generator, resize)
    flipud, fliplr, transpose = generator.integers(2, size=3)
    if flipud:
        image = image[::-1]
    if fliplr:
        image = image[:, ::-1]
    return np.ascontiguousarray(image.swapaxes(0, 1) if transpose else image)
