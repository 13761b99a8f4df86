"""How fast synthesize.py draws, and how like the real images its images are.

    python benchmarks/synthesize.py                                     # speed
    python benchmarks/synthesize.py --real path/to/hpa           # ... and figures beside those of real images
    python benchmarks/synthesize.py --real path/to/hpa --docs docs   # ... and the pictures of docs/synthetic.md

Speed is the CPU time of one process with one thread, drawing and writing included, against the plain way: the same
functions, but every cell drawn on the whole image instead of in a box of its own.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.errors import run
from competitions.hpa import CLASSES, read_image
from synthesis import hpa
from synthesis.cells import Cell
from synthesis.settings import Settings

CREDIT = ("000a6c98-bb9b-11e8-b2b9-ac1f6b6435d0", "a34d8680-bb99-11e8-b2b9-ac1f6b6435d0")  # of 2048 pixels
PURE = Settings(ghost=0, haze=(0, 1), dim=0, vary=0, green=(120, 120), red=(70, 70), blue=(90, 90), dividing=0)
STAINS = {"microtubules": 0, "nuclei": 2, "ER": 3}


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024, 2048], help="sides in pixels")
    parser.add_argument("--images", type=int, default=19, help="images a size")
    parser.add_argument("--real", type=Path, help="folder with train/ and segmentator_masks/ of real images")
    parser.add_argument("--docs", type=Path, help="folder for the pictures")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_args_parser().parse_args(argv)
    cv2.setNumThreads(1)
    say("| size | images | s/image, ours | s/image, whole-image cells | times faster |\n|---|---|---|---|---|")
    for size in args.sizes:
        ours = seconds(size, args.images)
        few = max(1, args.images // 6)
        plain = seconds(size, few, boxes=False)
        say(f"| {size} | {args.images} | {ours:.2f} | {plain:.2f} | {plain / ours:.1f} |")
    if args.real:
        compare(args.real)
        if args.docs:
            draw_likeness(args.real, args.docs / "synthetic_likeness.png")
            draw_details(args.real, args.docs / "synthetic_details.png")
            draw_patterns(args.docs / "synthetic_patterns.png")


def say(line: str) -> None:
    print(line, flush=True)


def seconds(size: int, images: int, boxes: bool = True) -> float:
    """CPU seconds an image; without `boxes` the cells are drawn on the whole image."""
    request = hpa.Request(1, size, size)
    visible = hpa._visible
    if not boxes:
        hpa._visible = lambda cells, request: [whole(cell, request) for cell in visible(cells, request)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            hpa.write_image(Path(folder), request, "test", 0)
            start = time.process_time()
            for index in range(images):
                hpa.write_image(Path(folder), request, "train" if index % 2 else "test", index + 1)
            return (time.process_time() - start) / images
    finally:
        hpa._visible = visible


def whole(cell: Cell, request: hpa.Request) -> Cell:
    """The same cell in a box as large as the image."""
    (rows, columns), margin = cell.slices, int(hpa.MARGIN * cell.scale)
    above, left = rows.start + margin, columns.start + margin
    below, right = request.height + margin - rows.stop, request.width + margin - columns.stop
    frame = ((above, below), (left, right))
    wide = Cell(-margin, -margin, np.pad(cell.mask, frame), np.pad(cell.nucleus, frame), cell.scale, cell.axis)
    wide.dividing, wide.visible = cell.dividing, cell.visible
    for name in ("to_edge", "to_nucleus", "in_nucleus"):  # of a nucleus outside the box they cannot be measured
        setattr(wide, name, np.pad(getattr(cell, name), frame, mode="edge"))
    wide.poles = cell.poles and tuple((y + above, x + left) for y, x in cell.poles)
    return wide


def compare(real: Path) -> None:
    """Print figures of the real images and of made-up ones."""
    rows = [("real " + name[:8], *real_image(real, name)) for name in CREDIT]
    made = [hpa.draw_image(hpa.Request(2, 2048, 2048), "train", index) for index in range(8)]
    rows += [(f"made-up {number}", image.pixels, image.labels) for number, image in enumerate(made, start=1)]
    stains = " | ".join(f"{name}: mean, grain" for name in STAINS)
    say(f"\n| image | cells | share of image | cell area, mean | {stains} |")
    say("|---" * (4 + len(STAINS)) + "|")
    for name, pixels, labels in rows:
        cells = len(np.unique(labels)) - 1
        inside = labels > 0
        figures = [stain_figures(pixels[..., channel], inside) for channel in STAINS.values()]
        area = np.count_nonzero(inside) / cells
        say(f"| {name} | {cells} | {inside.mean():.2f} | {area:,.0f} | " + " | ".join(figures) + " |")


def stain_figures(plane: np.ndarray, inside: np.ndarray) -> str:
    """Mean inside cells, and the standard deviation of three bands of detail (2, 2-8, 8-32 pixels) relative to it."""
    plane = plane.astype(np.float32)
    blurs = [plane, *(cv2.GaussianBlur(plane, (0, 0), sigma) for sigma in (2, 8, 32))]
    mean = plane[inside].mean()
    bands = [(fine - wide)[inside].std() / mean for fine, wide in pairwise(blurs)]
    return f"{mean:.0f}, " + " ".join(f"{band:.2f}" for band in bands)


def real_image(real: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    labels = cv2.imread(str(real / "segmentator_masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    return read_image(real / "train", name), labels


def colours(pixels: np.ndarray) -> np.ndarray:
    """RGBY as a colour picture (BGR): ER as the yellow under the three others."""
    red, green, blue, yellow = (pixels[..., channel].astype(np.float32) for channel in range(4))
    picture = np.dstack([blue, green + 0.45 * yellow, red + 0.45 * yellow])
    return np.clip(1.4 * picture, 0, 255).astype(np.uint8)


def draw_likeness(real: Path, path: Path) -> None:
    """Whole images: two real ones above, four made-up ones below and beside them."""
    pictures = [colours(real_image(real, name)[0]) for name in CREDIT]
    pictures += [colours(hpa.draw_image(hpa.Request(2, 2048, 2048), "train", index).pixels) for index in (0, 1, 3, 6)]
    names = ["real", "real", *["made-up"] * 4]
    tiles = [titled(shrink(picture, 300), name) for picture, name in zip(pictures, names, strict=True)]
    save(path, np.vstack([np.hstack(tiles[start::2]) for start in (0, 1)]))


def draw_details(real: Path, path: Path) -> None:
    """One cell at full resolution, stain by stain: a real one above, a made-up one below."""
    rows = []
    made = hpa.draw_image(hpa.Request(2, 2048, 2048), "train", 3)
    for name, (pixels, labels) in (("real", real_image(real, CREDIT[0])), ("made-up", (made.pixels, made.labels))):
        y, x = middle_cell(labels)
        window = pixels[y - 150 : y + 150, x - 150 : x + 150]
        stretched = [stretch(window[..., channel]) for channel in STAINS.values()]
        titles = [f"{name}: {stain}" for stain in STAINS]
        rows.append(np.hstack([titled(tile, title) for tile, title in zip(stretched, titles, strict=True)]))
    save(path, np.vstack(rows))


def stretch(plane: np.ndarray) -> np.ndarray:
    """A grey plane with its 99.7th percentile at white, as a colour picture."""
    top = max(1.0, float(np.percentile(plane, 99.7)))
    grey = np.clip(plane * (255 / top), 0, 255).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def middle_cell(labels: np.ndarray) -> tuple[int, int]:
    """Middle (y, x) of the cell of middle size, at least 150 pixels from the border."""
    found = []
    for label in np.unique(labels)[1:]:
        ys, xs = np.nonzero(labels == label)
        y, x = int(ys.mean()), int(xs.mean())
        if min(y, x) >= 150 and max(y, x) < min(labels.shape) - 150:
            found.append((len(ys), y, x))
    return sorted(found)[len(found) // 2][1:]


def draw_patterns(path: Path) -> None:
    """A cell of each class: the protein in green over the nucleus in blue and the microtubules in red."""
    tiles = []
    for index, name in enumerate(CLASSES):
        image, number = one_cell(index)
        ys, xs = np.nonzero(image.labels == number)
        y, x = (int(np.clip(part.mean(), 200, 700)) for part in (ys, xs))
        window = image.pixels[y - 200 : y + 200, x - 200 : x + 200]
        green, blue, red = (window[..., channel].astype(np.float32) for channel in (1, 2, 0))
        green *= 255 / max(120.0, float(np.percentile(green, 99.8)))
        picture = np.clip(np.dstack([0.8 * blue + green, green, 0.25 * red + green]), 0, 255).astype(np.uint8)
        tiles.append(titled(shrink(picture, 170), name[:24]))
    tiles.append(np.zeros_like(tiles[0]))
    save(path, np.vstack([np.hstack(tiles[start : start + 5]) for start in range(0, 20, 5)]))


def one_cell(index: int) -> tuple[hpa.Image, int]:
    """An image of this class alone, and the number of a cell that shows it."""
    choose: Callable = hpa.image_classes
    hpa.image_classes = lambda *_: [index]
    try:
        for attempt in range(50):
            image = hpa.draw_image(hpa.Request(21, 900, 900, (5, 6), settings=PURE), "train", attempt)
            for number, classes in enumerate(image.classes, start=1):
                ys, xs = np.nonzero(image.labels == number)
                if classes == [index] and min(ys.mean(), xs.mean()) > 150 and max(ys.mean(), xs.mean()) < 750:
                    return image, number
    finally:
        hpa.image_classes = choose
    raise AssertionError(f"no cell of class {index}")


def shrink(picture: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def titled(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a title in its corner and a thin frame, as a copy."""
    picture = cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(90, 90, 90))
    cv2.putText(picture, text, (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def save(path: Path, picture: np.ndarray) -> None:
    """Write a PNG of few colours, so that it stays small."""
    step = 12
    picture = np.minimum((picture.astype(np.int32) + step // 2) // step * step, 255).astype(np.uint8)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    say(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    run(main)
