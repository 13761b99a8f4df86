"""Nuclei of the DNA stain: a threshold of its own for each nucleus, and cuts where two nuclei touch.

All lengths are pixels of the working image, in which a nucleus is about `WIDTH` wide.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

WIDTH = 32  # of a nucleus in the working image: all other lengths go with it
CONTRAST = 3  # grey levels of 255 that nuclei must stand above the background
DIMMEST = 0.1  # of the typical nucleus' brightness: what is dimmer is no nucleus
HALF = 0.45  # a nucleus ends where it falls below this part of its own brightness
SPLIT = 0.65  # two parts of a region whose `Contact.unity` is below this are two nuclei


def blur(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing, mirrored at the edge. plane: float32 (H, W)."""
    return cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)


def nuclear_width(blue: np.ndarray) -> float:
    """The typical width (minor axis) of the nuclei in pixels, 0 without nuclei. blue: float32 (H, W), 0..255.

    Per connected region the largest inscribed circle, which clumps of nuclei do not widen; the median over the area.
    """
    labels, count = ndimage.label(ndimage.binary_fill_holes(_above_otsu(blur(blue, 1))))
    if not count:
        return 0.0
    widths = 2 * ndimage.maximum(_depth(labels > 0), labels, np.arange(1, count + 1))
    order = np.argsort(widths)
    share = np.cumsum(np.bincount(labels.ravel())[1:][order])
    return float(widths[order][np.searchsorted(share, share[-1] / 2)])


def find_nuclei(blue: np.ndarray) -> np.ndarray:
    """Label image of the nuclei, int32 (H, W), ids with gaps. blue: float32 (H, W), 0..255, of the working image."""
    light = subtract_background(blur(blue, 1))
    smooth = blur(light, 2.5)
    bright = _above_otsu(smooth)
    typical = float(np.median(smooth[bright])) if bright.any() else 0.0
    if typical < CONTRAST:
        return np.zeros(blue.shape, np.int32)
    mask = smooth > max(DIMMEST * typical, 1)
    basins = watershed(-smooth, _peaks(smooth, mask), mask=mask)
    mask = (light > HALF * _brightness(smooth, basins)[basins]) & (basins > 0)
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
    nuclei = split(ndimage.binary_fill_holes(mask), light)
    return _drop_doubtful(nuclei, blur(blue, 1), light / typical)


def _drop_doubtful(nuclei: np.ndarray, blue: np.ndarray, light: np.ndarray) -> np.ndarray:
    slope = np.hypot(cv2.Sobel(blue, cv2.CV_32F, 1, 0), cv2.Sobel(blue, cv2.CV_32F, 0, 1)) / 8
    near, wide = np.ones((5, 5), np.uint8), np.ones((13, 13), np.uint8)
    keep = np.zeros(nuclei.max() + 1, bool)
    for label, box in enumerate(ndimage.find_objects(nuclei), start=1):
        if box is None:
            continue
        box = tuple(slice(max(0, side.start - 6), side.stop + 6) for side in box)
        mask = (nuclei[box] == label).astype(np.uint8)
        ring = (cv2.dilate(mask, wide) > cv2.dilate(mask, near)) & (nuclei[box] == 0)
        edge = cv2.dilate(mask, np.ones((3,3),np.uint8)) > cv2.erode(mask, np.ones((3,3),np.uint8),borderValue=1)
        level = float(np.median(blue[box][mask > 0]))
        outside = float(np.percentile(blue[box][ring], 90)) if ring.any() else 0.0
        b=np.median(light[box][mask>0])
        if level < CLEAR*outside: continue
        if b<FAINT and (level<CLEAR_FAINT*outside or _solidity(mask>0)<SOLID_FAINT or np.percentile(slope[box][edge],20)<SHARP_FAINT*level): continue
        keep[label] = True
    return np.where(keep[nuclei], nuclei, 0)


CLEAR, FAINT, CLEAR_FAINT,SOLID_FAINT,SHARP_FAINT=1.5,.4,2.5,.88,.07
def unmix(work):
    blue,other=work[...,2],work[...,0]+work[...,3]
    b,c=blur(blue,1),blur(other,1)
    out=cv2.dilate(_above_otsu(blur(subtract_background(b),2.5)).astype(np.uint8),np.ones((9,9),np.uint8))==0
    if not out.any(): return blue
    hi,lo=out&(c>threshold_otsu(c[out])),out&(c<=np.percentile(c[out],25))
    if hi.sum()<100 or np.median(c[hi])-np.median(c[lo])<CONTRAST: return blue
    a=(np.median(b[hi])-np.median(b[lo]))/(np.median(c[hi])-np.median(c[lo]))
    return np.maximum(blue-float(np.clip(a,0,1))*other,0)


def _above_otsu(plane: np.ndarray) -> np.ndarray:
    return plane > threshold_otsu(plane) if np.ptp(plane) >= CONTRAST else np.zeros(plane.shape, bool)


def subtract_background(plane: np.ndarray) -> np.ndarray:
    """Take away what is wider than a few nuclei: haze and uneven lighting."""
    side = int(2.5 * WIDTH)
    return plane - blur(cv2.morphologyEx(plane, cv2.MORPH_OPEN, np.ones((side, side), np.uint8)), WIDTH / 2)


def _peaks(plane: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Labels of the points of `mask` that are the highest within a quarter of a nucleus' width."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (WIDTH // 2 + 1, WIDTH // 2 + 1))
    return ndimage.label((plane >= cv2.dilate(plane, disk)) & mask, np.ones((3, 3)))[0]


def _brightness(plane: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per label the light that three quarters of it do not reach; [0] is 0."""
    found = enumerate(ndimage.find_objects(labels), start=1)
    values = [np.percentile(plane[box][labels[box] == label], 75) if box else 0.0 for label, box in found]
    return np.array([0.0, *values], np.float32)


def _depth(mask: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)


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


def split(mask: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Label image of the nuclei of `mask`: regions are cut at necks and dips of light, but only where both agree.

    Each region is first cut into too many parts (a watershed of depth x relative light), then the two parts that look
    most like one are joined, again and again, until those left do not (`Contact.unity` < `SPLIT`).
    """
    depth = np.where(mask, blur(_depth(mask), 1), 0).astype(np.float32)
    height = depth * light / np.maximum(cv2.dilate(light, np.ones((WIDTH, WIDTH), np.uint8)), 1e-3)
    parts = watershed(-height, _peaks(height, mask), mask=mask).astype(np.int32)
    regions, _ = ndimage.label(parts > 0)
    for region, box in enumerate(ndimage.find_objects(regions), start=1):
        inside = regions[box] == region
        own = np.where(inside, parts[box], 0)
        if np.ptp(own[inside]):
            parts[box][inside] = _join(own, depth[box], light[box])[inside]
    return parts


def _join(parts: np.ndarray, depth: np.ndarray, light: np.ndarray) -> np.ndarray:
    contacts = _contacts(parts, depth, light)
    while contacts:
        first, second = max(contacts, key=lambda pair: contacts[pair].unity)
        if contacts[first, second].unity < SPLIT:
            break
        parts[parts == second] = first
        contacts = _contacts(parts, depth, light)
    return parts


def _contacts(parts: np.ndarray, depth: np.ndarray, light: np.ndarray) -> dict[tuple[int, int], Contact]:
    pairs, depths, lights = [], [], []
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        on = (parts[one] != parts[other]) & (parts[one] > 0) & (parts[other] > 0)
        pairs.append(np.sort(np.stack([parts[one][on], parts[other][on]], axis=1), axis=1))
        depths.append(np.maximum(depth[one], depth[other])[on])
        lights.append(np.minimum(light[one], light[other])[on])
    pairs, depths, lights = np.concatenate(pairs), np.concatenate(depths), np.concatenate(lights)
    contacts = {}
    for pair in np.unique(pairs, axis=0):
        at = (pairs == pair).all(axis=1)
        masks = [parts == label for label in pair]
        dim, bright = sorted(float(np.percentile(light[mask], 75)) for mask in masks)
        contacts[tuple(pair.tolist())] = Contact(
            neck=depths[at].max() / min(depth[mask].max() for mask in masks),
            dip=np.percentile(lights[at], 90) / dim,
            balance=dim / bright,
            solidity=_solidity(masks[0] | masks[1]),
            size=min(1.0, min(mask.sum() for mask in masks) / WIDTH**2),
        )
    return contacts


def _solidity(mask: np.ndarray) -> float:
    hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
    return float(mask.sum() / cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), hull, 1).sum())
