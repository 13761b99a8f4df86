"""Changes to images with their class maps in training, which stay in step; harder ones from later epochs on.

Everything random comes from the generator that is passed. What a change brings in from beyond the image's borders is
mirrored, the map with it. Class maps are never interpolated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from augment.colours import blur, brightness_contrast, gamma, grey, hue_saturation, inverted, noise, stain
from augment.mixing import mixup
from augment.scenes import FILL, about_middle, by_fours, fitted, scaled, sometimes
from common.errors import UserError
from losses.segmentation import shares

Pair = tuple[np.ndarray, np.ndarray]  # image (H, W, C) uint8 and map (H, W) of classes or cells, uint8 or uint16
ZOOM = 0.6, 1.6  # how much smaller or larger than it is a window of an image is shown
SHAPES, COLOURS, BLURS = 6, 11, 16  # the first epochs, from 1, that distort, change colours, blur or add noise
MULTIPLE = 32


def placed(image: np.ndarray, labels: np.ndarray, canvas: tuple[int, int], background: int) -> Pair:
    """An image with its map, scaled to fit into the upper left corner of `canvas` (height, width); the rest is grey
    background.
    """
    size = fitted(*labels.shape, canvas)
    image_canvas = np.full((*canvas, image.shape[2]), FILL, np.uint8)
    image_canvas[: size[0], : size[1]] = scaled(image, size)
    map_canvas = np.full(canvas, background, labels.dtype)
    map_canvas[: size[0], : size[1]] = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return image_canvas, map_canvas


def multiple_of(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """The canvas that holds an image of `shape` (height, width) at a scale: multiples of 32.

    >>> multiple_of((360, 500), 0.5)
    (192, 256)
    """
    height, width = (-(-max(round(side * scale), 1) // MULTIPLE) * MULTIPLE for side in shape)
    return height, width


def window(
    image: np.ndarray, labels: np.ndarray, canvas: tuple[int, int], scale: float, background: int,
    generator: np.random.Generator,
) -> Pair:  # fmt: skip
    """A window of `canvas` (height, width) at a random place of an image with its map, shown at `scale` times ZOOM.

    What a small image leaves free is, with even odds, grey background or the image mirrored.
    """
    scale *= math.exp(generator.uniform(*np.log(ZOOM)))
    size = np.array([max(round(side * scale), 1) for side in labels.shape])
    spare = canvas - size
    place = generator.integers(np.minimum(spare, 0), np.maximum(spare, 0) + 1)
    image, labels = scaled_part(image, labels, size, np.maximum(-place, 0), np.minimum(canvas, size))
    free = [(max(int(at), 0), int(max(gap - at, 0))) for at, gap in zip(place, spare, strict=True)]
    if generator.random() < 0.5:
        return np.pad(image, (*free, (0, 0)), mode="reflect"), np.pad(labels, free, mode="reflect")
    return np.pad(image, (*free, (0, 0)), constant_values=FILL), np.pad(labels, free, constant_values=background)


def scaled_part(
    image: np.ndarray, labels: np.ndarray, size: np.ndarray, corner: np.ndarray, shape: np.ndarray
) -> Pair:
    """The part of `shape` (height, width) at `corner` (row, column) of an image with its map that are scaled to `size`,
    to about a pixel. Only what it shows is scaled: a large image at many times its size might not fit in memory.
    """
    zoom = size / labels.shape
    first = np.maximum(np.floor(corner / zoom).astype(int) - 1, 0)  # with the neighbours that its edge is mixed with
    last = np.minimum(np.ceil((corner + shape) / zoom).astype(int) + 1, labels.shape)
    rows, columns = (slice(*ends) for ends in zip(first, last, strict=True))
    height, width = np.maximum(((last - first) * zoom).round().astype(int), shape).tolist()
    image = scaled(image[rows, columns], (height, width))
    labels = cv2.resize(labels[rows, columns], (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = np.clip((corner - first * zoom).round().astype(int), 0, np.array([height, width]) - shape)
    return tuple(part[top : top + shape[0], left : left + shape[1]] for part in (image, labels))


def flips_and_turns(image: np.ndarray, labels: np.ndarray, generator: np.random.Generator) -> Pair:
    """Flips with even odds, and quarter turns if the image is square."""
    flipud, fliplr, transpose = (bool(coin) for coin in generator.integers(2, size=3))
    rows, columns = slice(None, None, -1 if flipud else 1), slice(None, None, -1 if fliplr else 1)
    image, labels = image[rows, columns], labels[rows, columns]
    if transpose and labels.shape[0] == labels.shape[1]:
        image, labels = image.swapaxes(0, 1), labels.T
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def bent(image: np.ndarray, labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> Pair:
    """The pixels at the places x, y (H, W) of an image and its map; whole numbers are pixels."""
    x, y = x.astype(np.float32), y.astype(np.float32)

    def bend(part: np.ndarray, method: int) -> np.ndarray:
        return cv2.remap(part, x, y, method, borderMode=cv2.BORDER_REFLECT_101)

    changed = by_fours(lambda part: bend(part, cv2.INTER_LINEAR).reshape(part.shape), image)
    return changed, bend(labels, cv2.INTER_NEAREST)


def grid_of(shape: tuple[int, int]) -> np.ndarray:
    """The coordinates x, y of each pixel: (2, H, W)."""
    return np.stack(np.meshgrid(np.arange(shape[1], dtype=np.float64), np.arange(shape[0], dtype=np.float64)))


def shift_scale_rotate(shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Where the pixels come from (2, H, W) when shifted by up to 1/16, scaled by 1 +- .1, turned by +- 45 degrees."""
    matrix = about_middle(
        shape, shape, generator.uniform(-45, 45), 1 + generator.uniform(-0.1, 0.1),
        generator.uniform(-1 / 16, 1 / 16, 2), np.zeros(2),
    )  # fmt: skip
    back = np.linalg.inv(matrix[:, :2])
    places = grid_of(shape) + 0.5 - matrix[:, 2, None, None]
    return np.einsum("ij,jhw->ihw", back, places) - 0.5


def grid_distortion(shape: tuple[int, int], generator: np.random.Generator, steps: int = 5) -> np.ndarray:
    """Where the pixels come from if the steps of a 5 x 5 grid become up to 30 % longer or shorter."""
    lines = []
    for length in shape[::-1]:
        strides = 1 + generator.uniform(-0.3, 0.3, steps)
        edges = np.append(0, np.cumsum(strides)) / strides.sum() * (length - 1)
        lines.append(np.interp(np.arange(length), np.linspace(0, length - 1, steps + 1), edges))
    return np.stack(np.meshgrid(*lines))


def elastic(shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Where the pixels come from under smooth random shifts, at most about 1/32 of the longer side (Simard 2003)."""
    side = max(shape)
    shifts = [cv2.GaussianBlur(field, (0, 0), side / 16) for field in generator.uniform(-1, 1, (2, *shape))]
    shifts = np.stack(shifts)
    return grid_of(shape) + shifts * (side / 32 / max(np.abs(shifts).max(), 1e-9))


def pannuke(image: np.ndarray, labels: np.ndarray, generator: np.random.Generator, epoch: int) -> Pair:
    """PanNuke's stages: flips and quarter turns; from epoch 6 on distortions, 11 colours, 16 blur or noise."""
    image, labels = flips_and_turns(image, labels, generator)
    if epoch >= SHAPES:
        for odds, changes in ((0.5, (shift_scale_rotate,)), (0.3, (grid_distortion, elastic))):
            if generator.random() < odds:
                change = changes[generator.integers(len(changes))]
                image, labels = bent(image, labels, *change(labels.shape, generator))
    if epoch >= COLOURS:
        image = sometimes(image, generator, 0.5, brightness_contrast)
        image = sometimes(image, generator, 0.3, hue_saturation)
    if epoch >= BLURS:
        image = sometimes(image, generator, 0.2, noise if generator.random() < 0.5 else blur)
    return image, labels


def pannuke_at_once(image: np.ndarray, labels: np.ndarray, generator: np.random.Generator, epoch: int) -> Pair:
    """All stages from the first epoch on, for short runs."""
    return pannuke(image, labels, generator, BLURS)


def nuclei(image: np.ndarray, labels: np.ndarray, generator: np.random.Generator, epoch: int) -> Pair:
    """For nuclei of any stain and microscope: flips, quarter turns, distortions; stain, brightness, gamma, hue, grey,
    dark for bright, noise or blur.
    """
    image, labels = flips_and_turns(image, labels, generator)
    for odds, change in ((0.3, shift_scale_rotate), (0.2, elastic)):
        if generator.random() < odds:
            image, labels = bent(image, labels, *change(labels.shape, generator))
    colours = (0.5, stain), (0.3, brightness_contrast), (0.3, gamma), (0.4, hue_saturation), (0.1, grey)
    for odds, change in (*colours, (0.05, inverted)):
        image = sometimes(image, generator, odds, change)
    return sometimes(image, generator, 0.25, noise if generator.random() < 0.5 else blur), labels


def nothing(image: np.ndarray, labels: np.ndarray, generator: np.random.Generator, epoch: int) -> Pair:
    """No change."""
    return image, labels


# name -> function(image (H, W, C) uint8, map (H, W), generator, epoch from 1) -> the same of the same shape
MAPS: dict[str, Callable[..., Pair]] = {
    "pannuke": pannuke, "pannuke_at_once": pannuke_at_once, "nuclei": nuclei, "none": nothing,
}  # fmt: skip


def canvas_in(epoch: int, epochs: int, first: int, canvas: tuple[int, int], ramp: float = 0.7) -> tuple[int, int]:
    """The (height, width) of an epoch's images: the longer side grows from `first` to that of `canvas` over `ramp` of
    the epochs, in multiples of 32; first = 0: always `canvas`.

    >>> [canvas_in(epoch, 10, 128, (256, 256))[0] for epoch in (1, 4, 8)]
    [128, 192, 256]
    """
    last = max(canvas)
    share = min((epoch - 1) / (ramp * epochs), 1.0) if first else 1.0
    part = (first + (last - first) * share) / last
    return tuple(max(round(side * part / MULTIPLE), 1) * MULTIPLE for side in canvas)


@dataclass(frozen=True)
class MapMixup:
    """MixUp of a share of the batches: both images, and of each pixel's class the shares of both maps.

    alpha: of the Beta(alpha, alpha) that the images' share in the mixture is drawn from. classes: maps, with the
    background's.
    """

    alpha: float
    share: float
    classes: int

    def __post_init__(self):
        if self.alpha <= 0 or not 0 <= self.share <= 1:
            raise UserError(f"--mixup {self.alpha} must be above 0 and --mix_share {self.share} from 0 to 1")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """images (N, C, H, W), targets (N, H, W) -> as they were, or mixed with targets (N, K, H, W) of shares."""
        if generator.random() >= self.share:
            return images, targets
        order = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        part = float(generator.beta(self.alpha, self.alpha))
        return mixup(images, shares(targets, self.classes).float(), order, part, generator)
