"""Made-up phase-contrast images of neural cells in the form of Sartorius: three cell types, dense, nothing overlaps.

shsy5y: many small spindles with thin processes; astro: large flat stars and long cells; cort: small round bodies over a
web of processes that belong to no labelled cell. What is drawn is darkness (outlines, granules; rounded cells glow:
less than none); the difference of two blurs of it gives dark lines their bright halo, as phase contrast does.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells.rle import encode_labels
from cells.table import write_table
from common.seeds import rng
from synthesis import pictures
from synthesis.channels import smooth_noise
from synthesis.pictures import Request, outline

VERSION = 1  # of the drawing: images of another version are not mixed with these
COUNTS = {"train": 40, "test": 10}  # images of each split, unless a flag says otherwise
SIZE, BALANCE = "704x520", "natural"
OUTPUTS = ("train", "test", "train.csv", "train_plain.csv", "test_truth.csv", "sample_submission.csv")
COLUMNS = {"id": str, "annotation": str, "width": int, "height": int, "cell_type": str}
SMALLEST = 30  # pixels of a labelled cell


@dataclass(frozen=True)
class Look:
    """How a cell type looks; lengths in pixels, pairs are bounds."""

    images: int  # in the competition's training set
    cells: float  # mean number in a 704 x 520 image
    body: tuple[float, float]  # radius
    stretch: tuple[float, float]
    rough: float
    arms: tuple[int, int]  # number of processes
    reach: float  # median length of a process
    dark: tuple[float, float]  # how much the outline stands out
    near: float  # chance to lie close to another cell
    round: float  # share of rounded cells, small and glowing
    web: float = 0.0  # processes of no cell, for 1000 pixels of the image


LOOKS = {
    "shsy5y": Look(155, 337, (4.0, 7.0), (1.2, 2.8), 0.12, (1, 3), 15, (0.4, 1.0), 0.6, 0.2),
    "astro": Look(131, 80, (4.5, 12.0), (1.2, 4.0), 0.16, (1, 4), 24, (0.15, 0.9), 0.45, 0.06),
    "cort": Look(320, 34, (4.6, 7.2), (1.0, 1.25), 0.05, (0, 0), 0, (0.8, 1.4), 0.35, 1.0, 1.6),
}
CLASSES = tuple(LOOKS)


@dataclass
class Culture:
    """A field that is being drawn: how dark all that lies in it is, and its truth."""

    draw: np.random.Generator
    darkness: np.ndarray  # float32; below 0 where it is bright
    labels: np.ndarray  # uint16, 0 = no cell
    grain: np.ndarray  # noise to take textures from


def image_files(out_dir: Path, request: Request, split: str, index: int) -> list[Path]:
    """The files of one image: the picture, and its truth rows until the tables are put together."""
    name = pictures.image_id(request, split, index)
    return [Path(out_dir) / split / f"{name}.png", Path(out_dir) / ".parts" / split / f"{name}.csv"]


def write_image(out_dir: Path, request: Request, split: str, index: int) -> None:
    """Draw one image and write its PNG and then its truth rows."""
    path, part = image_files(out_dir, request, split, index)
    pixels, labels, cell_type = draw_image(request, split, index)
    pictures.write_picture(path, pixels)
    rows = [(path.stem, text, request.width, request.height, cell_type) for text in encode_labels(labels).values()]
    write_table(pd.DataFrame(rows, columns=list(COLUMNS)), part)


def write_tables(out_dir: Path, request: Request, counts: dict[str, int]) -> dict[str, int]:
    """Write train.csv in Sartorius' form, train_plain.csv (`id,annotation`), test_truth.csv, the sample submission."""
    out_dir = Path(out_dir)
    truths = pictures.truths_of(image_files, out_dir, request, counts, COLUMNS)
    for split, truth in truths.items():
        write_table(truth, out_dir / ("train.csv" if split == "train" else "test_truth.csv"))
    write_table(truths["train"][["id", "annotation"]], out_dir / "train_plain.csv")
    names = [image_files(out_dir, request, "test", index)[0].stem for index in range(counts["test"])]
    write_table(pd.DataFrame({"id": names, "predicted": ""}), out_dir / "sample_submission.csv")
    return {split: len(truth) for split, truth in truths.items()}


def draw_image(request: Request, split: str, index: int) -> tuple[np.ndarray, np.ndarray, str]:
    """One field: uint8 grey, its cells as a label image (uint16), their type. Nothing but the arguments matters."""
    draw = rng(request.seed, split, index)
    shares = pictures.frequencies((look.images for look in LOOKS.values()), request.balance)
    cell_type = str(draw.choice(CLASSES, p=shares))
    look, shape = LOOKS[cell_type], (request.height, request.width)
    grain = smooth_noise(draw, *shape, 1.0)
    culture = Culture(draw, np.zeros(shape, np.float32), np.zeros(shape, np.uint16), grain)
    _draw_web(culture, look)
    _draw_debris(culture)
    count = pictures.how_many(draw, request, look.cells * request.height * request.width / (704 * 520), 0.35)
    _draw_cells(culture, look, count)
    return _photograph(culture), culture.labels, cell_type


def _draw_cells(culture: Culture, look: Look, count: int) -> None:
    """Place cells one after the other where they overlap others least; a pixel belongs to the first one there."""
    middles: list[np.ndarray] = []
    for _ in range(count):
        rounded = culture.draw.random() < look.round
        contours = _shape(culture.draw, look, rounded)
        for _ in range(10):
            middle = _spot(culture, look, middles)
            found = _rasterise([contour + middle for contour in contours], culture.labels)
            if found is None:
                continue
            place, mask = found
            free = mask & (culture.labels[place] == 0)
            if free.sum() > max(SMALLEST, 0.8 * mask.sum()):
                middles.append(middle)
                _draw_cell(culture, look, place, _largest(free), len(middles), rounded)
                break


def _spot(culture: Culture, look: Look, middles: list[np.ndarray]) -> np.ndarray:
    draw, size = culture.draw, np.array(culture.labels.shape[::-1])
    if middles and draw.random() < look.near:
        turn, far = draw.uniform(0, 2 * np.pi), sum(look.body) * draw.uniform(0.8, 2.2)
        spot = middles[draw.integers(len(middles))] + far * np.array([np.cos(turn), np.sin(turn)])
        return np.clip(spot, 0, size - 1)
    return draw.uniform(0, size)


def _shape(draw: np.random.Generator, look: Look, rounded: bool) -> list[np.ndarray]:
    """The contours about 0 whose union is a cell: a body and tapering, bending processes."""
    if rounded:
        return [outline(draw, draw.uniform(1.0, 1.5) * look.body[0], draw.uniform(1, 1.3), None, 0.05, 4, 20)]
    radius, stretch, angle = draw.uniform(*look.body), draw.uniform(*look.stretch), draw.uniform(0, np.pi)
    contours = [outline(draw, radius, stretch, angle, look.rough, 5, 24)]
    count = int(draw.integers(look.arms[0], look.arms[1] + 1))
    for number in range(count):
        turn = angle + np.pi * number + draw.normal(0, 0.35 if number < 2 else 1.2)
        length = radius + look.reach * draw.lognormal(0, 0.8)
        contours.append(_process(draw, turn, length, 0.45 * radius / np.sqrt(stretch)))
    return contours


def _process(draw: np.random.Generator, turn: float, length: float, width: float) -> np.ndarray:
    """The contour of a process from 0 in the direction `turn`, `width` pixels to each side where it begins."""
    steps = np.linspace(0, 1, 8)
    turns = turn + np.cumsum(draw.normal(0, 0.08, len(steps)))
    path = np.cumsum(np.column_stack([np.cos(turns), np.sin(turns)]) * length / len(steps), axis=0)
    aside = np.column_stack([-np.sin(turns), np.cos(turns)]) * (width * (1 - steps) ** 1.5 + 0.5)[:, None]
    return np.concatenate([path + aside, (path - aside)[::-1]])


def _rasterise(contours: list[np.ndarray], labels: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """The union of contours as the rows and columns of its box and a bool mask; None when it is outside."""
    points, limit = np.concatenate(contours), labels.shape[::-1]
    low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, limit)
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 0, limit)
    if (high <= low).any():
        return None
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    for contour in contours:
        corners = np.round((contour - low) * 2**pictures.SUBPIXEL).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1, cv2.LINE_8, pictures.SUBPIXEL)
    return (slice(low[1], high[1]), slice(low[0], high[0])), mask > 0


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    return mask if count <= 2 else parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())


def _draw_cell(
    culture: Culture, look: Look, place: tuple[slice, slice], mask: np.ndarray, number: int, rounded: bool
) -> None:
    """A dark outline, granules, a nucleus where the cell is widest; a rounded cell glows."""
    draw = culture.draw
    culture.labels[place][mask] = number
    depth = cv2.distanceTransform(np.pad(mask, 1).view(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    edge = np.exp((1 - depth) / np.float32(draw.uniform(0.6, 1.1))) * (1 + 0.35 * culture.grain[place])
    granules = draw.uniform(0.3, 1.1) * np.maximum(culture.grain[place], 0)
    if rounded:
        inside = edge + granules - draw.uniform(1.0, 2.5) * np.clip((depth - 2) / 2, 0, 1)
    else:
        middle = np.unravel_index(depth.argmax(), depth.shape)
        y, x = np.indices(mask.shape) - np.array(middle)[:, None, None]
        far, size = np.hypot(y, x), 0.6 * depth.max()
        nucleus = 0.5 * np.exp(-((far - size) ** 2)) - draw.uniform(0, 0.5) * (far < size) + 0.8 * (far < 1.3)
        inside = granules + draw.uniform(0, 0.9) * nucleus + draw.uniform(-0.3, 0.3)
    culture.darkness[place][mask] = (draw.uniform(*look.dark) * (edge + inside))[mask]


def _draw_web(culture: Culture, look: Look) -> None:
    """Thin beaded processes from hubs and from anywhere, without truth."""
    draw, (height, width) = culture.draw, culture.labels.shape
    count = draw.poisson(look.web * height * width / 1000)
    if not count:
        return
    hubs = draw.uniform(0, (width, height), (1 + draw.poisson(9), 2))
    start = np.where(draw.random((count, 1)) < 0.6, hubs[draw.integers(len(hubs), size=count)], 0)
    start = np.where(start.any(axis=1, keepdims=True), start, draw.uniform(0, (width, height), (count, 2)))
    turns = draw.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(draw.normal(0, 0.15, (count, 12)), axis=1)
    steps = draw.lognormal(1.9, 0.6, (count, 1, 1)) * np.stack([np.cos(turns), np.sin(turns)], axis=2)
    paths = np.round((start[:, None] + np.cumsum(steps, axis=1)) * 2**pictures.SUBPIXEL).astype(np.int32)
    lines = np.zeros((height, width), np.uint8)
    cv2.polylines(lines, list(paths), False, 255, 1, cv2.LINE_AA, pictures.SUBPIXEL)
    beads = np.maximum(0.5 + 0.7 * culture.grain, 0)
    culture.darkness += lines * np.float32(draw.uniform(0.4, 0.8) / 255) * beads


def _draw_debris(culture: Culture) -> None:
    draw, (height, width) = culture.draw, culture.labels.shape
    points = draw.uniform(0, (width, height), (draw.poisson(draw.gamma(0.8, 60) * height * width / (704 * 520)), 2))
    dirt = pictures.dots(draw, culture.labels.shape, points, (0.6, 2.0))
    culture.darkness += draw.uniform(-0.8, 0.8) * dirt


def _photograph(culture: Culture) -> np.ndarray:
    """Phase contrast, blur and noise: uint8 (height, width)."""
    draw, shape = culture.draw, culture.labels.shape
    sharp = cv2.GaussianBlur(culture.darkness, (0, 0), draw.uniform(0.4, 0.7))
    light = draw.uniform(80, 140) * (cv2.GaussianBlur(culture.darkness, (0, 0), draw.uniform(2.2, 3.2)) - sharp)
    light += 128 + draw.uniform(0, 1) * smooth_noise(draw, *shape, 40)
    light += draw.uniform(1.5, 5.0) * smooth_noise(draw, *shape, 0.7)
    return np.clip(np.round(light), 0, 255).astype(np.uint8)
