"""How well the finder `watershed` finds the HPA Cell Segmentator's cells, beside a plain watershed of 15 lines.

    python benchmarks/watershed.py --data_dir path/to/hpa [--stress 0] [--synthetic FOLDER] [--nuclei FOLDER] \
        [--pictures FOLDER] [--cells NAME=TABLE ...]

`--data_dir` holds train/ and segmentator_masks/ (a label image per image). Prints per image the cells of the
segmentator and ours, the segmentator's cells matched at IoU .6, the mean best IoU, the ratio of the counts and the CPU
seconds; then the same over harder versions of the images (benchmarks/stress.py); with `--synthetic` for the test images
that synthesize.py wrote there; with `--nuclei` for the nuclei in the fluorescence images of a folder as of DSB 2018.
`--cells` are tables that segment.py wrote of the same images with other finders, shown beside.
`--pictures` gets a JPEG per image: the segmentator's outlines in white, our cells in magenta, our nuclei in cyan.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from benchmarks.stress import CHANGES, crowd, whole_cells
from cells.masks import decode_mask
from cells.table import read_cells
from cells.watershed import find_cells, reduce, working_image
from cells.watershed_nuclei import find_nuclei
from common.errors import run
from common.files import atomic, existing
from competitions.hpa import read_image

Finder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Agreement(NamedTuple):
    """Cells of the truth, cells found, truth's cells with an IoU of .6, sum over the truth's cells of the best IoU."""

    truth: int
    found: int
    matched: int
    overlap: float

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(*(one + two for one, two in zip(self, other, strict=True)))


def best_overlaps(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """For each label of `truth` the IoU with the label of `found` that fits best, float64, in the order of the labels.

    >>> best_overlaps(np.array([[1, 1, 2, 0]]), np.array([[7, 7, 7, 0]])).round(2).tolist()
    [0.67, 0.33]
    """
    shape = int(truth.max()) + 1, int(found.max()) + 1
    both = np.bincount(truth.ravel().astype(np.int64) * shape[1] + found.ravel(), minlength=shape[0] * shape[1])
    both = both.reshape(shape)
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    overlap = (both / np.maximum(union, 1))[:, 1:]
    return overlap.max(axis=1, initial=0)[1:][both.sum(axis=1)[1:] > 0]


def agree(truth: np.ndarray, found: np.ndarray) -> Agreement:
    best = best_overlaps(truth, found)
    return Agreement(len(best), len(np.unique(found[found > 0])), int((best >= 0.6).sum()), float(best.sum()))


def plain(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plain way: Otsu nuclei, distance-transform seeds, watershed on red + yellow + blue at 512 pixels."""
    small = reduce(image, 512 / max(image.shape[:2]))
    blue = cv2.GaussianBlur(small[..., 2], (0, 0), 1)
    mask = ndimage.binary_opening(ndimage.binary_fill_holes(blue > threshold_otsu(blue)), iterations=4)
    depth = cv2.GaussianBlur(ndimage.distance_transform_edt(mask), (0, 0), 4)
    seeds = np.zeros(mask.shape, np.int32)
    peaks = peak_local_max(depth, min_distance=15, labels=ndimage.label(mask)[0])
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    nuclei = watershed(-depth, seeds, mask=mask)
    light = cv2.GaussianBlur(small[..., 0] + small[..., 3] + small[..., 2], (0, 0), 2)
    cells = watershed(-light, nuclei, mask=(np.log1p(light) > threshold_otsu(np.log1p(light))) | mask)
    large = [cv2.resize(labels.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
             for labels in (cells, nuclei)]  # fmt: skip
    return large[0].astype(np.int32), large[1].astype(np.int32)


def measure(find: Finder, labelled: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[Agreement, float]:
    """The agreement over images and their truth, and the CPU seconds an image."""
    total, seconds, count = Agreement(0, 0, 0, 0.0), 0.0, 0
    for image, truth in labelled:
        start = time.process_time()
        found = find(image)[0]
        seconds += time.process_time() - start
        total, count = total + agree(truth, found), count + 1
    return total, seconds / max(count, 1)


def real_images(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The images with segmentator masks: id -> image, label image."""
    masks = sorted(existing(folder / "segmentator_masks", "--data_dir").glob("*.png"))
    return {path.stem: (read_image(folder / "train", path.stem), _read_labels(path)) for path in masks}


def _read_labels(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int32)


def synthetic_images(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The test images of a synthetic data set with their true cells."""
    for image_id, rows in read_cells(folder / "truth.csv").groupby("ImageID"):
        image = read_image(folder / "test", image_id)
        yield image, drawn_cells(rows, image.shape[:2])


def drawn_cells(rows: pd.DataFrame, shape: tuple[int, int]) -> np.ndarray:
    """The label image of the rows of a cells table."""
    labels = np.zeros(shape, np.int32)
    for cell, text in zip(rows["CellID"], rows["PredictionString"], strict=True):
        labels[decode_mask(text, *shape)] = cell
    return labels


def nucleus_images(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The fluorescence images of DSB 2018 as the blue of an RGBY image, and their true nuclei."""
    table = pd.read_csv(folder / "train.csv")
    for image_id, rows in table[table["cell_type"].str.contains("fluo")].groupby("id"):
        blue = cv2.imread(str(next((folder / "train").glob(f"{image_id}*"))), cv2.IMREAD_COLOR).max(axis=2)
        truth = np.zeros(blue.size, np.int32)
        for nucleus, text in enumerate(rows["annotation"], start=1):
            numbers = np.array(text.split(), int)
            for start, length in zip(numbers[::2], numbers[1::2], strict=True):
                truth[start - 1 : start - 1 + length] = nucleus
        yield np.dstack([np.zeros((*blue.shape, 2), np.uint8), blue, 0 * blue]), truth.reshape(blue.shape)


def only_nuclei(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nuclei = find_nuclei(working_image(image)[..., 2])
    large = cv2.resize(nuclei.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.int32)
    return large, large


def picture(image: np.ndarray, truth: np.ndarray, side: int = 760) -> np.ndarray:
    """The image with the outlines of the truth, our cells and our nuclei, BGR (side, ~side, 3)."""
    cells, nuclei = find_cells(image)
    size = tuple(round(length * side / max(truth.shape)) for length in truth.shape[::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)[..., [2, 3, 0]].astype(np.float32)
    light = np.clip(small / np.percentile(small, 99.7, axis=(0, 1)), 0, 1) ** 0.6
    drawn = np.ascontiguousarray((light * 255).astype(np.uint8))
    for labels, color in ((truth, (255, 255, 255)), (cells, (255, 0, 255)), (nuclei, (255, 255, 0))):
        coarse = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
        for label in np.unique(coarse)[1:]:
            outlines, _ = cv2.findContours((coarse == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, outlines, -1, color, 1)
    return drawn


def say(name: str, result: tuple[Agreement, float]) -> None:
    (truth, found, matched, overlap), seconds = result
    print(
        f"{name:32} {truth:6} {found:6} {matched:8} {100 * matched / max(truth, 1):6.1f} % "
        f"{overlap / max(truth, 1):8.3f} {found / max(truth, 1):7.2f} {seconds:6.2f}"
    )


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--stress", type=int, default=1, help="0 leaves out the harder versions of the images")
    parser.add_argument("--synthetic", type=Path, help="a data set of synthesize.py")
    parser.add_argument("--nuclei", type=Path, help="a folder with train.csv and train/ as in DSB 2018")
    parser.add_argument("--cells", nargs="*", default=[], metavar="NAME=TABLE", help="cells tables of other finders")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the images with the outlines")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_args_parser().parse_args(argv)
    cv2.setNumThreads(1)
    head = ("truth", "ours", "matched", "", "mean IoU", "ratio", "s")
    print("{:32} {:>6} {:>6} {:>8} {:>8} {:>8} {:>7} {:>6}".format("", *head))
    images = real_images(args.data_dir)
    for name, finder in (("plain", plain), ("watershed", find_cells)):
        for image_id, labelled in images.items():
            say(f"{image_id[:8]} {name}", measure(finder, [labelled]))
    for name, _, table in (text.partition("=") for text in args.cells):
        cells = read_cells(existing(table, "--cells"))
        for image_id, (_, truth) in images.items():
            own = drawn_cells(cells[cells["ImageID"] == image_id], truth.shape)
            say(f"{image_id[:8]} {name}", (agree(truth, own), float("nan")))
    if args.pictures:
        for image_id, labelled in images.items():
            with atomic(args.pictures / f"watershed_{image_id[:8]}.jpg") as path:
                cv2.imwrite(str(path), picture(*labelled), [cv2.IMWRITE_JPEG_QUALITY, 80])
    if args.stress:
        for name, change in CHANGES.items():
            say(name, measure(find_cells, (change(*labelled) for labelled in images.values())))
        cells = [cell for labelled in images.values() for cell in whole_cells(*labelled)]
        for zoom in (0.9, 0.7, 0.5, 0.35):
            say(f"crowd x {zoom}", measure(find_cells, (crowd(cells, zoom, seed) for seed in (1, 2))))
    if args.synthetic:
        say("synthetic", measure(find_cells, synthetic_images(args.synthetic)))
    if args.nuclei:
        say("nuclei, plain", measure(lambda image: plain(image)[::-1], nucleus_images(args.nuclei)))
        say("nuclei", measure(only_nuclei, nucleus_images(args.nuclei)))


if __name__ == "__main__":
    run(main)
