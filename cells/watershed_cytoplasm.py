"""Cytoplasm: where cells are, and to which nucleus each of their pixels belongs.

Lengths are pixels of the working image, in which a nucleus is about `WIDTH` wide. Light is in units of the typical
light beside the nuclei, so that exposure, gain and the balance of the channels do not matter.
The numbers below sit in the middle of a plateau: docs/watershed.md says how wide each is.
"""

import cv2
import numpy as np
from skimage.segmentation import watershed

from cells.watershed_nuclei import WIDTH, blur, disk, mend, steepness

FLOOR = 2  # grey levels: a channel that is dimmer than this beside the nuclei counts for less
NUCLEI = 3  # weight of the blue channel: nuclei are the summits from which cells fall off
THRESHOLD = 0.08  # cells are lighter than this,
NOISE = 4  # and than so many standard deviations of the background,
LOCAL, REACH = 0.17, 3  # and than this part of the lightest point within reach;
SHARP = 0.15  # their outline is so steep (relative, per pixel): in haze the threshold rises until it is,
HAZY = 0.3  # up to this
SIGMAS = (1.4, 2, 2.8)  # three smoothings vote on the borders between cells; the middle one when all differ
STEEP = 3  # weight of the gradient: borders lie where light falls, not only where it is lowest
CLOSING = 5  # radius of the notches that are filled


def grow_cells(work: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Label image of the cells, int32 (H, W), with their nuclei's ids.

    work: the working image, float32 (H, W, 4) RGBY in 0..255; nuclei: int32 (H, W), at least one.
    """
    light = stain(work, nuclei > 0)
    region = foreground(light) | (nuclei > 0)
    return mend(share_out(light, nuclei, region), nuclei, CLOSING)


def stain(work: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Light of red, yellow and blue together, float32 (H, W): 0 = background, 1 = typical beside nuclei.

    nuclei: bool (H, W). Channels are brought to the same strength: red and yellow beside the nuclei, blue in them.
    """
    beside = (cv2.dilate(nuclei.astype(np.uint8), np.ones((WIDTH // 2 + 1,) * 2, np.uint8)) > 0) & ~nuclei
    if not beside.any():
        beside = nuclei
    light = np.zeros(nuclei.shape, np.float32)
    for channel, where, weight in ((0, beside, 1), (3, beside, 1), (2, nuclei, NUCLEI)):
        plane = blur(work[..., channel], 0.5)
        typical = float(np.median(plane[where]))
        empty = background(plane, typical)
        light += weight / (max(typical - empty, 0) + FLOOR) * (plane - empty)
    return light / max(float(np.median(light[beside])), 1e-3)


def background(plane: np.ndarray, typical: float) -> float:
    """The most frequent of the low values of a plane (H, W): those nearer to the lowest than to `typical`."""
    smooth = blur(plane, 1)
    lowest = float(np.percentile(smooth, 1))
    if typical - lowest < 1:
        return lowest
    counts, edges = np.histogram(smooth, 64, (lowest, lowest + 0.3 * (typical - lowest)))
    return float(edges[np.argmax(np.convolve(counts, np.ones(3), "same"))])


def foreground(light: np.ndarray) -> np.ndarray:
    """Mask of the cells, bool (H, W), of the light of `stain`."""
    smooth = blur(light, 1)
    below = smooth[smooth < 0]  # only noise is darker than the background
    noise = float(np.sqrt(np.mean(below**2))) if len(below) > 0.01 * smooth.size else 0.0
    slope = steepness(smooth)
    level = max(THRESHOLD, NOISE * noise)
    while level < HAZY and _is_hazy(smooth, slope, level):
        level *= 1.2
    return smooth > np.maximum(level, LOCAL * cv2.dilate(smooth, disk(REACH)))


def _is_hazy(light: np.ndarray, slope: np.ndarray, level: float) -> bool:
    outline = (light > level / 1.2) & (light < level * 1.2)
    return bool(outline.any()) and float(np.mean(slope[outline] / light[outline])) < SHARP


def share_out(light: np.ndarray, nuclei: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Give each pixel of `region` to a nucleus: the majority of watersheds of the light at three smoothings.

    A watershed grows the nuclei downhill, from light to dark and from flat to steep, so that they meet in the dark
    lines between cells or where the light changes from one cell to the next. Gives labels, int32 (H, W).
    """
    votes = []
    for sigma in SIGMAS:
        log = np.log(np.maximum(blur(light, sigma), 0) + 0.02)
        votes.append(watershed(STEEP * steepness(log) - log, nuclei, mask=region))
    fine, middle, coarse = votes
    return np.where(fine == coarse, fine, middle)
