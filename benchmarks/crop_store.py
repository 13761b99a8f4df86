"""The crop store against other ways to keep cells: bytes, time to write, time to read a cell at 768 x 768.

    python benchmarks/crop_store.py --crop_dir CROPS/train [--cells 100]

Takes cells of a crop store that segment.py wrote; writes and reads them in a temporary folder. `array of 768` is a file
of 768 x 768 x 4 bytes a cell, as the 12th-place system kept them.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cells.crops import resize
from cells.store import Store, decode_png, write_shard

SIZE = 768
DEFAULT = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT, cv2.IMWRITE_PNG_COMPRESSION]


class Way(NamedTuple):
    """How to keep a cell: to bytes, and from bytes to what the network gets."""

    write: Callable[[np.ndarray], bytes]
    read: Callable[[bytes], np.ndarray]


def main() -> None:
    """Keep the same cells in each way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crop_dir", required=True)
    parser.add_argument("--cells", type=int, default=100)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    store = Store(args.crop_dir)
    keys = list(islice(((image, cell) for image in store.images() for cell in store.cells(image)), args.cells))
    crops = [store.read(*key, raw=True) for key in keys]
    print(f"{len(crops)} cells of {args.crop_dir}, side {np.mean([len(crop) for crop in crops]):.0f} pixels on average")
    print(f"{'':34}{'KB a cell':>10}{'smaller':>9}{'write ms':>10}{'read ms':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for name, way in WAYS.items():
            show(name, *measure(way, crops, Path(folder)))
        show("the crop store", *measure_store(keys, crops, Path(folder) / "store"))


def measure(way: Way, crops: list[np.ndarray], folder: Path) -> tuple[float, float, float]:
    """Bytes, seconds to write, seconds to read, each a cell."""
    paths = [folder / str(number) for number in range(len(crops))]
    start = time.perf_counter()
    for path, crop in zip(paths, crops, strict=True):
        path.write_bytes(way.write(crop))
    middle = time.perf_counter()
    for path in paths:
        way.read(path.read_bytes())
    end = time.perf_counter()
    size = sum(path.stat().st_size for path in paths)
    return size / len(crops), (middle - start) / len(crops), (end - middle) / len(crops)


def measure_store(keys: list, crops: list[np.ndarray], folder: Path) -> tuple[float, float, float]:
    """The same of the crop store, its shards' tables of contents and its reader's own work included."""
    images = dict.fromkeys(image for image, _ in keys)
    start = time.perf_counter()
    for image in images:
        own = {cell: crop for (other, cell), crop in zip(keys, crops, strict=True) if other == image}
        write_shard(folder / f"{image}.zip", own)
    middle = time.perf_counter()
    store = Store(folder)
    for key in keys:
        store.read(*key, size=SIZE)
    end = time.perf_counter()
    same = all(np.array_equal(store.read(*key, raw=True), crop) for key, crop in zip(keys, crops, strict=True))
    assert same, "the store lost something"
    size = sum(path.stat().st_size for path in folder.iterdir())
    return size / len(crops), (middle - start) / len(crops), (end - middle) / len(crops)


def show(name: str, size: float, write: float, read: float) -> None:
    """A line of the table."""
    times = SIZE * SIZE * 4 / size
    print(f"{name:34}{size / 1000:10.1f}{times:8.2f}x{1000 * write:10.1f}{1000 * read:9.1f}")


def png(image: np.ndarray, settings: list[int]) -> bytes:
    """A PNG of any shape."""
    return cv2.imencode(".png", image, settings)[1].tobytes()


def unpng(data: bytes) -> np.ndarray:
    """A PNG at the network's size."""
    return resize(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), SIZE)


def stack(image: np.ndarray) -> np.ndarray:
    """The channels one above the other."""
    return np.concatenate(list(np.moveaxis(image, 2, 0)))


WAYS = {
    "array of 768": Way(
        lambda crop: resize(crop, SIZE).tobytes(), lambda data: np.frombuffer(data, np.uint8).reshape(SIZE, SIZE, 4)
    ),
    "PNG, 4 channels, zlib 6": Way(lambda crop: png(crop, [*DEFAULT, 6]), unpng),
    "PNG, 4 channels, OpenCV's default": Way(lambda crop: png(crop, []), unpng),
    "PNG, planes, zlib 6": Way(
        lambda crop: png(stack(crop), [*DEFAULT, 6]), lambda data: resize(decode_png(data, ""), SIZE)
    ),
}


if __name__ == "__main__":
    main()
