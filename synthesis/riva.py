"""Made-up Pap smears of the RIVA competition: eight classes of cervical cells, told by their nuclei and surroundings.

A field has a theme: its own share of each class, about the competition's on average. Nuclei of a class vary in size,
darkness and shape, and neighbouring classes overlap in all of them, as on real slides.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cells.table import write_table
from common.seeds import rng
from synthesis import pictures
from synthesis.cells import soft
from synthesis.channels import smooth_noise
from synthesis.pictures import Patch, Request, density, fill, outline, rim, stain

VERSION = 1  # of the drawing: images of another version are not mixed with these
COUNTS = {"train": 40, "val": 8, "test": 10}  # images of each split, unless a flag says otherwise
SIZE, BALANCE = "1024", "natural"
OUTPUTS = ("images", "annotations", "sample_submission.csv")
BOX = 100  # pixels, the side of every box
COLUMNS = {
    "image_filename": str, "x": float, "y": float, "width": int, "height": int, "class_name": str, "class": int,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a class looks; lengths in pixels, pairs are bounds."""

    count: int  # in the competition's training images
    nucleus: float  # median radius
    spread: float  # of the radius, log-normal
    body: tuple[float, float]  # radius of the cytoplasm
    dark: tuple[float, float]  # density of the nucleus
    rough: float  # how irregular the nucleus is
    coarse: float  # contrast of the chromatin
    stretch: tuple[float, float] = (1.0, 1.25)
    snug: bool = False  # `body` is in nuclear radii: little cytoplasm
    flocks: float = 0.0  # chance to lie beside another cell of the class


LOOKS = {
    "NILM": Look(3821, 11.0, 0.12, (70, 112), (0.75, 1.1), 0.04, 0.08),
    "ENDO": Look(668, 12.0, 0.10, (19, 23), (0.5, 0.8), 0.04, 0.16, (1.05, 1.4)),
    "INFL": Look(4360, 12.5, 0.16, (52, 95), (0.6, 1.05), 0.07, 0.10),
    "ASCUS": Look(207, 17.5, 0.11, (66, 105), (0.75, 1.1), 0.06, 0.13),
    "LSIL": Look(1581, 20.0, 0.14, (70, 110), (0.9, 1.35), 0.07, 0.17, flocks=0.3),
    "HSIL": Look(1232, 22.0, 0.17, (1.3, 1.7), (1.0, 1.5), 0.08, 0.22, (1.0, 1.5), True, 0.6),
    "ASCH": Look(316, 15.5, 0.14, (1.45, 2.0), (0.9, 1.35), 0.06, 0.17, (1.0, 1.4), True, 0.5),
    "SCC": Look(1082, 20.0, 0.30, (1.6, 3.2), (1.3, 2.0), 0.15, 0.2, (1.2, 3.2), True, 0.35),
}
CLASSES = tuple(LOOKS)
USUAL = sum(look.count for look in LOOKS.values()) / 828 / 1024**2  # cells a pixel of a training image
CYTOPLASM = {
    "cyan": density(158, 208, 210), "pink": density(240, 176, 168), "orange": density(240, 188, 138),
    "grey": density(188, 196, 216),
}  # fmt: skip
HUES = {
    "ENDO": (0.35, 0.15, 0.05, 0.45),
    "SCC": (0.15, 0.15, 0.6, 0.1),
    "HSIL": (0.45, 0.15, 0.1, 0.3),
    "ASCH": (0.45, 0.2, 0.1, 0.25),
}
CHROMATIN = density(118, 92, 152)
MUCUS = density(206, 228, 230)
SPACING = 42  # pixels between the centres of two nuclei


@dataclass
class Smear:
    """A field of view that is being drawn: optical density, and noises of five sizes to take textures from."""

    draw: np.random.Generator
    canvas: np.ndarray
    noises: dict[str, np.ndarray]
    hues: np.ndarray  # share of each cytoplasm colour

    def texture(self, patch: Patch, name: str) -> np.ndarray:
        return self.noises[name][patch.place]


@dataclass
class Spot:
    """Where a cell lies and what it is."""

    x: float
    y: float
    name: str

    @property
    def point(self) -> np.ndarray:
        return np.array([self.x, self.y])


def image_files(out_dir: Path, request: Request, split: str, index: int) -> list[Path]:
    """The files of one image: the picture, and its truth rows until the tables are put together."""
    name = pictures.image_id(request, split, index)
    return [Path(out_dir) / "images" / split / f"{name}.png", Path(out_dir) / ".parts" / split / f"{name}.csv"]


def write_image(out_dir: Path, request: Request, split: str, index: int) -> None:
    """Draw one image and write its PNG and then its truth rows."""
    path, part = image_files(out_dir, request, split, index)
    pixels, spots = draw_image(request, split, index)
    pictures.write_picture(path, pixels)
    rows = []
    for spot in spots:
        x, y = np.floor(10 * spot.point).tolist()  # one decimal, and inside the image
        rows.append((path.name, x / 10, y / 10, BOX, BOX, spot.name, CLASSES.index(spot.name)))
    write_table(pd.DataFrame(rows, columns=list(COLUMNS)), part)


def write_tables(out_dir: Path, request: Request, counts: dict[str, int]) -> dict[str, int]:
    """Put the truth rows together as annotations/<split>.csv, and write the sample submission."""
    out_dir = Path(out_dir)
    truths = pictures.truths_of(image_files, out_dir, request, counts, COLUMNS)
    for split, truth in truths.items():
        write_table(truth, out_dir / "annotations" / f"{split}.csv")
    names = [image_files(out_dir, request, "test", index)[0].name for index in range(counts["test"])]
    sample = pd.DataFrame({"id": range(len(names)), "image_filename": names})
    sample = sample.assign(x=BOX / 2, y=BOX / 2, width=BOX, height=BOX, conf=0.0)
    write_table(sample.assign(**{"class": 0}), out_dir / "sample_submission.csv")
    return {split: len(truth) for split, truth in truths.items()}


def draw_image(request: Request, split: str, index: int) -> tuple[np.ndarray, list[Spot]]:
    """One field: uint8 RGB and its cells. It depends on nothing but the arguments."""
    draw = rng(request.seed, split, index)
    height, width = request.height, request.width
    spots = place(draw, request)
    sizes = {"fine": 0.9, "mid": 2.2, "patch": 5.0, "fold": 24.0, "wide": 90.0}
    noises = {name: smooth_noise(draw, height, width, sigma) for name, sigma in sizes.items()}
    smear = Smear(draw, np.zeros((height, width, 3), np.float32), noises, draw.dirichlet((1.2, 1.2, 0.5, 0.5)))
    _draw_ground(smear)
    _draw_squames(smear)
    bodies = [_draw_body(smear, spot) for spot in spots]
    for spot, body in zip(spots, bodies, strict=True):
        _draw_nucleus(smear, spot, body)
    _draw_neutrophils(smear, spots)
    light = np.array([246, 248, 250]) - draw.uniform(0, 8, 3) - (draw.random() < 0.15) * np.array([2, 6, 26])
    return pictures.expose(draw, smear.canvas, light, draw.uniform(0.5, 1.2), draw.uniform(0.8, 2.2)), spots


def place(draw: np.random.Generator, request: Request) -> list[Spot]:
    """The cells of one image: nuclei apart from each other, some in flocks, endocervical cells in one sheet."""
    count = pictures.how_many(draw, request, USUAL * request.width * request.height, 0.5)
    shares = pictures.frequencies((look.count for look in LOOKS.values()), request.balance)
    names = draw.choice(CLASSES, count, p=draw.dirichlet(2.5 * shares + 1e-3)).tolist()
    size = np.array([request.width, request.height], float)
    points = _sheet(draw, size, names.count("ENDO"))
    spots = [Spot(*point, "ENDO") for point in points]
    for name in (name for name in names if name != "ENDO"):
        mates = [(spot.x, spot.y) for spot in spots if spot.name == name]
        point = _free_point(draw, size, points, mates if draw.random() < LOOKS[name].flocks else [])
        points.append(point)
        spots.append(Spot(*point, name))
    return spots


def _sheet(draw: np.random.Generator, size: np.ndarray, count: int) -> list[tuple[float, float]]:
    """The `count` points of a jittered honeycomb that are nearest to a random middle."""
    pitch, angle, middle = draw.uniform(33, 39), draw.uniform(0, np.pi), draw.uniform(0, size)
    reach = np.arange(-int(1.5 * max(size) / pitch) - 2, int(1.5 * max(size) / pitch) + 3)
    row, column = np.meshgrid(reach, reach)
    points = np.column_stack([(column + row % 2 / 2).ravel(), (row * np.sqrt(0.75)).ravel()]) * pitch
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = points @ turn.T + middle + draw.normal(0, 0.07 * pitch, points.shape)
    points = points[((points >= 0) & (points < size)).all(axis=1)]
    order = np.argsort(((points - middle) ** 2).sum(axis=1), kind="stable")
    return [tuple(point) for point in points[order[:count]].tolist()]


def _free_point(draw: np.random.Generator, size: np.ndarray, points: list, mates: list) -> tuple[float, float]:
    """A point in the image away from the others, beside one of `mates` if there are any."""
    for attempt in range(60):
        if mates and attempt < 20:
            turn, far = draw.uniform(0, 2 * np.pi), draw.uniform(1.05, 1.8) * SPACING
            point = np.array(mates[draw.integers(len(mates))]) + far * np.array([np.cos(turn), np.sin(turn)])
        else:
            point = draw.uniform(0, size)
        inside = (point >= 0).all() and (point < size).all()
        if inside and (not points or (((np.array(points) - point) ** 2).sum(axis=1) > SPACING**2).all()):
            return tuple(point.tolist())
    return tuple(draw.uniform(0, size).tolist())


def _draw_ground(smear: Smear) -> None:
    """Mucus in drifts, and fine dirt."""
    draw, noises = smear.draw, smear.noises
    drift = np.maximum(noises["wide"] - draw.uniform(-0.6, 1.6), 0) * draw.uniform(0.1, 0.9)
    grain = 1 + 0.3 * noises["fold"] + 0.12 * noises["patch"] + 0.15 * noises["fine"]
    smear.canvas += (drift * np.maximum(grain, 0) + 0.03)[..., None] * MUCUS
    dirt = np.maximum(noises["mid"] - draw.uniform(3.0, 3.8), 0)
    smear.canvas += dirt[..., None] * CHROMATIN


def _draw_body(smear: Smear, spot: Spot) -> tuple[float, float, float]:
    """Draw a cell's cytoplasm; gives its nucleus's radius, stretch and angle."""
    draw, look = smear.draw, LOOKS[spot.name]
    radius = look.nucleus * draw.lognormal(0, look.spread)
    stretch, angle = draw.uniform(*look.stretch), draw.uniform(0, np.pi)
    size = draw.uniform(*look.body) * (radius if look.snug else 1)
    hues = HUES.get(spot.name, smear.hues)
    colour = list(CYTOPLASM.values())[int(draw.choice(4, p=hues))] * draw.uniform(0.9, 1.15, 3)
    middle = spot.point
    if look.snug or spot.name == "ENDO":
        longer = draw.uniform(1.3, 4.5) if spot.name == "SCC" else draw.uniform(1.0, 1.4)
        contour, thick = outline(draw, size, longer, angle, 0.1), draw.uniform(0.7, 1.2 if spot.name == "ENDO" else 2.0)
    else:
        contour, thick = outline(draw, size, draw.uniform(1, 1.5), None, 0.1, 4, int(draw.integers(9, 15))), 1.0
        middle = middle + draw.normal(0, 0.14 * size, 2)
    patch = fill(contour + middle, smear.canvas.shape, 1.2)
    amount = thick * draw.uniform(0.7, 1.25) * _film(smear, patch, 0.6 if spot.name == "ENDO" else 0.3)
    stain(smear.canvas, patch.place, amount * (1 - _halo(smear, spot, radius, patch)), colour)
    return radius, stretch, angle


def _film(smear: Smear, patch: Patch, edge: float) -> np.ndarray:
    """Cytoplasm of thickness about 1: cloudy, granular, creased along a contour of the noise, with a denser edge."""
    crease = np.exp(-((smear.texture(patch, "fold") - smear.draw.normal(0, 0.8)) ** 2) * np.float32(900))
    clouds = (("fold", 0.16), ("patch", 0.08), ("mid", 0.1))
    film = 0.95 + sum(amount * smear.texture(patch, name) for name, amount in clouds)
    return patch.alpha * np.maximum(film + smear.draw.uniform(0, 0.6) * crease, 0.2) + edge * rim(patch, 2.0)


def _draw_squames(smear: Smear) -> None:
    """Old cells without a nucleus, which have no box."""
    draw, (height, width) = smear.draw, smear.canvas.shape[:2]
    for _ in range(draw.poisson(draw.gamma(0.7, 6) * height * width / 1024**2)):
        points = int(draw.integers(8, 14))
        contour = outline(draw, draw.uniform(45, 105), draw.uniform(1, 1.7), None, 0.12, 4, points)
        patch = fill(contour + draw.uniform(0, (width, height)), smear.canvas.shape, 1.2)
        colour = list(CYTOPLASM.values())[int(draw.choice(4, p=smear.hues))] * draw.uniform(0.9, 1.15, 3)
        stain(smear.canvas, patch.place, draw.uniform(0.4, 1.0) * _film(smear, patch, 0.3), colour)


def _halo(smear: Smear, spot: Spot, radius: float, body: Patch) -> np.ndarray | float:
    """How much clearer the cytoplasm is about the nucleus: sharply in most LSIL (koilocytes), faintly in INFL."""
    draw = smear.draw
    sharp, faint = spot.name == "LSIL" and draw.random() < 0.8, spot.name == "INFL" and draw.random() < 0.8
    if not (sharp or faint):
        return 0.0
    size = radius * (draw.uniform(1.7, 2.5) if sharp else draw.uniform(1.4, 1.8))
    contour = outline(draw, size, draw.uniform(1, 1.4), None, 0.12) + spot.point
    patch = fill(contour, smear.canvas.shape, 1.2 if sharp else 4.0)
    clear = np.zeros(smear.canvas.shape[:2], np.float32)
    clear[patch.place] = patch.alpha * (draw.uniform(0.6, 0.9) if sharp else draw.uniform(0.35, 0.6))
    if sharp:  # the cytoplasm is pressed into a dense ring about the hole
        ring = soft(clear[body.place], 5) - clear[body.place]
        return clear[body.place] - 1.2 * np.maximum(ring, 0)
    return clear[body.place]


def _draw_nucleus(smear: Smear, spot: Spot, form: tuple[float, float, float]) -> None:
    draw, look = smear.draw, LOOKS[spot.name]
    radius, stretch, angle = form
    twin = spot.name == "LSIL" and draw.random() < 0.2
    shift = 0.75 * radius * np.array([np.cos(angle), np.sin(angle)]) if twin else np.zeros(2)
    dark, coarse = draw.uniform(*look.dark), look.coarse * draw.lognormal(0, 0.25)
    for side in (1, -1)[: 1 + twin]:
        size = radius * (0.8 if twin else 1)
        contour = outline(draw, size, stretch, angle, look.rough) + spot.point + side * shift
        patch = fill(contour, smear.canvas.shape, draw.uniform(0.6, 1.6 if spot.name == "INFL" else 1.1))
        chromatin = 1 + coarse * (smear.texture(patch, "mid") + 0.6 * smear.texture(patch, "fine"))
        membrane = (0.2 + 0.6 * look.coarse) * rim(patch, 1.6)
        stain(smear.canvas, patch.place, dark * (patch.alpha * np.maximum(chromatin, 0.2) + membrane), CHROMATIN)


def _draw_neutrophils(smear: Smear, spots: list[Spot]) -> None:
    """Small cells of two to four lobes: here and there, and about every inflammatory cell."""
    draw, (height, width) = smear.draw, smear.canvas.shape[:2]
    many = draw.gamma(0.6, 130) * height * width / 1024**2
    centres = [draw.uniform(0, (width, height), (draw.poisson(many), 2))]
    for spot in spots:
        if spot.name == "INFL":
            turn = draw.uniform(0, 2 * np.pi, draw.integers(1, 6))
            far = draw.uniform(22, 60, len(turn))
            centres.append(spot.point + np.column_stack([far * np.cos(turn), far * np.sin(turn)]))
    centres = np.concatenate(centres)
    lobes = np.repeat(centres, draw.integers(2, 5, len(centres)), axis=0)
    lobes = lobes + draw.normal(0, 3.6, lobes.shape)
    blobs = pictures.dots(draw, smear.canvas.shape, lobes, (2.8, 4.8))
    smear.canvas += (blobs * draw.uniform(1.1, 1.7))[..., None] * CHROMATIN
    veil = pictures.dots(draw, smear.canvas.shape, centres, (8, 11))
    smear.canvas += (veil * 0.35)[..., None] * CYTOPLASM["grey"]
