"""The cells of a blood smear: red cells, and 23 classes of cells that are told apart as at the microscope.

By size, the nucleus's shape (lobes, indentation, creases), its chromatin and nucleoli, the cytoplasm's colour and
amount, granules, vacuoles, Auer rods, villi. Every trait varies between cells, so that neighbouring classes
(myeloblast, monoblast, lymphoblast; the steps from promyelocyte to band) overlap.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from synthesis import pictures
from synthesis.cells import soft
from synthesis.pictures import Patch, bleach, density, fill, outline, rim, stain

RED_CELL = 38  # pixels, mean radius

PINK, GREY, SKY, BLUE, DEEP, CLEAR = (
    density(*rgb)
    for rgb in (
        (236, 212, 222), (206, 206, 222), (196, 210, 236), (150, 164, 218), (128, 132, 206), (226, 228, 240)
    )
)  # fmt: skip
CHROMATIN = density(128, 88, 172)
ORANGE, PURPLE, ROSE, INK = (density(*rgb) for rgb in ((226, 120, 92), (146, 70, 150), (214, 140, 176), (84, 50, 130)))
RED = density(218, 172, 164)


@dataclass(frozen=True)
class Look:
    """How a class looks; lengths are shares of the cell's size unless said otherwise."""

    count: int  # in the challenge's training images
    size: float  # mean side of the box, pixels
    spread: float  # of the size, log-normal
    nucleus: float  # its diameter, of the cell's
    colour: np.ndarray  # of the cytoplasm
    dark: float = 1.0  # density of the nucleus
    coarse: float = 0.15  # contrast of the chromatin
    lobes: tuple[int, int] = (1, 1)
    bend: float = 0.0  # how deeply the nucleus is indented: .3 a kidney, 1 a horseshoe
    rough: float = 0.04  # how irregular the nucleus is
    edge: float = 0.05  # how irregular the cell is
    creases: int = 0  # pale lines across the nucleus
    nucleoli: float = 0.0  # expected number
    grains: tuple[np.ndarray, int, float] | None = None  # colour, number, radius in pixels
    vacuoles: float = 0.0  # expected number
    rods: int = 0
    villi: int = 0
    lined: float = 0.0  # darker edge of the cytoplasm


LOOKS = {
    "PNN": Look(6827, 147, 0.12, 0.66, PINK, 1.25, 0.18, (3, 5), grains=(ROSE, 160, 1.3)),
    "LY": Look(2092, 115, 0.17, 0.78, SKY, 1.25, 0.2),
    "MO": Look(2743, 187, 0.22, 0.66, GREY, 0.85, 0.22, bend=0.45, rough=0.1, edge=0.08, vacuoles=3),
    "EO": Look(2432, 160, 0.16, 0.6, PINK, 1.15, 0.15, (2, 2), grains=(ORANGE, 190, 3.0)),
    "BA": Look(1001, 147, 0.22, 0.6, PINK, 0.9, 0.15, (2, 3), grains=(INK, 70, 4.0)),
    "Er": Look(2308, 104, 0.24, 0.56, GREY * 1.3, 1.7, 0.3),
    "PM": Look(1152, 177, 0.15, 0.7, BLUE, 0.8, 0.1, nucleoli=1.5, grains=(PURPLE, 120, 2.0), rough=0.05),
    "Thromb": Look(2319, 88, 0.28, 0.0, CLEAR, edge=0.12, grains=(PURPLE, 90, 2.0)),
    "LAM3": Look(3338, 153, 0.14, 0.74, BLUE, 0.85, 0.1, (2, 2), rough=0.08, grains=(PURPLE, 160, 2.2), rods=4),
    "Lysee": Look(3408, 186, 0.32, 0.9, CLEAR * 0.3, 0.6, 0.25, rough=0.22, edge=0.2, creases=2),
    "LyB": Look(3029, 124, 0.16, 0.88, SKY, 0.85, 0.08, rough=0.06, nucleoli=0.6),
    "LLC": Look(3158, 112, 0.2, 0.86, SKY, 1.3, 0.42),
    "MBL": Look(2668, 171, 0.25, 0.82, BLUE, 0.75, 0.07, nucleoli=2.5),
    "LGL": Look(2439, 139, 0.16, 0.6, CLEAR * 1.4, 1.15, 0.2, grains=(PURPLE, 9, 2.2)),
    "B": Look(2263, 146, 0.18, 0.66, PINK, 1.2, 0.18, bend=1.0, grains=(ROSE, 160, 1.3)),
    "M": Look(1994, 156, 0.16, 0.62, PINK * 1.5, 1.0, 0.18, grains=(ROSE, 150, 1.8)),
    "MM": Look(1707, 154, 0.16, 0.64, PINK * 1.2, 1.1, 0.18, bend=0.4, grains=(ROSE, 150, 1.5)),
    "LF": Look(2131, 96, 0.22, 0.9, SKY, 1.2, 0.14, rough=0.08, creases=1),
    "MoB": Look(1531, 192, 0.26, 0.74, GREY * 1.6, 0.7, 0.07, rough=0.06, nucleoli=1.5, vacuoles=2),
    "LH_lyAct": Look(1705, 163, 0.18, 0.62, DEEP, 1.0, 0.2, rough=0.08, edge=0.12, lined=0.5),
    "LM": Look(944, 129, 0.16, 0.8, SKY, 1.0, 0.16, rough=0.13, creases=1, nucleoli=0.8),
    "LZMG": Look(845, 155, 0.3, 0.64, SKY, 1.1, 0.22, villi=26),
    "SS": Look(714, 121, 0.16, 0.86, SKY, 1.2, 0.2, rough=0.1, creases=6),
}
CLASSES = tuple(LOOKS)


@dataclass
class Smear:
    """A field of view that is being drawn: optical density, and noises of three sizes to take textures from."""

    draw: np.random.Generator
    canvas: np.ndarray
    noises: dict[str, np.ndarray]


def draw_red_cells(smear: Smear) -> None:
    """Discs with a pale middle, some in piles, some elongated; one stain strength an image."""
    draw, (height, width) = smear.draw, smear.canvas.shape[:2]
    count = draw.poisson(draw.uniform(0.25, 0.75) * height * width / (np.pi * RED_CELL**2))
    strong, pale = draw.uniform(0.8, 1.5), draw.uniform(0.3, 0.9)
    for middle in draw.uniform(-RED_CELL, (width + RED_CELL, height + RED_CELL), (count, 2)):
        stretch, angle = 1 + draw.exponential(0.12), draw.uniform(0, np.pi)
        radius = RED_CELL * draw.lognormal(0, 0.1)
        patch = fill(outline(draw, radius, stretch, angle, 0.03) + middle, smear.canvas.shape, 1.0)
        if patch is None:
            continue
        hole = fill(outline(draw, 0.5 * radius, stretch, angle, 0.06) + middle, smear.canvas.shape, 0.16 * radius)
        amount = strong * draw.uniform(0.85, 1.15) * (patch.alpha + 0.2 * rim(patch, 3))
        stain(smear.canvas, patch.place, amount, RED)
        if hole is not None:
            bleach(smear.canvas, hole, pale * draw.uniform(0.5, 1.0))


def draw_cell(smear: Smear, look: Look, middle: np.ndarray, size: float) -> tuple[int, int, int, int]:
    """Draw one labelled cell; gives its box, which reaches beyond the image where the cell does."""
    draw, shape = smear.draw, smear.canvas.shape
    body = outline(draw, size / 2, draw.uniform(1, 1.2), None, look.edge) + middle
    patch = fill(body, shape, 2.5 if look.nucleus > 0.89 and look.edge > 0.1 else 1.2)
    bleach(smear.canvas, patch, 0.95)
    texture = 1 + 0.15 * smear.noises["wide"][patch.place] + 0.1 * smear.noises["mid"][patch.place]
    amount = patch.alpha * texture * draw.uniform(0.6, 1.5) + (0.12 + look.lined) * rim(patch, 4)
    stain(smear.canvas, patch.place, amount, look.colour * draw.uniform(0.75, 1.3, 3))
    off = draw.normal(0, 0.25, 2) * max(0.0, 1 - look.nucleus) * size / 2
    radius = look.nucleus * size / 2 * draw.lognormal(0, 0.07)
    inner = min(size, *shape[:2]) / 2
    for number, parts in ((look.vacuoles, (0.05, 0.1)), (0.4 * (look.vacuoles > 0), (0.1, 0.14))):
        for _ in range(draw.poisson(number)):
            hole = fill(outline(draw, size * draw.uniform(*parts)) + _inside(draw, middle, inner, 1)[0], shape, 1.0)
            if hole is not None:
                bleach(smear.canvas, hole, 0.7)
    if look.nucleus:  # that of a burst cell reaches beyond what is left of its cytoplasm
        body = np.concatenate([body, _draw_nucleus(smear, look, middle + off, radius)])
    _draw_inclusions(smear, look, middle, size, patch)
    low, high = body.min(axis=0) + draw.normal(0, 2, 2), body.max(axis=0) + draw.normal(0, 2, 2)
    return (*np.round(low).astype(int).tolist(), *np.round(high).astype(int).tolist())


def _inside(draw: np.random.Generator, middle: np.ndarray, radius: float, count: int) -> np.ndarray:
    """Points (count, 2) spread evenly over a disc."""
    turn, far = draw.uniform(0, 2 * np.pi, count), radius * np.sqrt(draw.uniform(0, 0.8, count))
    return middle + np.column_stack([far * np.cos(turn), far * np.sin(turn)])


def _lobes(draw: np.random.Generator, look: Look, radius: float) -> list[np.ndarray]:
    """The contours about 0 whose union is the nucleus."""
    count = int(draw.integers(look.lobes[0], look.lobes[1] + 1))
    if count == 1 and look.bend:  # beads along an arc: a kidney where it is short, a horseshoe where it is long
        bend = look.bend * draw.lognormal(0, 0.2)
        turn = np.linspace(-1, 1, 13) * (0.5 + 1.6 * min(bend, 1.1)) + draw.uniform(0, 2 * np.pi)
        thick, far = radius * (0.86 - 0.5 * min(bend, 1.0)), radius * (0.25 + 0.4 * min(bend, 1.0))
        middles = far * np.column_stack([np.cos(turn), np.sin(turn)])
        return [outline(draw, thick * draw.uniform(0.93, 1.07), 1, None, look.rough) + middle for middle in middles]
    if count == 1:
        return [outline(draw, radius, draw.uniform(1, 1.2), None, look.rough)]
    turn = np.arange(count) * draw.uniform(1.1, 1.6) * (2 if count == 2 else 1) + draw.uniform(0, 2 * np.pi)
    middles = radius * draw.uniform(0.52, 0.64, (count, 1)) * np.column_stack([np.cos(turn), np.sin(turn)])
    thick = radius * (0.52 if count == 2 else 0.44) * (1 if look.nucleus < 0.7 else 1.15)
    lobes = [
        outline(draw, thick * draw.uniform(0.9, 1.15), draw.uniform(1, 1.5), None, look.rough) + middle
        for middle in middles
    ]
    joints = (middles[1:] + middles[:-1]) / 2
    return lobes + [outline(draw, 0.35 * thick, 1.6, None, 0.05) + joint for joint in joints]


def _draw_nucleus(smear: Smear, look: Look, middle: np.ndarray, radius: float) -> np.ndarray:
    """Draw a nucleus; gives the points (N, 2) of its contours."""
    draw, shape = smear.draw, smear.canvas.shape
    mask = np.zeros(shape[:2], np.float32)
    contours = [contour + middle for contour in _lobes(draw, look, radius)]
    for contour in contours:
        lobe = fill(contour, shape, 1.0)
        if lobe is not None:
            mask[lobe.place] = np.maximum(mask[lobe.place], lobe.alpha)
    for _ in range(draw.poisson(look.creases) if look.creases > 1 else look.creases):
        ends = _inside(draw, middle, radius, 2)
        mask *= 1 - 0.55 * _stroke(ends[0], 2 * middle - ends[0] + 0.7 * (ends[1] - middle), shape, 2.0)
    for spot in _inside(draw, middle, 0.75 * radius, draw.poisson(look.nucleoli)):
        hole = fill(outline(draw, radius * draw.uniform(0.13, 0.2), 1.2) + spot, shape, 1.5)
        if hole is not None:
            mask[hole.place] *= 1 - 0.45 * hole.alpha
    contrast = look.coarse * draw.lognormal(0, 0.4)
    chromatin = 1 + contrast * smear.noises["mid"] + 0.5 * contrast * smear.noises["wide"] + 0.05 * smear.noises["fine"]
    patch = Patch((slice(None), slice(None)), mask)
    bleach(smear.canvas, patch, 0.7)
    amount = look.dark * draw.uniform(0.7, 1.35) * (mask * np.maximum(chromatin, 0.3) + 0.15 * rim(patch, 2.0))
    stain(smear.canvas, patch.place, amount, CHROMATIN)
    return np.concatenate(contours)


def _stroke(start: np.ndarray, stop: np.ndarray, shape: tuple[int, ...], width: float) -> np.ndarray:
    """A line between two points (x, y) as float32 0..1 of `shape`."""
    mask = np.zeros(shape[:2], np.uint8)
    ends = [tuple(np.round(16 * end).astype(int).tolist()) for end in (start, stop)]
    cv2.line(mask, *ends, 255, max(1, round(width)), cv2.LINE_AA, pictures.SUBPIXEL)
    return soft(mask * np.float32(1 / 255), 0.7)


def _draw_inclusions(smear: Smear, look: Look, middle: np.ndarray, size: float, body: Patch) -> None:
    """Granules, Auer rods and villi."""
    draw, shape = smear.draw, smear.canvas.shape
    everywhere = (slice(None), slice(None))
    if look.grains:
        colour, count, radius = look.grains
        spots = _inside(draw, middle, size / 2, draw.poisson(count * draw.lognormal(0, 0.5)))
        grains = pictures.dots(draw, shape, spots, (0.6 * radius, 1.2 * radius))
        inside = np.zeros(shape[:2], np.float32)
        inside[body.place] = body.alpha
        stain(smear.canvas, everywhere, draw.uniform(0.25, 0.9) * grains * inside, colour)
    for start in _inside(draw, middle, 0.7 * size / 2, draw.poisson(look.rods)):
        turn = draw.uniform(0, 2 * np.pi)
        stop = start + size * draw.uniform(0.1, 0.2) * np.array([np.cos(turn), np.sin(turn)])
        stain(smear.canvas, everywhere, 0.8 * _stroke(start, stop, shape, 2.0), PURPLE)
    for turn in draw.uniform(0, 2 * np.pi, look.villi):
        ray = size / 2 * np.array([np.cos(turn), np.sin(turn)])
        hair = _stroke(middle + 0.9 * ray, middle + draw.uniform(1.05, 1.25) * ray, shape, 2.0)
        stain(smear.canvas, everywhere, 0.8 * hair, look.colour)
