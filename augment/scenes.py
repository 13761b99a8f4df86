"""Changes to scenes in training: an image with its boxes, labels and masks, which stay in step.

Everything random comes from the generator that is passed, so a scene depends on its seed, epoch and id alone.
Coordinates are continuous: pixel i covers i to i + 1. What lies outside an image is filled with grey; a mirrored border
would show cells that nobody has marked.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from augment.colours import blur, brightness_contrast, clahe, hue_saturation, noise, shift_hsv

FILL = 114  # the grey of YOLOX
LEAST_SEEN = 0.3  # a cell of which less is left in the image is no longer marked


class Scene(NamedTuple):
    """image (H, W, C) uint8, any C; boxes (n, 4) float32 x1, y1, x2, y2 in pixels; labels (n,) int64; masks (n, H, W)
    uint8 of 0 and 1, or None. With masks, every box is that of its mask.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def only(self, rows: np.ndarray) -> "Scene":
        """The scene with these of its cells alone."""
        masks = None if self.masks is None else self.masks[rows]
        return Scene(self.image, self.boxes[rows], self.labels[rows], masks)


def fitted(height: int, width: int, size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image that is scaled, its shape kept, to fit into size = side or (height, width).

    >>> fitted(480, 640, 512)
    (384, 512)
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    scale = min(rows / height, columns / width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def letterbox(scene: Scene, size: int | tuple[int, int], fill: int = FILL) -> Scene:
    """The whole scene scaled into the upper left corner of an image of size = side or (height, width), rest filled.

    A box in the result divided by `fitted` / original size is the box in the original. Cells that vanish are dropped.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    height, width = scene.image.shape[:2]
    new = fitted(height, width, size)
    image = np.full((rows, columns, scene.image.shape[2]), fill, np.uint8)
    image[: new[0], : new[1]] = scaled(scene.image, new)
    boxes = scene.boxes * np.float32([new[1] / width, new[0] / height] * 2)
    masks = scene.masks
    if masks is not None:
        masks = np.zeros((len(masks), rows, columns), np.uint8)
        for one, mask in zip(masks, scene.masks, strict=True):
            one[: new[0], : new[1]] = cv2.resize(mask, new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return with_area(Scene(image, boxes, scene.labels, masks))


def scaled(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image (H, W, C) at another height and width: by area where it shrinks, else linearly."""
    if image.shape[:2] == shape:
        return image
    method = cv2.INTER_AREA if shape[0] < image.shape[0] else cv2.INTER_LINEAR
    return by_fours(lambda part: cv2.resize(part, shape[::-1], interpolation=method).reshape(*shape, -1), image)


def by_fours(change: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """`change` of an image (H, W, C), four channels at a time, which is OpenCV's limit."""
    if image.shape[2] <= 4:
        return change(image)
    parts = [np.ascontiguousarray(image[..., first : first + 4]) for first in range(0, image.shape[2], 4)]
    return np.concatenate([change(part) for part in parts], axis=2)


def with_area(scene: Scene) -> Scene:
    """The cells that have an area; boxes anew from the masks where there are masks."""
    if scene.masks is None:
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        return scene.only((sides > 0).all(1))
    scene = scene.only(scene.masks.any((1, 2)))
    return scene._replace(boxes=mask_boxes(scene.masks))


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The boxes (n, 4) float32 of masks (n, H, W), none of them empty; x2 and y2 exclusive."""
    by_row, by_column = masks.any(2), masks.any(1)
    y1, x1 = by_row.argmax(1), by_column.argmax(1)
    y2, x2 = (line.shape[1] - line[:, ::-1].argmax(1) for line in (by_row, by_column))
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32).reshape(-1, 4)


def turned(scene: Scene, flipud: bool, fliplr: bool, transpose: bool) -> Scene:
    """The scene flipped and then transposed; exact, every pixel is kept."""
    height, width = scene.image.shape[:2]
    x1, y1, x2, y2 = scene.boxes.T
    if fliplr:
        x1, x2 = width - x2, width - x1
    if flipud:
        y1, y2 = height - y2, height - y1
    boxes = np.stack([y1, x1, y2, x2] if transpose else [x1, y1, x2, y2], axis=1)

    def turn(pixels: np.ndarray) -> np.ndarray:  # rows and columns are the first axes
        pixels = pixels[:: -1 if flipud else 1, :: -1 if fliplr else 1]
        return pixels.swapaxes(0, 1) if transpose else pixels

    masks = scene.masks
    if masks is not None:
        masks = np.ascontiguousarray(np.moveaxis(turn(np.moveaxis(masks, 0, 2)), 2, 0))
    return Scene(np.ascontiguousarray(turn(scene.image)), boxes, scene.labels, masks)


def moved(scene: Scene, matrix: np.ndarray, shape: tuple[int, int], keep_size: bool = False, fill: int = FILL) -> Scene:
    """The scene under an affine map onto an image of another shape (height, width).

    matrix: (2, 3), from old to new x, y. A box becomes that of its moved ellipse, because cells are round and the box
    of turned corners would be too large. It is cut at the image's borders and dropped when less than 30 % is left, as a
    mask is. keep_size: boxes keep their sides about their moved centre, uncut, and are dropped when the centre leaves.
    """
    turn, shift = matrix[:, :2], matrix[:, 2]
    half = (scene.boxes[:, 2:] - scene.boxes[:, :2]) / 2
    centre = (scene.boxes[:, :2] + half) @ turn.T + shift
    image = warped(scene.image, matrix, shape, fill)
    if keep_size:
        inside = ((centre >= 0) & (centre < shape[::-1])).all(1)
        return Scene(image, np.hstack([centre - half, centre + half]).astype(np.float32), scene.labels).only(inside)
    if scene.masks is not None:
        masks = [warped(mask[..., None], matrix, shape, 0, cv2.INTER_NEAREST)[..., 0] for mask in scene.masks]
        masks = np.stack(masks) if masks else np.zeros((0, *shape), np.uint8)
        whole = scene.masks.sum((1, 2), dtype=np.int64) * abs(np.linalg.det(turn))
        seen = masks.sum((1, 2), dtype=np.int64) >= LEAST_SEEN * whole
        return with_area(Scene(image, scene.boxes, scene.labels, masks).only(seen))
    half = np.sqrt(half**2 @ (turn**2).T)
    return cut(Scene(image, np.hstack([centre - half, centre + half]), scene.labels))


def cut(scene: Scene) -> Scene:
    """Boxes cut at the image's borders; those of which less than 30 % is inside are dropped."""
    height, width = scene.image.shape[:2]
    boxes = scene.boxes.clip(0, [width, height, width, height]).astype(np.float32)
    before, after = ((one[:, 2:] - one[:, :2]).prod(1) for one in (scene.boxes, boxes))
    return with_area(scene._replace(boxes=boxes).only(after >= LEAST_SEEN * before))


def warped(
    image: np.ndarray, matrix: np.ndarray, shape: tuple[int, int], fill: int, method: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """An image (H, W, C) under an affine map of continuous coordinates; OpenCV's are those of pixels' centres."""
    matrix = np.hstack([matrix[:, :2], matrix[:, 2:] + (matrix[:, :2].sum(1, keepdims=True) - 1) / 2])

    def warp(part: np.ndarray) -> np.ndarray:
        part = cv2.warpAffine(part, matrix, shape[::-1], flags=method, borderValue=(fill,) * 4)
        return part.reshape(*shape, -1)

    return by_fours(warp, image)


def about_middle(
    old: tuple[int, int], new: tuple[int, int], degrees: float, scale: float, shift: np.ndarray, shear: np.ndarray
) -> np.ndarray:
    """The affine map (2, 3) that turns, scales, shears (x, y in degrees) about the middle of an image of shape `old`,
    brings it to the middle of one of shape `new` and shifts it by parts (x, y) of that.
    """
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    slant = np.tan(np.radians(shear))
    turn = np.array([[1, slant[0]], [slant[1], 1]]) @ np.array([[cos, sin], [-sin, cos]])
    target = np.array(new[::-1]) * (0.5 + shift)
    return np.hstack([turn, (target - turn @ np.array(old[::-1]) / 2)[:, None]])


def shift_scale_rotate(
    scene: Scene, generator: np.random.Generator, shift: float, scale: float, degrees: float, keep_size: bool, fill: int
) -> Scene:
    """Shifted by up to a part of the image, scaled by 1 +- scale and turned by +- degrees, all uniform."""
    shape = scene.image.shape[:2]
    matrix = about_middle(
        shape, shape, generator.uniform(-degrees, degrees), 1 + generator.uniform(-scale, scale),
        generator.uniform(-shift, shift, 2), np.zeros(2),
    )  # fmt: skip
    return moved(scene, matrix, shape, keep_size, fill)


def flips_and_turns(scene: Scene, size: int | tuple[int, int], generator: np.random.Generator) -> Scene:
    """Flips and quarter turns with even odds; no quarter turns into an oblong size, where the cells would shrink."""
    flipud, fliplr, transpose = (bool(coin) for coin in generator.integers(2, size=3))
    square = isinstance(size, int) or size[0] == size[1]
    return turned(scene, flipud, fliplr, transpose and square)


def sometimes(
    image: np.ndarray, generator: np.random.Generator, odds: float, change: Callable[..., np.ndarray]
) -> np.ndarray:
    return change(image, generator) if generator.random() < odds else image


def whole(
    scene: Scene,
    size: int | tuple[int, int],
    generator: np.random.Generator | None = None,
    *,
    keep_size: bool = False,
    fill: int = FILL,
) -> Scene:
    """Nothing random: the letterboxed scene."""
    return letterbox(scene, size, fill)


def riva(
    scene: Scene,
    size: int | tuple[int, int],
    generator: np.random.Generator,
    *,
    keep_size: bool = False,
    fill: int = FILL,
) -> Scene:
    """RIVA's list: flips, quarter turns, shift/scale/rotate (.05, .15, 15), blur, colour jitter, CLAHE."""
    scene = letterbox(flips_and_turns(scene, size, generator), size, fill)
    if generator.random() < 0.5:
        scene = shift_scale_rotate(scene, generator, 0.05, 0.15, 15, keep_size, fill)
    image = sometimes(scene.image, generator, 0.2, blur)
    image = sometimes(image, generator, 0.5, brightness_contrast)
    image = sometimes(image, generator, 0.5, hue_saturation)
    return scene._replace(image=sometimes(image, generator, 0.2, clahe))


def neurons(
    scene: Scene,
    size: int | tuple[int, int],
    generator: np.random.Generator,
    *,
    keep_size: bool = False,
    fill: int = FILL,
) -> Scene:
    """The neurons' list: flips, quarter turns, shift/scale/rotate (.02, .1, 10), noise or blur, brightness, colour."""
    scene = letterbox(flips_and_turns(scene, size, generator), size, fill)
    if generator.random() < 0.5:
        scene = shift_scale_rotate(scene, generator, 0.02, 0.1, 10, keep_size, fill)
    image = sometimes(scene.image, generator, 0.3, noise if generator.random() < 0.5 else blur)
    image = sometimes(image, generator, 0.5, brightness_contrast)
    return scene._replace(image=sometimes(image, generator, 0.3, hue_saturation))


def yolox(
    scene: Scene,
    size: int | tuple[int, int],
    generator: np.random.Generator,
    *,
    keep_size: bool = False,
    fill: int = FILL,
) -> Scene:
    """YOLOX's list after mosaic and mixup (augment.mosaic): colour by up to (5, 30, 30) in HSV, flipped left-right."""
    scene = letterbox(turned(scene, False, bool(generator.integers(2)), False), size, fill)
    return scene._replace(image=shift_hsv(scene.image, generator))


# name -> function(scene, size, generator, keep_size=, fill=) -> scene of size = side or (height, width)
SCENES: dict[str, Callable[..., Scene]] = {"riva": riva, "neurons": neurons, "yolox": yolox, "none": whole}
