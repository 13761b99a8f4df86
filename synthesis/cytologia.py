"""Made-up blood smears of the Cytologia challenge: 23 classes of cells among pale-centred red cells.

How a cell of each class looks is in `synthesis/blood.py`. Most images hold one labelled cell, near the middle.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells.table import write_table
from common.seeds import rng
from synthesis import pictures
from synthesis.blood import CLASSES, LOOKS, PINK, Smear, draw_cell, draw_red_cells
from synthesis.channels import smooth_noise
from synthesis.pictures import Request

VERSION = 1  # of the drawing: images of another version are not mixed with these
COUNTS = {"train": 40, "test": 10}  # images of each split, unless a flag says otherwise
SIZE, BALANCE = "370x368", "natural"
OUTPUTS = ("train", "test", "train.csv", "test.csv", "test_truth.csv")
COLUMNS = {"NAME": str, "x1": int, "y1": int, "x2": int, "y2": int, "class": str}
HOW_MANY = (0.85, 0.08, 0.035, 0.02, 0.01, 0.005)  # images with 1, 2, ... labelled cells
COPIES = 0.03  # share of training images that are an earlier one again, hardly changed


def image_files(out_dir: Path, request: Request, split: str, index: int) -> list[Path]:
    """The files of one image: the picture, and its truth rows until the tables are put together."""
    name = pictures.image_id(request, split, index)
    return [Path(out_dir) / split / f"{name[:8]}-{name[8:]}.jpg", Path(out_dir) / ".parts" / split / f"{name}.csv"]


def write_image(out_dir: Path, request: Request, split: str, index: int) -> None:
    """Draw one image and write its JPG and then its truth rows."""
    path, part = image_files(out_dir, request, split, index)
    pixels, boxes = draw_image(request, split, index)
    pictures.write_picture(path, pixels)
    rows = [(path.name, *box, name) for name, box in boxes]
    write_table(pd.DataFrame(rows, columns=list(COLUMNS)), part)


def write_tables(out_dir: Path, request: Request, counts: dict[str, int]) -> dict[str, int]:
    """Put the truth rows together as train.csv and test_truth.csv; test.csv has their images and as many rows."""
    out_dir = Path(out_dir)
    truths = pictures.truths_of(image_files, out_dir, request, counts, COLUMNS)
    for split, truth in truths.items():
        write_table(truth, out_dir / ("train.csv" if split == "train" else "test_truth.csv"))
    names = truths["test"]["NAME"]
    ids = rng(request.seed, "trustii_id").permutation(3 * len(names))[: len(names)] + 1
    write_table(pd.DataFrame({"trustii_id": ids, "NAME": names}), out_dir / "test.csv")
    return {split: len(truth) for split, truth in truths.items()}


def draw_image(request: Request, split: str, index: int) -> tuple[np.ndarray, list[tuple[str, tuple]]]:
    """One image, uint8 RGB, and its cells: class and box x1, y1, x2, y2. It depends on nothing but the arguments."""
    source = source_of(request, split, index)
    pixels, boxes = _draw_smear(request, split, source)
    return (pixels, boxes) if source == index else _copy(rng(request.seed, split, index, "copy"), pixels, boxes)


def source_of(request: Request, split: str, index: int) -> int:
    """The image that image `index` shows: mostly itself; some training images are an earlier one again."""
    while split == "train" and index > 0:
        draw = rng(request.seed, split, index, "source")
        if draw.random() >= COPIES:
            break
        index = int(draw.integers(index))
    return index


def _copy(draw: np.random.Generator, pixels: np.ndarray, boxes: list) -> tuple[np.ndarray, list]:
    """The same picture a little brighter or darker, moved by up to two pixels."""
    x, y = (int(step) for step in draw.integers(-2, 3, 2))
    shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
    moved = cv2.warpAffine(pixels, shift, pixels.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    moved = cv2.convertScaleAbs(moved, alpha=draw.uniform(0.97, 1.02))
    return moved, [(name, (box[0] + x, box[1] + y, box[2] + x, box[3] + y)) for name, box in boxes]


def _draw_smear(request: Request, split: str, index: int) -> tuple[np.ndarray, list]:
    draw = rng(request.seed, split, index)
    height, width = request.height, request.width
    sizes = {"fine": 1.2, "mid": 3.5, "wide": 14.0}
    noises = {name: smooth_noise(draw, height, width, sigma) for name, sigma in sizes.items()}
    smear = Smear(draw, np.zeros((height, width, 3), np.float32), noises)
    smear.canvas += (0.06 + 0.02 * noises["wide"])[..., None] * PINK
    draw_red_cells(smear)
    shares = pictures.frequencies((look.count for look in LOOKS.values()), request.balance)
    low, high = request.cells or (0, 0)
    count = int(draw.integers(low, high + 1)) if high else 1 + int(draw.choice(len(HOW_MANY), p=HOW_MANY))
    names = draw.choice(CLASSES, count, p=shares).tolist()
    boxes = []
    for name, (middle, size) in zip(names, _place(draw, names, width, height), strict=True):
        boxes.append((name, draw_cell(smear, LOOKS[name], middle, size)))
    smear.canvas *= draw.uniform(0.75, 1.35, 3)  # laboratories stain differently
    light = np.array([244, 240, 238]) - draw.uniform(0, 16, 3)
    return pictures.expose(draw, smear.canvas, light, draw.uniform(0.5, 1.1), draw.uniform(0.8, 2.0)), boxes


def _place(draw: np.random.Generator, names: list[str], width: int, height: int) -> list[tuple[np.ndarray, float]]:
    """Middle and size of each cell: the first near the image's middle, the others where they overlap least."""
    places: list[tuple[np.ndarray, float]] = []
    for name in names:
        size = LOOKS[name].size * draw.lognormal(-(LOOKS[name].spread ** 2) / 2, LOOKS[name].spread)
        spots = draw.uniform(0, (width, height), (40, 2))
        room = [min((np.hypot(*(spot - at)) - (size + wide) / 2 for at, wide in places), default=0) for spot in spots]
        first = np.clip(draw.normal((width / 2, height / 2), 0.07 * width), 0, (width, height))
        places.append((spots[int(np.argmax(np.minimum(room, 4)))] if places else first, float(size)))
    return places
