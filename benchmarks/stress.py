"""Harder versions of labelled images: other scales, exposures, stains, noise, haze, debris; crowds of real cells.

Each entry of `CHANGES` takes an RGBY image, uint8 (H, W, 4), and its label image (H, W), and gives both, changed. What
is said in pixels goes with an image 2048 wide.
"""

from collections.abc import Callable

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.signal import fftconvolve

from common.seeds import rng

Labelled = tuple[np.ndarray, np.ndarray]
Change = Callable[[np.ndarray, np.ndarray], Labelled]


def pixels(function: Callable[[np.ndarray], np.ndarray]) -> Change:
    """A change of the grey values alone: a function of the image as float32."""
    return lambda image, labels: (_to_uint8(function(image.astype(np.float32))), labels)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def gain(*factors: float) -> Change:
    """Each channel (RGBY) times its factor."""
    return pixels(lambda image: image * np.array(factors, np.float32))


def noise(sigma: float) -> Change:
    return pixels(lambda image: image + rng(0, "noise").normal(0, sigma, image.shape))


def vignette(amount: float) -> Change:
    """The corners darker by this part."""

    def darken(image: np.ndarray) -> np.ndarray:
        y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in image.shape[:2]), indexing="ij")
        return image * (1 - amount * (x**2 + y**2) / 2)[..., None]

    return pixels(darken)


def haze(amount: float) -> Change:
    """Out-of-focus light: the image, much blurred, added."""

    def add(image: np.ndarray) -> np.ndarray:
        small = cv2.GaussianBlur(cv2.resize(image, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA), (0, 0), 10)
        return image + amount * cv2.resize(small, image.shape[1::-1])

    return pixels(add)


def bleed(amount: float) -> Change:
    """This part of red and yellow shines into blue."""
    return pixels(lambda image: image + amount * np.float32([0, 0, 1, 0]) * (image[..., :1] + image[..., 3:]))


def debris(count: int) -> Change:
    """Bright specks in blue, much smaller than nuclei."""

    def add(image: np.ndarray) -> np.ndarray:
        random, specks = rng(0, "debris"), np.zeros(image.shape[:2], np.float32)
        height, width = specks.shape
        for _ in range(count):
            place = int(random.integers(width)), int(random.integers(height))
            radius = max(1, int(random.integers(4, 14) * width / 2048))
            cv2.circle(specks, place, radius, float(random.integers(60, 255)), -1)
        image[..., 2] = np.maximum(image[..., 2], cv2.GaussianBlur(specks, (0, 0), 2))
        return image

    return pixels(add)


def resize(factor: float) -> Change:
    def change(image: np.ndarray, labels: np.ndarray) -> Labelled:
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)
        return small, cv2.resize(labels, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)

    return change


def crop(top: float, left: float, part: float = 0.6) -> Change:
    """A part of the image; of the cells at its border those stay that are at least half in it."""

    def change(image: np.ndarray, labels: np.ndarray) -> Labelled:
        height, width = labels.shape
        box = np.s_[int(top * height) : int((top + part) * height), int(left * width) : int((left + part) * width)]
        return np.ascontiguousarray(image[box]), keep_halves(labels, labels[box])

    return change


def keep_halves(labels: np.ndarray, part: np.ndarray) -> np.ndarray:
    """`part` of a label image without the cells of which it shows less than half."""
    whole = np.bincount(labels.ravel())
    keep = np.bincount(part.ravel(), minlength=len(whole)) >= 0.5 * whole
    keep[0] = False
    return np.where(keep[part], part, 0)


def uneven_cells(lowest: float) -> Change:
    """Each cell stained differently: a gain of its own for all channels, from `lowest` to 1."""

    def change(image: np.ndarray, labels: np.ndarray) -> Labelled:
        small = np.ascontiguousarray(labels[::4, ::4])
        nearest = distance_transform_edt(small == 0, return_distances=False, return_indices=True)
        gains = np.exp(rng(0, "cells").uniform(np.log(lowest), 0, labels.max() + 1)).astype(np.float32)
        field = cv2.resize(cv2.GaussianBlur(gains[small[tuple(nearest)]], (0, 0), 2), labels.shape[::-1])
        return _to_uint8(image * field[..., None]), labels

    return change


def uneven_nuclei(low: float, high: float, share: float) -> Change:
    """A share of the nuclei with a blue gain of their own between `low` and `high` (dim ones, or mitotic ones)."""

    def change(image: np.ndarray, labels: np.ndarray) -> Labelled:
        random, count = rng(0, "nuclei"), labels.max() + 1
        gains = np.where(random.random(count) < share, np.exp(random.uniform(np.log(low), np.log(high), count)), 1)
        gains[0] = 1
        changed = image.astype(np.float32)
        changed[..., 2] *= gains[labels]
        return _to_uint8(changed), labels

    return change


def chain(*changes: Change) -> Change:
    def change(image: np.ndarray, labels: np.ndarray) -> Labelled:
        for one in changes:
            image, labels = one(image, labels)
        return image, labels

    return change


CHANGES: dict[str, Change] = {
    "as it is": lambda image, labels: (image, labels),
    "16 bits": lambda image, labels: (image.astype(np.uint16) * 257, labels),
    "flipped, transposed": lambda image, labels: (
        np.ascontiguousarray(image[::-1].transpose(1, 0, 2)), np.ascontiguousarray(labels[::-1].T)
    ),
    "x 0.25": resize(0.25), "x 0.5625": resize(0.5625), "x 0.84": resize(0.84), "x 1.5": resize(1.5),
    "top left": crop(0, 0), "top right": crop(0, 0.4), "bottom left": crop(0.4, 0), "bottom right": crop(0.4, 0.4),
    "gain 0.1": gain(0.1, 0.1, 0.1, 0.1), "gain 2 (saturated)": gain(2, 2, 2, 2),
    "red x 0.3": gain(0.3, 1, 1, 1), "yellow x 0.3": gain(1, 1, 1, 0.3), "blue x 0.3": gain(1, 1, 0.3, 1),
    "red x 3": gain(3, 1, 1, 1), "no red": gain(0, 1, 1, 1), "no yellow": gain(1, 1, 1, 0),
    "gamma 0.7": pixels(lambda image: 255 * (image / 255) ** 0.7),
    "gamma 1.4": pixels(lambda image: 255 * (image / 255) ** 1.4),
    "noise 5": noise(5), "noise 12": noise(12), "blur 5 px": pixels(lambda image: cv2.GaussianBlur(image, (0, 0), 5)),
    "offset 15": pixels(lambda image: image + 15), "vignette 0.5": vignette(0.5), "vignette 0.8": vignette(0.8),
    "haze 0.4": haze(0.4), "haze 1": haze(1), "bleed 0.2": bleed(0.2), "bleed 0.5": bleed(0.5),
    "debris": debris(150), "dim nuclei, debris": chain(gain(1, 1, 0.3, 1), debris(150)),
    "uneven cells 0.4": uneven_cells(0.4), "uneven cells 0.15": uneven_cells(0.15),
    "30 % dim nuclei": uneven_nuclei(0.15, 0.4, 0.3),
    "12 % nuclei x 8": chain(gain(1, 1, 0.3, 1), uneven_nuclei(8, 8, 0.12)),
}  # fmt: skip


def whole_cells(image: np.ndarray, labels: np.ndarray) -> list[Labelled]:
    """Each cell that keeps away from the image's border: a crop of the image, and its mask (uint8)."""
    cells = []
    for label in np.unique(labels)[1:]:
        ys, xs = np.nonzero(labels == label)
        top, left, bottom, right = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
        if top and left and bottom < labels.shape[0] and right < labels.shape[1]:
            box = np.s_[max(0, top - 24) : bottom + 24, max(0, left - 24) : right + 24]
            cells.append((image[box].copy(), (labels[box] == label).astype(np.uint8)))
    return cells


def crowd(cells: list[Labelled], zoom: float, seed: int, size: int = 2048) -> Labelled:
    """An image packed with real cells, turned and placed side by side with next to no gap, and its label image."""
    random, margin = rng(seed, "crowd"), size // 4
    image = np.zeros((size + 2 * margin, size + 2 * margin, 4), np.float32)
    labels, count, failed = np.zeros(image.shape[:2], np.int32), 0, 0
    while failed < 25:
        patch, mask = _turned(*cells[random.integers(len(cells))], zoom * random.uniform(0.85, 1.15), random)
        place = _free_place(labels > 0, mask, random)
        if place is None:
            failed += 1
            continue
        count += 1
        box = np.s_[place[0] : place[0] + mask.shape[0], place[1] : place[1] + mask.shape[1]]
        soft = cv2.GaussianBlur(cv2.dilate(mask, np.ones((9, 9), np.uint8)).astype(np.float32), (0, 0), 3)
        image[box] = np.maximum(image[box], patch * soft[..., None])
        labels[box][(mask > 0) & (labels[box] == 0)] = count
    box = np.s_[margin : margin + size, margin : margin + size]
    return _to_uint8(image[box]), keep_halves(labels, labels[box])


def _turned(patch: np.ndarray, mask: np.ndarray, zoom: float, random: np.random.Generator) -> Labelled:
    height, width = mask.shape
    side = int(np.hypot(height, width) * zoom) + 4
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(0, 360), zoom)
    matrix[:, 2] += [side / 2 - width / 2, side / 2 - height / 2]
    turned = cv2.warpAffine(patch, matrix, (side, side), flags=cv2.INTER_AREA)
    return turned, cv2.warpAffine(mask, matrix, (side, side), flags=cv2.INTER_NEAREST)


def _free_place(taken: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> tuple[int, int] | None:
    """Top left corner where `mask` overlaps `taken` by 3 % at most and touches it most; None without room."""
    step = 8
    coarse = cv2.resize(taken.astype(np.float32), None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    small = cv2.resize(mask, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA).astype(np.float32)
    around = cv2.dilate(small, np.ones((5, 5), np.uint8)) - small
    overlap = fftconvolve(coarse, small[::-1, ::-1], "valid")
    touch = fftconvolve(coarse, around[::-1, ::-1], "valid") / around.sum()
    free = overlap <= 0.03 * small.sum()
    if not free.any():
        return None
    best = np.argmax(np.where(free, touch + random.uniform(0, 0.02, touch.shape), -1))
    top, left = (int(at) * step for at in np.unravel_index(best, touch.shape))
    fits = top + mask.shape[0] <= taken.shape[0] and left + mask.shape[1] <= taken.shape[1]
    return (top, left) if fits else None
