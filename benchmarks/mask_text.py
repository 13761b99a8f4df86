"""Mask text of all cells of an image: at once, against cell by cell with pycocotools, zlib and base64.

    python benchmarks/mask_text.py [--size 2048] [--cells 30] [--labels CACHE/train/<ImageID>.cells.png]

Without --labels the cells are made up: they fill the image but for a tenth, with wavy outlines. Both give equal bytes.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cells.masks import decode_mask, encode_label_image, encode_mask


def main() -> None:
    """Time both ways, check that they agree, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--cells", type=int, default=30)
    parser.add_argument("--labels", help="a label image instead of a made-up one")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    made_up = args.labels is None
    labels = make_labels(args.size, args.cells) if made_up else cv2.imread(args.labels, cv2.IMREAD_UNCHANGED)
    ids = np.unique(labels[labels > 0]).tolist()
    ours, plain = lambda: encode_label_image(labels), lambda: {cell: encode_mask(labels == cell) for cell in ids}
    texts = ours()
    assert texts == plain(), "the two ways differ"
    fast, slow = clock(ours, args.repeat), clock(plain, args.repeat)
    decode = clock(lambda: [decode_mask(text, *labels.shape) for text in texts.values()], args.repeat)
    length = sum(map(len, texts.values())) / len(ids)
    print(f"{labels.shape[1]} x {labels.shape[0]} pixels, {len(ids)} cells, {length:.0f} characters a cell")
    print(f"{'cell by cell':24}{1000 * slow:9.1f} ms")
    print(f"{'all at once':24}{1000 * fast:9.1f} ms{slow / fast:9.1f} times faster, equal bytes")
    print(f"{'decode all':24}{1000 * decode:9.1f} ms")


def make_labels(size: int, cells: int) -> np.ndarray:
    """A label image int32 (size, size): the nearest of `cells` points, on ground that waves bend."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    y, x = y + size / 100 * np.sin(x / size * 90), x + size / 100 * np.sin(y / size * 70)
    distances = [np.hypot(y - a, x - b) for a, b in random.uniform(0, size, (cells, 2))]
    labels = np.argmin(distances, axis=0).astype(np.int32) + 1
    nearest = np.min(distances, axis=0)
    labels[nearest > np.quantile(nearest, 0.9)] = 0
    return labels


def clock(work: Callable, repeat: int) -> float:
    """The best of `repeat` runs, seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
