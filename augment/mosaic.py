"""Several scenes in one, as YOLOX trains (Ge et al. 2021). For boxes; the scenes' masks are not carried along."""

from collections.abc import Callable, Sequence

import numpy as np

from augment.scenes import FILL, Scene, about_middle, cut, fitted, letterbox, moved, scaled, turned

DEGREES, SHIFT, SHEAR = 10.0, 0.1, 2.0  # YOLOX's


def mixed(
    scene: Scene,
    draw: Callable[[], Scene],
    size: int | tuple[int, int],
    generator: np.random.Generator,
    mosaic_odds: float = 1.0,
    mixup_odds: float = 0.8,
) -> Scene:
    """The scene in a mosaic, with these odds, and that mixed with another scene, with these odds; else as it is.

    draw: gives another scene of the training set, by the same generator. The last epochs train better on single scenes:
    do not call this there.
    """
    if generator.random() >= mosaic_odds:
        return scene
    scene = mosaic([scene, draw(), draw(), draw()], size, generator)
    return mixup(scene, draw(), generator) if generator.random() < mixup_odds else scene


def mosaic(
    scenes: Sequence[Scene],
    size: int | tuple[int, int],
    generator: np.random.Generator,
    scales: tuple[float, float] = (0.1, 2.0),
    fill: int = FILL,
) -> Scene:
    """Four scenes, each fitted into size, about a random point of a canvas of twice the size, of which a turned, scaled
    (`scales`, uniform), sheared and shifted part of size = side or (height, width) is shown.
    """
    shape = (size, size) if isinstance(size, int) else size
    double = (2 * shape[0], 2 * shape[1])
    cross = [int(generator.uniform(0.5 * side, 1.5 * side)) for side in shape]
    canvas = np.full((*double, scenes[0].image.shape[2]), fill, np.uint8)
    boxes = [paste(canvas, scene, size, cross, corner) for corner, scene in enumerate(scenes)]
    whole = cut(Scene(canvas, np.concatenate(boxes), np.concatenate([scene.labels for scene in scenes])))
    matrix = about_middle(
        double, shape, generator.uniform(-DEGREES, DEGREES), generator.uniform(*scales),
        generator.uniform(-SHIFT, SHIFT, 2), generator.uniform(-SHEAR, SHEAR, 2),
    )  # fmt: skip
    return moved(whole, matrix, shape, fill=fill)


def paste(
    canvas: np.ndarray, scene: Scene, size: int | tuple[int, int], cross: Sequence[int], corner: int
) -> np.ndarray:
    """Draw a scene so that it touches `cross` (row, column) from the upper left, upper right, lower left or lower right
    (corner 0 to 3); return its boxes on the canvas.
    """
    height, width = scene.image.shape[:2]
    new = fitted(height, width, size)
    top = cross[0] - (0 if corner >= 2 else new[0])
    left = cross[1] - (0 if corner % 2 else new[1])
    rows = slice(max(top, 0), min(top + new[0], canvas.shape[0]))
    columns = slice(max(left, 0), min(left + new[1], canvas.shape[1]))
    image = scaled(scene.image, new)
    canvas[rows, columns] = image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return scene.boxes * np.float32([new[1] / width, new[0] / height] * 2) + np.float32([left, top] * 2)


def mixup(
    scene: Scene, other: Scene, generator: np.random.Generator, scales: tuple[float, float] = (0.5, 1.5),
    fill: int = FILL,
) -> Scene:  # fmt: skip
    """The mean of two scenes' images, with the cells of both; the other one is fitted to the scene's size, flipped
    left-right with even odds, scaled by `scales` (uniform) and shifted at random so that it or the image stays covered.
    """
    shape = scene.image.shape[:2]
    other = letterbox(turned(other._replace(masks=None), False, bool(generator.integers(2)), False), shape, fill)
    scale = generator.uniform(*scales)
    room = np.array(shape[::-1]) * (1 - scale)
    corner = generator.uniform(np.minimum(room, 0), np.maximum(room, 0))
    other = moved(other, np.hstack([np.eye(2) * scale, corner[:, None]]), shape, fill=fill)
    image = ((scene.image.astype(np.uint16) + other.image + 1) // 2).astype(np.uint8)
    return Scene(image, np.concatenate([scene.boxes, other.boxes]), np.concatenate([scene.labels, other.labels]))
