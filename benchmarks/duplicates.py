"""Clusters of near duplicates among made-up hashes: ours against numpy, one row at a time against all that follow.

    python benchmarks/duplicates.py [--images 22000 100000] [--channels 4 1] [--plain_up_to 22000]

2 of 100 images are copies of others with one or two bits of each hash changed. `plain` is left out above --plain_up_to
images. One thread; the compiler's time is not counted.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cells.duplicates import find_clusters
from common.seeds import rng

ONES = np.array([bin(value).count("1") for value in range(256)], np.uint8)  # of a byte


def main() -> None:
    """Find the clusters in each way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[22_000, 100_000])
    parser.add_argument("--channels", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--plain_up_to", type=int, default=22_000)
    parser.add_argument("--distance", type=int, default=4)
    args = parser.parse_args()
    find_clusters(make_hashes(10, 1), args.distance)
    print(f"{'images':>8} {'channels':>8} {'way':>6} {'seconds':>8} {'clusters':>9}")
    for images in args.images:
        for channels in args.channels:
            hashes = make_hashes(images, channels)
            ways = {"ours": find_clusters} | ({"plain": plain} if images <= args.plain_up_to else {})
            found = {}
            for name, way in ways.items():
                began = time.perf_counter()
                found[name] = way(hashes, args.distance)
                seconds = time.perf_counter() - began
                print(f"{images:>8} {channels:>8} {name:>6} {seconds:>8.2f} {found[name].max() + 1:>9}")
            assert all(np.array_equal(found["ours"], other) for other in found.values())


def make_hashes(images: int, channels: int) -> np.ndarray:
    """(images, channels) uint64."""
    generator = rng(0, "hashes", images, channels)
    hashes = generator.integers(0, 2**64, (images, channels), dtype=np.uint64)
    copies, sources = generator.permutation(images)[: images // 50 * 2].reshape(2, -1)
    flips = np.uint64(1) << generator.integers(0, 64, (2, len(copies), channels), dtype=np.uint64)
    hashes[copies] = hashes[sources] ^ (flips[0] | flips[1])
    return hashes


def plain(hashes: np.ndarray, distance: int) -> np.ndarray:
    """The same clusters by a loop over the rows."""
    octets = hashes.view(np.uint8).reshape(*hashes.shape, 8)
    clusters = np.arange(len(hashes))
    for row in range(len(hashes) - 1):
        apart = ONES[octets[row + 1 :] ^ octets[row]].sum(axis=2, dtype=np.uint8)
        near = row + 1 + np.flatnonzero((apart <= distance).all(axis=1))
        for other in near:
            clusters[clusters == clusters[other]] = clusters[row]
    return pd.factorize(clusters)[0]


if __name__ == "__main__":
    main()
