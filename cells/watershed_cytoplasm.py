"""Cytoplasm: how light the stain is, where cells are, and which nucleus each pixel belongs to."""

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from cells.watershed_nuclei import WIDTH, blur, unmix

FLOOR = 2  # grey levels: a channel that is dimmer beside the nuclei counts for less
THRESHOLD = 0.08  # cytoplasm is lighter than this part of the light beside the nuclei
NOISE = 4
GRADIENT = 3
SIGMA = 2.2
EPS = 0.05
MIXB=3
RED, GREEN, BLUE, YELLOW = range(4)


def stain(work: np.ndarray, nuclei: np.ndarray):
    inside = nuclei > 0
    ring = (cv2.dilate(inside.astype(np.uint8), np.ones((WIDTH // 2 + 1, WIDTH // 2 + 1), np.uint8)) > 0) & ~inside
    if not ring.any():
        ring = inside
    work=np.dstack([work[...,:2],unmix(work),work[...,3]])
    light = np.zeros(nuclei.shape, np.float32)
    for channel, where, w in ((RED, ring,1), (YELLOW, ring,1), (BLUE, inside,MIXB)):
        plane = blur(work[..., channel],.5)
        typical = float(np.median(plane[where]))
        empty = background(plane, typical)
        light += w*(plane - empty) / (max(typical - empty, 0) + FLOOR)
    return light, float(np.median(light[ring]))


def background(plane: np.ndarray, typical: float) -> float:
    """The most frequent of the low values, well below `typical`."""
    smooth = blur(plane, 1)
    lowest = float(np.percentile(smooth, 1))
    if typical - lowest < 1:
        return lowest
    counts, edges = np.histogram(smooth, 64, (lowest, lowest + 0.3 * (typical - lowest)))
    counts = np.convolve(counts, np.ones(3), "same")
    return float(edges[np.argmax(counts)])

def gradient(u):
    return np.hypot(cv2.Sobel(u,cv2.CV_32F,1,0),cv2.Sobel(u,cv2.CV_32F,0,1))/8
LOCAL,REACH=.17,3
def foreground(light,typical):
    s=blur(light,1)
    neg=s[s<0]
    noise=np.sqrt(np.mean(neg**2)) if len(neg)>.01*s.size else 0
    near=cv2.dilate(s,cv2.getStructuringElement(cv2.MORPH_ELLIPSE,(2*REACH+1,)*2))
    t=max(THRESHOLD*typical,NOISE*noise)
    g=gradient(s)
    while t<HAZY*typical:
        band=(s>t/1.2)&(s<t*1.2)
        if np.mean(g[band]/s[band])>=SHARP if band.any() else True: break
        t*=1.2
    return s>np.maximum(t,LOCAL*near)
SHARP,HAZY=.15,.3
def spread(work, nuclei):
    light,typ = stain(work,nuclei)
    fg = foreground(light,typ) | (nuclei > 0)
    u=np.log(np.maximum(blur(light,SIGMA),0)+EPS)
    return watershed(GRADIENT*gradient(u)-u,nuclei,mask=fg)
