"""The finder `watershed`: cells and nuclei of an RGBY image, without trained weights."""

import cv2
import numpy as np
from scipy import ndimage

from cells.watershed_cytoplasm import spread
from cells.watershed_nuclei import WIDTH, blur, find_nuclei, nuclear_width, unmix

LOOK = 512  # longer side of the image in which the nuclei's width is measured, pixels
NUCLEUS_AREA, CELL_AREA = 2500, 5500  # smaller ones are dropped, pixels of the original image
THRESHOLD = 8
GRADIENT = 3
SIGMA=2.7
CLOSE=5

def find_cells(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cells of an image (H, W, 4) RGBY, uint8 or uint16, and their nuclei: two label images, int32 (H, W).

    Ids count from 1 without gaps; a nucleus carries its cell's id, every cell has a nucleus, 0 is background.
    """
    shape = image.shape[:2]
    work = reduce(image, working_factor(image))
    nuclei = find_nuclei(unmix(work))
    scale=work.shape[0]*work.shape[1]/(shape[0]*shape[1])
    nuclei = drop_small_nuclei(nuclei,NUCLEUS_AREA*scale,min(shape)>=1500)
    if not nuclei.any():
        return np.zeros(shape,np.int32),np.zeros(shape,np.int32)
    cells = tidy(spread(work, nuclei),nuclei,CLOSE)
    return enlarge(cells, shape), enlarge(np.where(cells == nuclei, nuclei, 0), shape)

def drop_small_nuclei(nuclei,limit,native):
    a=np.bincount(nuclei.ravel()); a[0]=0
    ok=a[a>WIDTH**2*.15]
    if len(ok)==0: return np.zeros_like(nuclei)
    lim=limit if native else min(limit,.14*np.median(ok))
    k=a>=lim
    return np.where(k,np.cumsum(k),0)[nuclei].astype(np.int32)

def working_factor(image: np.ndarray) -> float:
    """Side of the working image / side of the image, such that nuclei are about `WIDTH` wide."""
    factor = LOOK / max(image.shape[:2])
    width = nuclear_width(unmix(reduce(image, factor)))
    return factor * float(np.clip(WIDTH / width, 0.5, 2)) if width else factor


def reduce(image: np.ndarray, factor: float) -> np.ndarray:
    """The image (H, W) or (H, W, C) at `factor` of its size, float32 in 0..255."""
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    values = image.astype(np.float32)
    if image.dtype == np.uint16:
        values /= 257
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)

def tidy(lab,nuclei,r):
    out=np.zeros_like(nuclei)
    K=cv2.getStructuringElement(cv2.MORPH_ELLIPSE,(2*r+1,2*r+1))
    H,W=lab.shape
    for k,s in enumerate(ndimage.find_objects(lab),1):
        if s is None: continue
        s=tuple(slice(max(0,a.start-r),min(n,a.stop+r)) for a,n in zip(s,(H,W)))
        m=lab[s]==k; l,n=ndimage.label(m); t=np.unique(l[(nuclei[s]==k)&m]); m=np.isin(l,t[t>0])
        m=cv2.copyMakeBorder(m.astype(np.uint8),r,r,r,r,cv2.BORDER_REPLICATE)
        m=cv2.morphologyEx(m,cv2.MORPH_CLOSE,K)[r:-r,r:-r]
        m=ndimage.binary_fill_holes(m)
        out[s][m&((lab[s]==0)|(lab[s]==k))&(out[s]==0)]=k
    return out

def enlarge(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Label image at the size (H, W) of the original, its outlines smooth: each pixel to the label that weighs most."""
    sy,sx=shape[0]/labels.shape[0],shape[1]/labels.shape[1]
    out=np.zeros(shape,np.int32); best=np.full(shape,.5,np.float32)
    for k,s in enumerate(ndimage.find_objects(labels),1):
        if s is None: continue
        a=tuple(slice(max(0,b.start-3),min(n,b.stop+3)) for b,n in zip(s,labels.shape))
        m=blur((labels[a]==k).astype(np.float32),1)
        y0,y1=round(a[0].start*sy),round(a[0].stop*sy); x0,x1=round(a[1].start*sx),round(a[1].stop*sx)
        v=cv2.resize(m,(x1-x0,y1-y0),interpolation=cv2.INTER_LINEAR)
        b=best[y0:y1,x0:x1]; u=v>b; b[u]=v[u]; out[y0:y1,x0:x1][u]=k
    return out
