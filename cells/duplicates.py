"""Near-duplicate images by perceptual hash: hashes, clusters of close ones, and which of a cluster to keep.

The hash is imagehash's `phash`: 64 bits that tell which of the 8 x 8 lowest frequencies of the picture, shrunk to
32 x 32, lie above their median. It hardly changes with the file's format, size, brightness or contrast, but does change
when the picture is turned or flipped.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numba import njit

from cells.crops import to_uint8
from cells.regions import root

BITS = 64  # of a hash


def hash_image(image: np.ndarray) -> np.ndarray:
    """The hashes of an image (H, W, C) of 8 or 16 bits: uint64, (1,) of an RGB image's grey values, else (C,)."""
    import imagehash
    from PIL import Image

    image = to_uint8(image)
    planes = [image] if image.shape[2] == 3 else np.moveaxis(image, 2, 0)
    bits = [imagehash.phash(Image.fromarray(np.ascontiguousarray(plane))).hash for plane in planes]
    return np.packbits(np.reshape(bits, (len(planes), BITS)), axis=1).view(">u8")[:, 0].astype(np.uint64)


def format_hash(hashes: np.ndarray) -> str:
    """Hashes (C,) as text: 16 hexadecimal digits each, joined by `-`.

    >>> format_hash(np.array([1, 255], np.uint64))
    '0000000000000001-00000000000000ff'
    """
    return "-".join(f"{int(value):016x}" for value in hashes)


def parse_hashes(texts: Sequence[str]) -> np.ndarray:
    """What `format_hash` wrote, N texts of equally many hashes, as uint64 (N, C)."""
    values = [[int(part, 16) for part in text.split("-")] for text in texts]
    return np.array(values, np.uint64).reshape(len(values), -1 if values else 0)


def find_clusters(hashes: np.ndarray, distance: int) -> np.ndarray:
    """The cluster of each row of `hashes` (N, C) uint64: int64 (N,), counted from 0 in the order of the rows.

    Two rows are near when in every column at most `distance` bits differ; clusters are the connected components, so
    that the ends of a chain of near ones may lie further apart. Exact: of `distance` + 1 bands of bits, near rows have
    one that is equal in both, so only rows with an equal band are compared.
    """
    if not len(hashes):
        return np.zeros(0, np.int64)
    distinct, which = np.unique(hashes, axis=0, return_inverse=True)
    parent = np.arange(len(distinct))
    for band in _bands(distance):
        bits = distinct[:, 0] & band
        order = np.argsort(bits, kind="stable")
        _join_near(distinct[order], bits[order], order, distance, parent)
    roots = np.array([root(parent, row) for row in range(len(parent))])
    return pd.factorize(roots[which.reshape(-1)])[0].astype(np.int64)


def _bands(distance: int) -> list[np.uint64]:
    """Masks that share out the bits of a hash; one without any bit, so that all rows agree, where bands do not pay."""
    if distance >= 15:
        return [np.uint64(0)]
    edges = [BITS * band // (distance + 1) for band in range(distance + 2)]
    return [np.uint64((1 << stop) - (1 << start)) for start, stop in pairwise(edges)]


@njit(cache=True)
def _join_near(hashes, bits, order, distance, parent):
    """Join near rows with equal `bits`, by which the rows are sorted; `order` is their place in `parent`."""
    count, columns = hashes.shape
    for i in range(count):
        j = i + 1
        while j < count and bits[j] == bits[i]:
            column = 0
            while column < columns and _count_bits(hashes[i, column] ^ hashes[j, column]) <= distance:
                column += 1
            if column == columns:
                parent[root(parent, order[j])] = root(parent, order[i])
            j += 1


@njit(cache=True)
def _count_bits(bits):
    """The ones of a uint64 by adding up neighbours; the compiler makes one machine instruction of it."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


def choose_kept(clusters: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """One row of each cluster: bool (N,). The one of the highest count (N,) of labels, of equals the first."""
    order = np.lexsort((np.arange(len(clusters)), -counts))
    kept = np.zeros(len(clusters), bool)
    kept[order[np.unique(clusters[order], return_index=True)[1]]] = True
    return kept
