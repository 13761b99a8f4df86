"""Instances at full scale: overlap removal with run lengths, and panoptic quality, against the plain loops.

    python benchmarks/instances.py [--cells 500] [--images 2722] [--plain_images 40]

The cells are made-up discs on 704 x 520 pixels, given as whole masks, as masks cut to their boxes, and as the mask
texts of a cells table, as submit.py reads them; PanNuke's images
are made-up discs of five types on 256 x 256 pixels. All ways give the same; the plain PQ runs on fewer images, and its
time is scaled up.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cells.masks import encode_mask
from cells.overlaps import cut_mask, remove_overlaps
from cells.rle import encode_labels
from common.seeds import rng
from competitions.neurons import final_labels
from metrics.panoptic import image_quality


def main() -> None:
    """Time all ways, check that they agree, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--images", type=int, default=2722)
    parser.add_argument("--plain_images", type=int, default=40)
    args = parser.parse_args()
    masks = np.array([disc(520, 704, 14, 0, number) for number in range(args.cells)])
    scores = rng(1).random(args.cells)
    cuts = [cut_mask(mask) for mask in masks]
    cells = pd.DataFrame({"ImageID": "a", "CellID": range(args.cells), "ImageWidth": 704, "ImageHeight": 520,
                          "PredictionString": [encode_mask(mask) for mask in masks], "score": scores})  # fmt: skip
    every = {"classes": ("cell",), "score_threshold": 0.0, "min_area": 0}
    text, read = clock(lambda: encode_labels(final_labels(cells, np.ones((args.cells, 1)), **every)))
    cut, own = clock(lambda: encode_labels(remove_overlaps(cuts, scores, masks.shape[1:])))
    whole, same = clock(lambda: encode_labels(remove_overlaps(masks, scores)))
    slow, plain = clock(lambda: plain_overlaps(masks, scores), 1)
    assert own == same == plain == read, "the ways differ"
    print(f"{args.cells} cells of 704 x 520: overlaps removed in score order, then run lengths")
    show(("mask by mask", slow), ("whole masks", whole), ("cut masks", cut),
         ("a cells table", text))  # fmt: skip

    pairs = [(instances(number, 0), instances(number, 1)) for number in range(50)]  # used again and again
    fast, ours = clock(lambda: [image_quality(*pairs[number % 50]) for number in range(args.images)], 1)
    few, plain = clock(lambda: [plain_quality(*pairs[number]) for number in range(args.plain_images)], 1)
    np.testing.assert_allclose(ours[: args.plain_images], plain)
    print(f"bPQ and PQ of five types, {args.images} images of 256 x 256")
    show(("cell by cell", few * args.images / args.plain_images), ("one look", fast))


def disc(height: int, width: int, radius: float, *keys: int) -> np.ndarray:
    """A boolean mask of a disc somewhere."""
    y, x = rng(0, *keys).uniform((0, 0), (height, width))
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def instances(number: int, shift: int) -> np.ndarray:
    """Instance ids of about 25 nuclei of five types, (256, 256, 5) int32; the finds lie `shift` pixels off."""
    arrays = np.zeros((256, 256, 5), np.int32)
    for cell in range(25):
        arrays[..., cell % 5][np.roll(disc(256, 256, 8, number, cell), shift, axis=1)] = cell + 1
    return arrays


def plain_overlaps(masks: np.ndarray, scores: np.ndarray) -> dict[int, str]:
    """The usual loop: each mask less what is taken, then its run lengths."""
    taken, texts = np.zeros(masks.shape[1:], bool), {}
    for index in np.argsort(-scores, kind="stable"):
        mask = masks[index] & ~taken
        taken |= mask
        if mask.any():
            padded = np.concatenate([[0], mask.ravel(), [0]])
            runs = np.flatnonzero(padded[1:] != padded[:-1]) + 1
            runs[1::2] -= runs[::2]
            texts[int(index) + 1] = " ".join(map(str, runs))
    return dict(sorted(texts.items()))


def plain_quality(truth: np.ndarray, found: np.ndarray) -> list[float]:
    """PanNuke's way: types painted one over the other, a mask a cell, every pair that overlaps compared."""
    return [plain_pq(paint(truth), paint(found))] + [plain_pq(truth[..., name], found[..., name]) for name in range(5)]


def paint(arrays: np.ndarray) -> np.ndarray:
    out, count = np.zeros(arrays.shape[:2], np.int32), 0
    for channel in np.moveaxis(arrays, 2, 0):
        for cell in np.unique(channel)[1:]:
            count += 1
            out[channel == cell] = count
    return out


def plain_pq(truth: np.ndarray, found: np.ndarray) -> float:
    true = [truth == cell for cell in np.unique(truth) if cell]
    own = {cell: found == cell for cell in np.unique(found) if cell}
    if not true:
        return float("nan")
    matched = []
    for mask in true:
        for cell in np.unique(found[mask]):
            if cell:
                iou = (mask & own[cell]).sum() / (mask | own[cell]).sum()
                matched += [iou] if iou > 0.5 else []
    return sum(matched) / (len(matched) + (len(true) - len(matched)) / 2 + (len(own) - len(matched)) / 2)


def clock(work: Callable, repeat: int = 5) -> tuple[float, object]:
    """The best of `repeat` runs, seconds, and what they give."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def show(*rows: tuple[str, float]) -> None:
    for name, seconds in rows:
        print(f"  {name:16}{seconds:9.3f} s{rows[0][1] / seconds:9.1f} times as fast")


if __name__ == "__main__":
    main()
