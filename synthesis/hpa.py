"""Made-up images and tables of the Human Protein Atlas competition (file forms: docs/formats.md)."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells.masks import encode_label_image, encode_mask
from cells.table import CELL_COLUMNS, read_table, write_table
from common.errors import UserError
from common.files import atomic
from common.seeds import rng
from competitions.hpa import CHANNELS
from synthesis.cells import Cell, add_organelles, mark_contacts, overlap, paste, soft
from synthesis.channels import MARGIN, Textures, draw_cytosol, draw_microtubules, draw_nucleus, draw_reticulum
from synthesis.labels import MEMBRANE, NEGATIVE, SPINDLE, able_cells, cell_classes, image_classes
from synthesis.layout import Plan, in_view, place, plan_cell, rasterise
from synthesis.patterns import PATTERNS, STRENGTH
from synthesis.settings import CELL_LINES, SETTINGS, CellLine, Settings

VERSION = 1  # of the drawing: images of another version are not mixed with these
COUNTS = {"train": 40, "test": 10}  # images of each split, unless a flag says otherwise
SIZE, BALANCE = "1024", "flat"
OUTPUTS = ("train", "test", "train.csv", "sample_submission.csv", "truth.csv", "train_truth.csv")
PNG = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]  # fastest, and smallest where there is noise
TRUTH_COLUMNS = {**CELL_COLUMNS, "Label": str}
TRUTH_FILES = {"train": "train_truth.csv", "test": "truth.csv"}
SHIFT = 32  # pixels between the parts of one noise that the channels take


@dataclass(frozen=True)
class Request:
    """What an image depends on besides its split and index."""

    seed: int
    width: int
    height: int
    cells: tuple[int, int] | None = None  # lowest and highest number; None: as many as real images of this area have
    balance: str = "flat"
    settings: Settings = SETTINGS


@dataclass
class Image:
    """One made-up image: `pixels` uint8 (height, width, 4) RGBY, `labels` its truth as a label image, its classes."""

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    classes: list[list[int]]  # of cell 1, 2, ...


def image_id(request: Request, split: str, index: int) -> str:
    """The id of an image: like the competition's, and the same for the same seed."""
    return str(uuid.UUID(bytes=rng(request.seed, split, index, "id").bytes(16)))


def draw_image(request: Request, split: str, index: int) -> Image:
    """Draw one image. It depends on nothing but the arguments."""
    draw = rng(request.seed, split, index)
    deck = rng(request.seed, split, index // len(PATTERNS), "deck").permutation(len(PATTERNS)).tolist()
    classes = image_classes(draw, deck, index % len(PATTERNS), request.balance)
    shares = np.array([line.share for line in CELL_LINES.values()])
    line = list(CELL_LINES.values())[int(draw.choice(len(shares), p=shares / shares.sum()))]
    cells, counted = draw_cells(draw, request, line, SPINDLE in classes)
    shown = cell_classes(draw, classes, able_cells(cells), counted, request.settings)
    pixels = _expose(draw, cells, shown, request)
    labels = np.zeros((request.height, request.width), np.uint16)
    for number, cell in enumerate((cell for cell, yes in zip(cells, counted, strict=True) if yes), start=1):
        paste(labels, cell.top, cell.left, cell.mask * np.uint16(number), np.maximum)
    truth = [names for names, yes in zip(shown, counted, strict=True) if yes]
    return Image(image_id(request, split, index), pixels, labels, truth)


def draw_cells(
    draw: np.random.Generator, request: Request, line: CellLine, spindles: bool
) -> tuple[list[Cell], np.ndarray]:
    """The cells that the image shows any of, and which of them count as truth (bool array): those mostly visible."""
    settings = request.settings
    for attempt in range(60):
        count, scale = _density(draw, request, line)
        scale *= 0.93**attempt  # in a narrow image, cells must be smaller to be mostly visible
        plans = _plan(draw, request, line, count, scale, spindles)
        cells = _visible(rasterise(plans, scale), request)
        counted = np.array([cell.visible > settings.visible for cell in cells], bool)
        if (counted & able_cells(cells)[SPINDLE]).any() if spindles else counted.any():
            break
    else:
        size = f"{request.width} x {request.height}"
        raise UserError(f"no cell fits into {size} pixels with --cells {request.cells}; try other --cells or --size")
    for cell in cells:
        seen = np.zeros(cell.mask.shape, bool)
        seen[overlap(cell.top, cell.left, seen.shape, (request.height, request.width))[0]] = True
        add_organelles(cell, draw, seen)
        if draw.random() < settings.dim:
            cell.dim = draw.uniform(0.3, 0.6)
    return cells, counted


def _visible(cells: list[Cell], request: Request) -> list[Cell]:
    """The cells of which the image shows anything, cut to the image and a margin."""
    kept = []
    for cell in cells:
        cell.visible = cell.share_inside(cell.mask, request.height, request.width)
        cell.centred = cell.share_inside(cell.nucleus, request.height, request.width) > 0.5
        if cell.visible > 0:
            kept.append(cell.crop(request.height, request.width, int(MARGIN * cell.scale)))
    return kept


def _density(draw: np.random.Generator, request: Request, line: CellLine) -> tuple[int, float]:
    """How many cells lie in the image, and its scale: pixels for each pixel of a real 2048-pixel image."""
    settings = request.settings
    area = request.width * request.height
    confluence = draw.uniform(*line.confluence)
    if request.cells:
        count = int(draw.integers(request.cells[0], request.cells[1] + 1))
    else:
        count = max(settings.fewest, round(confluence * area / (line.area * draw.lognormal(0, settings.spread))))
    return count, float(np.sqrt(confluence * area / (count * line.area)))


def _plan(draw, request: Request, line: CellLine, count: int, scale: float, spindles: bool) -> list[Plan]:
    settings = request.settings
    spacing = max(1.25 * np.sqrt(line.nucleus), 0.8 * np.sqrt(line.area)) * scale
    centres = place(draw, request.width, request.height, count, spacing, line)
    dividing = draw.random(len(centres)) < settings.dividing
    if spindles:
        low, high = settings.spindles
        dividing[: min(count, int(draw.integers(low, high + 1)))] = True
    pairs = zip(centres, dividing, strict=True)
    plans = [plan_cell(draw, centre, line, scale, settings, divides) for centre, divides in pairs]
    return in_view(plans, request.width, request.height)


def _expose(draw: np.random.Generator, cells: list[Cell], shown: list[list[int]], request: Request) -> np.ndarray:
    """Stain the cells, then photograph them: uint8 (height, width, 4)."""
    settings, scale = request.settings, cells[0].scale
    textures = Textures(draw, request.height, request.width, scale)
    stains = np.zeros((4, request.height, request.width), np.float32)
    light = {name: draw.uniform(*getattr(settings, name)) for name in CHANNELS}
    protein = _Protein(draw, light["green"], settings)
    if MEMBRANE in {protein.ghost, *(index for classes in shown for index in classes)}:
        mark_contacts(cells)
    for cell, classes in zip(cells, shown, strict=True):
        cell.red = draw_microtubules(cell, textures, draw)
        cell.yellow = draw_reticulum(cell, textures, draw)
        blue = draw_nucleus(cell, textures, draw)
        green = protein.draw(cell, classes, textures, draw)
        red, blue_light, yellow = (light[name] * draw.lognormal(0, 0.2) for name in ("red", "blue", "yellow"))
        stained = (red * cell.red, green, blue_light * blue, yellow * cell.yellow)
        for canvas, image in zip(stains, stained, strict=True):
            paste(canvas, cell.top, cell.left, cell.dim * image)
    _add_specks(draw, stains[1], scale, settings, light["green"])
    return _photograph(draw, stains, scale, settings)


class _Protein:
    """What the green channel of one image shows: its patterns' strengths, and what no label mentions."""

    def __init__(self, draw: np.random.Generator, light: float, settings: Settings):
        self.vary = settings.vary
        self.strength = {index: light * STRENGTH.get(index, 1.0) * draw.lognormal(0, 0.2) for index in PATTERNS}
        self.haze = draw.uniform(*settings.haze)
        self.nuclear = draw.uniform(0, 1.5)  # the haze over the nucleus, relative to the cytoplasm
        self.ghost = int(draw.integers(NEGATIVE)) if draw.random() < settings.ghost else None
        self.ghostly = draw.uniform(*settings.ghostly)

    def draw(self, cell: Cell, classes: list[int], textures: Textures, rng: np.random.Generator) -> np.ndarray:
        """The green light of one cell: float32, the cell's box."""
        haze = draw_cytosol(cell, textures) + self.nuclear * soft(cell.nuclear, cell.scale)
        green = self.haze * rng.lognormal(-0.3, 0.3) * haze
        for index in classes:
            green = green + self.strength[index] * rng.lognormal(0, self.vary) * PATTERNS[index](cell, textures, rng)
        if self.ghost is not None:
            green = green + self.ghostly * self.strength[self.ghost] * PATTERNS[self.ghost](cell, textures, rng)
        return green.astype(np.float32)


def _add_specks(draw: np.random.Generator, green: np.ndarray, scale: float, settings: Settings, light: float) -> None:
    for _ in range(draw.poisson(settings.specks)):
        y, x = (int(draw.integers(size)) for size in green.shape)
        radius = max(1, round(scale * draw.uniform(1, 4)))
        green[max(0, y - radius) : y + radius, max(0, x - radius) : x + radius] += light * draw.uniform(0.3, 1.2)


def _photograph(draw: np.random.Generator, stains: np.ndarray, scale: float, settings: Settings) -> np.ndarray:
    """Blur, uneven light, crosstalk, shot noise, and the camera's 8 bits."""
    height, width = stains.shape[1:]
    shade = _vignette(draw, height, width, settings)
    crosstalk = draw.uniform(0, 0.025, 2)
    stains[1] += crosstalk[0] * stains[3] + crosstalk[1] * stains[0]
    gain = draw.uniform(*settings.shot)
    noise = draw.standard_normal((height + 3 * SHIFT, width + 3 * SHIFT), np.float32)
    noise = soft(noise, min(0.7, 0.6 * scale)) * np.float32(1.6)
    planes = []
    for number, stain in enumerate(stains):
        light = soft(stain, draw.uniform(*settings.blur) * scale)
        light *= shade
        np.maximum(light, 0, out=light)
        start = number * SHIFT  # every channel looks at another part of the noise
        shot = cv2.sqrt(light * np.float32(gain) + np.float32(0.3))
        shot *= noise[start : start + height, start : start + width]
        planes.append(cv2.add(light, shot - np.float32(0.6), dtype=cv2.CV_8U))  # rounds, and ends at 0 and 255
    return cv2.merge(planes)


def _vignette(draw: np.random.Generator, height: int, width: int, settings: Settings) -> np.ndarray:
    """1 where the light is best, less towards the corners, about an off-centre middle."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - draw.uniform(-0.3, 0.3)
    x = np.linspace(-1, 1, width, dtype=np.float32) - draw.uniform(-0.3, 0.3)
    return (1 - draw.uniform(*settings.vignette) * (y**2 + x**2) / 3.4).astype(np.float32)


def write_image(out_dir: Path, request: Request, split: str, index: int) -> None:
    """Draw one image and write its four PNGs and then its truth rows."""
    image = draw_image(request, split, index)
    *planes, part = image_files(out_dir, request, split, index)
    for position, path in enumerate(planes):
        plane = image.pixels[..., position]
        if split == "test":
            plane = plane * np.uint16(257)
        with atomic(path) as temporary:
            temporary.write_bytes(cv2.imencode(".png", plane, PNG)[1].tobytes())
    write_table(truth_rows(image), part)


def image_files(out_dir: Path, request: Request, split: str, index: int) -> list[Path]:
    """The files of one image: the four channels, and its truth rows until the tables are put together."""
    name = image_id(request, split, index)
    planes = [Path(out_dir) / split / f"{name}_{channel}.png" for channel in CHANNELS]
    return [*planes, Path(out_dir) / ".parts" / split / f"{name}.csv"]


def truth_rows(image: Image) -> pd.DataFrame:
    """An image's part of the truth table: a row a cell with its mask, box and classes."""
    height, width = image.labels.shape
    texts = encode_label_image(image.labels)
    rows = []
    for number, classes in enumerate(image.classes, start=1):
        inside = image.labels == number
        ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
        label = "|".join(map(str, classes))
        rows.append((f"{image.name}+{number}", image.name, number, width, height, texts[number], *box, label))
    return pd.DataFrame(rows, columns=list(TRUTH_COLUMNS))


def write_tables(out_dir: Path, request: Request, counts: dict[str, int]) -> dict[str, int]:
    """Put the images' truth rows together and write the competition's tables; gives each split's number of cells."""
    truths = {}
    for split, count in counts.items():
        parts = [image_files(out_dir, request, split, index)[-1] for index in range(count)]
        tables = [pd.DataFrame(columns=list(TRUTH_COLUMNS)), *(read_table(part, TRUTH_COLUMNS) for part in parts)]
        truths[split] = pd.concat(tables[1:] or tables, ignore_index=True)
        write_table(truths[split], Path(out_dir) / TRUTH_FILES[split])
    names = {split: [image_id(request, split, index) for index in range(count)] for split, count in counts.items()}
    write_table(image_labels(truths["train"], names["train"]), Path(out_dir) / "train.csv")
    empty = f"0 1 {encode_mask(np.zeros((request.height, request.width), bool))}"
    rows = [(name, request.width, request.height, empty) for name in names["test"]]
    columns = ["ID", "ImageWidth", "ImageHeight", "PredictionString"]
    write_table(pd.DataFrame(rows, columns=columns), Path(out_dir) / "sample_submission.csv")
    return {split: len(truth) for split, truth in truths.items()}


def image_labels(truth: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """train.csv from a truth table: an image's label is the union of its cells' classes, Negative only when alone."""
    shown: dict[str, set[int]] = {name: set() for name in names}
    for name, text in zip(truth["ImageID"], truth["Label"], strict=True):
        shown[name] |= {int(part) for part in text.split("|")} - {NEGATIVE}
    labels = ["|".join(map(str, sorted(shown[name] or {NEGATIVE}))) for name in names]
    return pd.DataFrame({"ID": names, "Label": labels}, dtype=object)
