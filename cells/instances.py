"""Class maps turned into cells: connected parts, cut where two cells touch, and the plain way without a network."""

import math

import cv2
import numpy as np
import pandas as pd
from skimage.filters import threshold_otsu
from skimage.morphology import local_maxima, reconstruction

from cells.crops import boxes
from cells.flooding import flood
from cells.regions import fill_holes, find_regions, keep_regions, label_areas, number

NECK = 0.15  # parts are cut where the neck is so much narrower than the narrower part is wide, as a share of it
SMOOTH = 1.0  # pixels of smoothing of the distance to the edge, so that its bumps make no parts
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)  # pixels join over edges, as in `flood`
MIN_AREA = 10  # pixels; what is smaller is no cell
SPECK = 0.05  # of the typical cell's area; what is smaller is no cell where depths are known
DIP = 0.12  # two cells are cut where the depth between their middles is so much less than in the shallower one's
SMOOTH_DEPTH = 0.05  # of the root of the area that is more than half deep: how far the depth is smoothed
MIDDLE = 0.3  # the depth that a cell's middle has at least
SCALES = 1 / 16, 4.0  # how much smaller or larger an image is shown than it is


def merge_channels(masks: np.ndarray) -> np.ndarray:
    """Instance ids by type, (height, width, types), as one label image, int32: where types overlap the last one counts.

    Equal ids of two types are two cells, as in PanNuke's official code.

    >>> merge_channels(np.array([[[3, 0], [3, 1], [0, 1]]]))
    array([[3, 4, 4]], dtype=int32)
    """
    merged, highest = np.zeros(masks.shape[:2], np.int32), 0
    for channel in np.moveaxis(masks, 2, 0):
        inside = channel > 0
        merged[inside] = channel[inside].astype(np.int32) + highest
        highest += int(channel.max(initial=0))
    return merged


def class_map(masks: np.ndarray) -> np.ndarray:
    """The type of each pixel, uint8 (height, width): 0 to C - 1, and C for the background; (height, width, C) ids.

    Where types overlap the last one counts, as in the official score.
    """
    last = masks.shape[2] - 1 - (masks[..., ::-1] > 0).argmax(axis=2)
    return np.where(masks.any(axis=2), last, masks.shape[2]).astype(np.uint8)


def numbered(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells of instance ids by type (height, width, types) as one label image, uint16, numbered in a row from 1,
    and the type of each number, (cells + 1,); that of the background, 0, is the number of types.
    """
    labels, found = pd.factorize(merge_channels(masks).ravel(), sort=True)  # five times as fast as np.unique
    labels = labels.reshape(masks.shape[:2]) + int(found[0] > 0)
    types = np.full(labels.max() + 1, masks.shape[2], np.uint8)
    types[labels] = class_map(masks)
    return labels.astype(np.uint16), types


def cell_depths(labels: np.ndarray) -> np.ndarray:
    """How deep each pixel lies in its cell of a label image (height, width): the distance to the cell's edge in parts
    of the cell's greatest, above 0 to 1, and 0 outside of cells; float32. The image's own border is no edge.
    """
    height, width = labels.shape
    depth = np.zeros(labels.shape, np.float32)
    for label, (x1, y1, x2, y2) in boxes(labels.astype(np.int32)).items():
        part = slice(max(y1 - 1, 0), min(y2 + 1, height)), slice(max(x1 - 1, 0), min(x2 + 1, width))
        own = labels[part] == label
        if own.all():  # without an edge there is no distance to it
            depth[part] = 1
            continue
        distance = cv2.distanceTransform(own.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) - 0.5  # to the edge
        depth[part] = np.where(own, distance / distance.max(), depth[part])
    return depth


def scale_for(labels: np.ndarray, diameter: float, otherwise: float) -> float:
    """The scale at which the cells of a label image have this diameter, in pixels, as discs of their areas; `otherwise`
    where there are none. At most 4 times as large as they are or 16 times as small.
    """
    area = typical_area(labels)
    return float(np.clip(diameter / np.sqrt(4 / np.pi * area), *SCALES)) if area else otherwise


def typical_area(labels: np.ndarray) -> float:
    """The area of the cell of a label image that a pixel is in, the median over the pixels: debris and fragments hardly
    count. 0 without cells.
    """
    inside = labels[labels > 0]
    return float(np.median(label_areas(labels)[inside])) if len(inside) else 0.0


def split_cells(mask: np.ndarray, neck: float = NECK, smooth: float = SMOOTH, min_area: float = MIN_AREA) -> np.ndarray:
    """The cells of a mask (height, width): int32 label image, from 1 in the order of their first pixels.

    A watershed on the smoothed distance to the edge. Its seeds are the h-maxima of that distance's logarithm: two parts
    are cut if the neck between them is narrower than (1 - `neck`) times the narrower part, whatever their size.
    """
    whole = np.ascontiguousarray(mask, np.uint8)
    if not whole.any() or whole.all():  # without an edge there is no distance to it
        return drop_small(whole.astype(np.int32), min_area)
    distance = cv2.distanceTransform(whole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = cv2.GaussianBlur(distance, (0, 0), smooth) * whole if smooth > 0 else distance
    height = np.ceil(distance * (255 / distance.max())).astype(np.uint8)
    seeds = tops(distance, distance * (1 - neck)) & (whole > 0)
    return drop_small(grown(seeds, height, whole), min_area)


def tops(surface: np.ndarray, lowered: np.ndarray) -> np.ndarray:
    """The pixels of the h-maxima of a surface (height, width): its maxima that rise above what is `lowered`; bool."""
    return local_maxima(reconstruction(lowered, surface, footprint=CROSS), connectivity=1)


def grown(seeds: np.ndarray, height: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Connected seeds (height, width) bool, grown over a mask from high to low: int32 label image."""
    regions = find_regions(seeds.view(np.uint8))
    return flood(height, keep_regions(regions, regions.areas > 0, mask.shape), mask)


def drop_small(labels: np.ndarray, min_area: float) -> np.ndarray:
    """Take cells of less than `min_area` pixels out of a label image and number the others anew: int32."""
    keep = label_areas(labels) >= max(min_area, 1)
    keep[0] = False
    return number(keep)[labels]


def class_instances(probs: np.ndarray, background: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of class maps: (K, height, width) probabilities -> label image int32, and the class of each label.

    Each class' pixels (where its probability is the highest) are split on their own by `split_cells`. Labels count from
    1; classes[label - 1] is an int64 index into the K maps, never `background`.
    """
    highest = probs.argmax(axis=0)
    labels, classes = np.zeros(highest.shape, np.int32), []
    for name in range(len(probs)):
        if name != background:
            own = split_cells(highest == name)
            labels[own > 0] = own[own > 0] + len(classes)
            classes += [name] * int(own.max())
    return labels, np.array(classes, np.int64)


def likeliest(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The class that has the most probability in each cell of a label image: int64 (cells,), an index into `probs`."""
    sums = np.stack([np.bincount(labels.ravel(), own.ravel(), labels.max() + 1) for own in probs])
    return sums.argmax(axis=0)[1:]


def deep_instances(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells of maps (C + 2, height, width): the C first add up to the depth of a pixel in its cell (`cell_depths`), the
    next is what that lacks of 1, the last the background.

    As a cell of any size is 1 deep in its middle, small ones beside large ones have seeds, too. The depth is smoothed
    by about a fortieth of a cell's diameter; its h-maxima (DIP, MIDDLE) are the seeds, which grow over what is no
    background. Label image int32 and the class of each label, int64.
    """
    depth = probs[:-2].sum(axis=0).astype(np.float32)
    mask = fill_holes((probs[-1] < 0.5).astype(np.uint8), below=MIN_AREA)
    middles = cv2.connectedComponents((depth > 0.5).astype(np.uint8))[1]
    depth = cv2.GaussianBlur(depth, (0, 0), max(SMOOTH_DEPTH * math.sqrt(typical_area(middles)), 0.3)) * mask
    height = np.rint(depth * 255).clip(0, 255).astype(np.uint8)
    labels = grown(tops(depth, depth - DIP) & (depth > MIDDLE), height, mask)
    labels = drop_small(labels, max(MIN_AREA, SPECK * typical_area(labels)))
    return labels, likeliest(labels, probs[:-2])


def map_instances(probs: np.ndarray, depths: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a network's maps, the last the background's: `deep_instances` of --depths, else `class_instances`."""
    return deep_instances(probs) if depths else class_instances(probs, len(probs) - 1)


def otsu_watershed(image: np.ndarray, min_area: float = 20) -> np.ndarray:
    """Cells without a network, the baseline: Otsu's threshold and a watershed on the distance to the edge.

    image: grey (height, width) or RGB (height, width, 3), of any depth. Cells are the bright part if most of the
    image's border is dark, else the dark part. Label image, int32.
    """
    grey = cv2.GaussianBlur(_grey(image), (0, 0), 0.5)
    if grey.max() == grey.min():
        return np.zeros(grey.shape, np.int32)
    bright = grey > threshold_otsu(grey)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    mask = (bright if border.mean() <= 0.5 else ~bright).astype(np.uint8)
    return split_cells(fill_holes(mask), min_area=min_area)


def texture_watershed(image: np.ndarray, sigma: float = 2.0, min_area: float = 300) -> np.ndarray:
    """The same baseline for phase contrast, where cells are as grey as the background but not as smooth.

    Otsu's threshold is on the logarithm of the standard deviation within about `sigma` pixels. Label image, int32.
    """
    grey = _grey(image)
    mean = cv2.GaussianBlur(grey, (0, 0), sigma)
    variance = cv2.GaussianBlur((grey - grey.mean()) ** 2, (0, 0), sigma) - (mean - grey.mean()) ** 2
    texture = np.log1p(np.sqrt(np.maximum(variance, 0)))
    if texture.max() == texture.min():
        return np.zeros(grey.shape, np.int32)
    mask = (texture > threshold_otsu(texture)).astype(np.uint8)
    return split_cells(fill_holes(mask, below=min_area), smooth=3, min_area=min_area)


def _grey(image: np.ndarray) -> np.ndarray:
    grey = image.astype(np.float32)
    return grey if grey.ndim == 2 else cv2.cvtColor(grey[..., :3], cv2.COLOR_RGB2GRAY)
