"""Nuclei of the DNA stain: each found with a threshold of its own, cut where two touch, doubtful ones left out.

Lengths are pixels of the working image, in which a nucleus is about `WIDTH` wide. Images are float32 in 0..255.
The numbers below sit in the middle of a plateau: docs/watershed.md says how wide each is.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

WIDTH = 32  # of a nucleus
CONTRAST = 3  # grey levels: with less there is nothing to see
DIMMEST = 0.1  # x the typical nucleus' light: what is dimmer is no nucleus
HALF = 0.45  # x its own light: where a nucleus ends
SPLIT = 0.65  # two parts with less `Contact.unity` are two nuclei
CLOSING = 3  # radius of the notches that are filled

CLEAR = 1.5  # a nucleus is so many times lighter than what surrounds it
FAINT = 0.4  # x the typical light: dimmer nuclei must also be
FAINT_CLEAR, FAINT_SOLID, FAINT_SHARP = 3, 0.75, 0.08  # so clear, of such solidity, so steep at the edge (per pixel)


def blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing, mirrored at the border. plane: float32 (H, W)."""
    return cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def disk(radius: int) -> np.ndarray:
    """A round neighbourhood for OpenCV's morphology, uint8."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def steepness(plane: np.ndarray) -> np.ndarray:
    """Size of the gradient, per pixel."""
    return np.hypot(cv2.Sobel(plane, cv2.CV_32F, 1, 0), cv2.Sobel(plane, cv2.CV_32F, 0, 1)) / 8


def grow(box: tuple[slice, ...], margin: int) -> tuple[slice, ...]:
    """A box of ndimage.find_objects, wider by `margin` on each side where the image allows."""
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)


def above_otsu(plane: np.ndarray) -> np.ndarray:
    """Mask of the light part; empty without contrast. On square roots, so that a few very bright spots do not rule."""
    if np.ptp(plane) < CONTRAST:
        return np.zeros(plane.shape, bool)
    root = np.sqrt(np.maximum(plane, 0))
    return root > threshold_otsu(root)


def unmix(image: np.ndarray) -> np.ndarray:
    """The blue plane, (H, W), of an RGBY image less what shines into it from red and yellow.

    The share is the slope of blue over red + yellow between dark and light cytoplasm, away from the nuclei.
    """
    blue, other = image[..., 2], image[..., 0] + image[..., 3]
    light, stain = blur(blue, 1), blur(other, 1)
    nuclei = above_otsu(blur(subtract_background(light), 2.5)).astype(np.uint8)
    away = cv2.dilate(nuclei, np.ones((9, 9), np.uint8)) == 0
    if away.sum() < WIDTH**2:
        return blue
    dark = away & (stain <= np.percentile(stain[away], 25))
    cytoplasm = away & above_otsu(np.where(away, stain, 0))
    span = np.median(stain[cytoplasm]) - np.median(stain[dark]) if cytoplasm.any() else 0
    if span < CONTRAST:
        return blue
    share = (np.median(light[cytoplasm]) - np.median(light[dark])) / span
    return np.maximum(blue - np.float32(np.clip(share, 0, 1)) * other, 0)


def subtract_background(plane: np.ndarray) -> np.ndarray:
    """Take away what is wider than a few nuclei: haze and uneven lighting."""
    side = int(2.5 * WIDTH)
    return plane - blur(cv2.morphologyEx(plane, cv2.MORPH_OPEN, np.ones((side, side), np.uint8)), WIDTH / 2)


def nuclear_width(blue: np.ndarray) -> float:
    """The typical width (minor axis) of the nuclei in pixels of any blue plane (H, W); 0 without nuclei.

    Per connected region the largest inscribed circle, which clumps of nuclei do not widen; the median over the area.
    """
    labels, count = ndimage.label(ndimage.binary_fill_holes(above_otsu(blur(blue, 1))))
    if not count:
        return 0.0
    widths = 2 * ndimage.maximum(_depth(labels > 0), labels, np.arange(1, count + 1))
    order = np.argsort(widths)
    share = np.cumsum(np.bincount(labels.ravel())[1:][order])
    return float(widths[order][np.searchsorted(share, share[-1] / 2)])


def _depth(mask: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)


def find_nuclei(blue: np.ndarray) -> np.ndarray:
    """Label image of the nuclei, int32 (H, W), ids with gaps, of the working image's blue plane."""
    sharp = blur(blue, 1)
    light = subtract_background(sharp)
    smooth = blur(light, 2.5)
    bright = above_otsu(smooth)
    typical = float(np.median(smooth[bright])) if bright.any() else 0.0
    if typical < CONTRAST:
        return np.zeros(blue.shape, np.int32)
    mask = smooth > DIMMEST * typical
    basins = watershed(-smooth, _peaks(smooth, mask), mask=mask)
    mask = (light > HALF * _light_per_label(smooth, basins)[basins]) & (basins > 0)
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, disk(2))
    nuclei = split(ndimage.binary_fill_holes(mask), light)
    nuclei = _drop_doubtful(nuclei, sharp, light / np.float32(typical))
    return mend(nuclei, nuclei, CLOSING)


def _peaks(plane: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Labels of the points of `mask` that are the highest within a quarter of a nucleus' width."""
    return ndimage.label((plane >= cv2.dilate(plane, disk(WIDTH // 4))) & mask, np.ones((3, 3)))[0]


def _light_per_label(plane: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per label the light that three quarters of it do not reach; [0] is 0."""
    found = enumerate(ndimage.find_objects(labels), start=1)
    values = [np.percentile(plane[box][labels[box] == label], 75) if box else 0.0 for label, box in found]
    return np.array([0.0, *values], np.float32)


def mend(labels: np.ndarray, seeds: np.ndarray, radius: int) -> np.ndarray:
    """Label image, int32: each label's pieces that hold some of its seed, notches and holes filled.

    labels, seeds: int (H, W). radius: of the disk that closes notches. No label takes a pixel of another.
    """
    mended = np.zeros(labels.shape, np.int32)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        box = grow(box, radius + 1)
        pieces = ndimage.label(labels[box] == label)[0]
        own = np.isin(pieces, np.unique(pieces[seeds[box] == label])) & (pieces > 0)
        # The border's rows and columns are repeated outwards, so that closing works there as inside.
        padded = cv2.copyMakeBorder(own.astype(np.uint8), *[radius] * 4, cv2.BORDER_REPLICATE)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk(radius))[radius:-radius, radius:-radius]
        free = (labels[box] == label) | ((labels[box] == 0) & (mended[box] == 0))
        mended[box][ndimage.binary_fill_holes(closed) & free] = label
    return mended


def _drop_doubtful(nuclei: np.ndarray, blue: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Leave out what does not stand out from its surroundings, and what is dim and not shaped like a nucleus.

    blue: with the background; light: without it, 1 = a typical nucleus.
    """
    slope = steepness(blue)
    keep = np.zeros(nuclei.max() + 1, bool)
    for label, box in enumerate(ndimage.find_objects(nuclei), start=1):
        if box:
            box = grow(box, 7)
            mask = (nuclei[box] == label).astype(np.uint8)
            keep[label] = _stands_out(mask, nuclei[box] > 0, blue[box], light[box], slope[box])
    return np.where(keep[nuclei], nuclei, 0)


def _stands_out(mask: np.ndarray, taken: np.ndarray, blue: np.ndarray, light: np.ndarray, slope: np.ndarray) -> bool:
    inside = mask > 0
    around = (cv2.dilate(mask, np.ones((13, 13), np.uint8)) > cv2.dilate(mask, np.ones((5, 5), np.uint8))) & ~taken
    level = float(np.median(blue[inside]))
    outside = float(np.percentile(blue[around], 90)) if around.any() else 0.0
    if level < CLEAR * outside:
        return False
    if np.median(light[inside]) >= FAINT:
        return True
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    sharp = np.percentile(slope[edge], 20) >= FAINT_SHARP * level
    return bool(level >= FAINT_CLEAR * outside and sharp and _solidity(mask.sum(), _hull(mask)) >= FAINT_SOLID)


def _hull(mask: np.ndarray, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Corners (x, y) of the convex hull of a mask's pixel centres. corner: (y, x) of the mask's first pixel."""
    points = np.argwhere(mask) + corner
    return cv2.convexHull(points[:, ::-1].astype(np.int32))[:, 0]


def _solidity(area: int, hull: np.ndarray) -> float:
    """Pixels of a mask / pixels of its convex hull (counted by Pick's theorem)."""
    edges = np.abs(hull - np.roll(hull, 1, axis=0))
    return area / (cv2.contourArea(hull) + np.gcd(*edges.T).sum() / 2 + 1)


class Contact(NamedTuple):
    """What two touching parts of a region look like.

    neck: width of their contact / width of the narrower part; dip: light at the contact / of the dimmer part;
    balance: light of the dimmer / of the brighter part; solidity: area of both / of their convex hull;
    size: area of the smaller part / of a typical nucleus, at most 1.
    """

    neck: float
    dip: float
    balance: float
    solidity: float
    size: float

    @property
    def unity(self) -> float:
        """How much the two look like one nucleus: about 1 when they do, the lower the less."""
        return self.neck * self.dip * self.balance * self.solidity / self.size**0.25


class Part(NamedTuple):
    """A part of a region: the light of its pixels, its greatest depth, the corners of its convex hull."""

    light: np.ndarray
    depth: float
    hull: np.ndarray

    def join(self, other: "Part") -> "Part":
        hull = cv2.convexHull(np.concatenate([self.hull, other.hull]))[:, 0]
        return Part(np.concatenate([self.light, other.light]), max(self.depth, other.depth), hull)


def split(mask: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Label image, int32, of the nuclei of `mask`: regions cut at necks, dips and steps of light.

    Each region is first cut into too many parts (a watershed of depth x light relative to what is near), then the two
    parts that look most like one are joined, again and again, until those left do not (`Contact.unity` < `SPLIT`).
    """
    depth = np.where(mask, blur(_depth(mask), 1), 0).astype(np.float32)
    near = cv2.dilate(light, np.ones((WIDTH, WIDTH), np.uint8))
    height = depth * light / np.maximum(near, 1e-3)
    labels = watershed(-height, _peaks(height, mask), mask=mask).astype(np.int32)
    borders = _borders(labels, depth, light)
    wanted = {label for pair in borders for label in pair}
    parts = {}
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if label in wanted:
            own = labels[box] == label
            hull = _hull(own, (box[0].start, box[1].start))
            parts[label] = Part(light[box][own], float(depth[box][own].max()), hull)
    return _join(parts, borders, np.arange(labels.max() + 1, dtype=np.int32))[labels]


Borders = dict[tuple[int, int], np.ndarray]


def _borders(labels: np.ndarray, depth: np.ndarray, light: np.ndarray) -> Borders:
    """Per pair of touching labels (the smaller first) the depth and the light where they touch: (n, 2)."""
    pairs, values = [], []
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        on = (labels[one] != labels[other]) & (labels[one] > 0) & (labels[other] > 0)
        pairs.append(np.sort(np.stack([labels[one][on], labels[other][on]], axis=1), axis=1))
        deepest, darkest = np.maximum(depth[one], depth[other])[on], np.minimum(light[one], light[other])[on]
        values.append(np.stack([deepest, darkest], axis=1))
    pairs, values = np.concatenate(pairs), np.concatenate(values)
    if not len(pairs):
        return {}
    order = np.lexsort(pairs.T[::-1])
    names, starts = np.unique(pairs[order], axis=0, return_index=True)
    groups = np.split(values[order], starts[1:])
    return {(first, second): group for (first, second), group in zip(names.tolist(), groups, strict=True)}


def _join(parts: dict[int, Part], borders: Borders, owner: np.ndarray) -> np.ndarray:
    """Join parts that are one; gives for each label (`owner`: itself, at first) the label it ends up with."""
    unity = {pair: _contact(parts, pair, border).unity for pair, border in borders.items()}
    while unity and max(unity.values()) >= SPLIT:
        first, second = max(unity, key=unity.__getitem__)
        parts[first] = parts[first].join(parts.pop(second))
        owner[owner == second] = first
        for pair in [pair for pair in borders if first in pair or second in pair]:
            border = borders.pop(pair)
            del unity[pair]
            others = set(pair) - {first, second}
            if others:
                new = tuple(sorted((first, others.pop())))
                borders[new] = np.concatenate([borders[new], border]) if new in borders else border
        for pair in [pair for pair in borders if first in pair]:
            unity[pair] = _contact(parts, pair, borders[pair]).unity
    return owner


def _contact(parts: dict[int, Part], pair: tuple[int, int], border: np.ndarray) -> Contact:
    one, other = (parts[label] for label in pair)
    dim, bright = sorted(float(np.percentile(part.light, 75)) for part in (one, other))
    return Contact(
        neck=float(border[:, 0].max() / min(one.depth, other.depth)),
        dip=float(np.percentile(border[:, 1], 90) / max(dim, 1e-3)),
        balance=dim / max(bright, 1e-3),
        solidity=_solidity(len(one.light) + len(other.light), one.join(other).hull),
        size=min(1.0, min(len(one.light), len(other.light)) / WIDTH**2),
    )
