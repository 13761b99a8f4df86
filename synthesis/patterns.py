"""The 19 protein patterns: for each class index a function that draws it in one cell's green channel.

`PATTERNS[index](cell, textures, rng)` gives a float32 array of the cell's box, about 1 in the pattern's typical bright
parts and 0 outside the cell. Lengths are pixels at scale 1 (synthesis/settings.py) times the cell's scale.
"""

from collections.abc import Callable

import numpy as np

from synthesis.cells import Cell, soft
from synthesis.channels import Textures, draw_cytosol, draw_spindle, level, nucleolus_map, nucleolus_shapes
from synthesis.filaments import Growth, dots, grow, somewhere, splat

Pattern = Callable[[Cell, Textures, np.random.Generator], np.ndarray]


def nucleoplasm(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Even in the nucleus, less in the nucleoli."""
    shade = 0.75 + 0.10 * textures.at(cell, "fine") + 0.07 * textures.at(cell, "patch")
    for window, body, _ in nucleolus_shapes(cell, textures):
        shade[window] *= 1 - rng.uniform(0.5, 0.85) * body
    return soft(cell.nuclear * np.maximum(shade, 0), 1.2 * cell.scale)


def nuclear_membrane(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """A thin ring around the nucleus, a little of it over the nucleus."""
    away = np.where(cell.nucleus, cell.in_nucleus, cell.to_nucleus)
    ring = np.exp(-((away / (rng.uniform(2.0, 3.2) * cell.scale)) ** 2))
    uneven = np.clip(0.85 + 0.2 * textures.at(cell, "fine") + 0.2 * textures.at(cell, "coarse"), 0.2, None)
    return ((ring + rng.uniform(0.05, 0.2) * cell.nuclear) * uneven * cell.mask).astype(np.float32)


def nucleoli(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """The few large spots that are dark in the DNA stain."""
    drawn = 0.08 * cell.nuclear
    uneven = np.maximum(0.85 + 0.12 * textures.at(cell, "fine") + 0.12 * textures.at(cell, "mid"), 0)
    for window, body, _ in nucleolus_shapes(cell, textures):
        drawn[window] = np.maximum(drawn[window], body * rng.uniform(0.8, 1.1))
    return soft(drawn * uneven, 0.8 * cell.scale) * cell.mask


def fibrillar_centre(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Small bright dots inside the nucleoli."""
    drawn = 0.05 * cell.nuclear
    for y, x, radius in cell.nucleoli:
        count = rng.integers(2, 7)
        away, angle = radius * np.sqrt(rng.uniform(0, 0.6, count)), rng.uniform(0, 2 * np.pi, count)
        points = np.column_stack([y + away * np.sin(angle), x + away * np.cos(angle)])
        drawn = drawn + _spots(points, rng.uniform(0.6, 1.1, count), rng.uniform(1.6, 2.6) * cell.scale, cell)
    return (drawn + 0.12 * nucleolus_map(cell, textures)) * cell.mask


def speckles(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """About 20 to 50 irregular spots spread over the nucleus, on a weak ground."""
    noise = soft(textures.at(cell, "mid"), 2.5 * cell.scale)
    inside = cell.nucleus & (cell.in_nucleus > 4 * cell.scale)
    if not inside.any():
        return np.zeros(cell.mask.shape, np.float32)
    noise = noise - 3 * nucleolus_map(cell, textures)
    cut = np.quantile(noise[inside], rng.uniform(0.78, 0.86))
    spots = soft(((noise > cut) & inside).astype(np.float32), 1.2 * cell.scale)
    return (spots * (0.9 + 0.1 * textures.at(cell, "fine")) + rng.uniform(0.08, 0.25) * cell.nuclear).astype(np.float32)


def nuclear_bodies(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Two to ten small round spots in the nucleus, outside the nucleoli."""
    inside = (cell.in_nucleus > 7 * cell.scale) & (nucleolus_map(cell, textures) < 0.1)
    points = somewhere(rng, inside, rng.integers(2, 11))
    drawn = _spots(points, rng.uniform(0.7, 1.2, len(points)), rng.uniform(2.6, 4.5) * cell.scale, cell)
    return drawn + rng.uniform(0.03, 0.15) * cell.nuclear


def reticulum(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Follows the ER stain."""
    return cell.yellow * (1 + 0.1 * textures.at(cell, "fine"))


def golgi(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Ribbons stacked in a patch on one side of the nucleus, about the centrosome."""
    scale = cell.scale
    chance = _near(cell, cell.centrosome, rng.uniform(22, 34) * scale) * (cell.to_nucleus < 60 * scale)
    start = somewhere(rng, chance * cell.cytoplasm, rng.integers(22, 45))
    if not len(start):
        return np.zeros(cell.mask.shape, np.float32)
    along = np.arctan2(*(start - cell.centrosome).T) + np.pi / 2
    growth = Growth(length=rng.uniform(18, 34), step=3, wiggle=0.4, shy=4)
    paths = grow(rng, cell, start, along + rng.normal(0, 0.6, len(start)), growth)
    drawn = splat(paths, rng.gamma(3, 0.4, len(start)), cell.mask.shape, growth.step * scale)
    drawn = level(soft(drawn, 2.2 * scale), drawn > 0, 80) + 0.2 * chance
    vesicles = _spots(somewhere(rng, cell.cytoplasm, 12), rng.uniform(0.1, 0.4, 12), 1.6 * scale, cell)
    return np.minimum(drawn + vesicles, 1.6) * cell.cytoplasm


def intermediate_filaments(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Coarse curly bundles, densest around the nucleus or on one side of it."""
    count = rng.integers(70, 130)
    side = _near(cell, cell.centrosome, 120 * cell.scale)
    chance = np.exp(-4.5 * cell.outward) * (0.25 + side) * cell.cytoplasm
    start = somewhere(rng, chance, count)
    growth = Growth(length=rng.uniform(70, 120), wiggle=rng.uniform(0.3, 0.45), shy=14)
    paths = grow(rng, cell, start, rng.uniform(0, 2 * np.pi, count), growth)
    drawn = splat(paths, rng.gamma(1.5, 0.7, count), cell.mask.shape, growth.step * cell.scale)
    drawn = soft(drawn, 2.4 * cell.scale) + 0.3 * soft(drawn, 7 * cell.scale)
    return level(drawn * np.exp(-0.9 * cell.outward) * cell.cytoplasm, drawn > 0.02, 92)


def actin(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Parallel, straight stress fibres across the whole cell, and a bright cortex."""
    count = rng.integers(28, 60)
    lie = cell.axis + rng.normal(0, 0.15)
    start = somewhere(rng, cell.mask, count)
    half = rng.gamma(5, 22, count)[:, None, None] * cell.scale
    angle = lie + rng.normal(0, 0.07, count)
    ray = np.column_stack([np.sin(angle), np.cos(angle)])[:, None]
    along = np.linspace(-1, 1, 2 + int(2 * half.max() / 3))[:, None]
    paths = (start[:, None] + half * along * ray).astype(np.float32)
    fibres = splat(paths, rng.gamma(2, 0.5, count) * half.ravel(), cell.mask.shape, 3.0)
    fibres = level(soft(fibres, 1.6 * cell.scale), cell.mask, 96)
    cortex = np.exp(-((cell.to_edge / (3.5 * cell.scale)) ** 2)) * rng.uniform(0.4, 0.9)
    uneven = np.clip(0.9 + 0.2 * textures.at(cell, "coarse") + 0.1 * textures.at(cell, "fine"), 0.1, None)
    return ((fibres + cortex) * uneven * cell.mask).astype(np.float32)


def microtubules(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Follows the microtubule stain."""
    return cell.red * (1 + 0.1 * textures.at(cell, "fine"))


def spindle(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """The spindle of a dividing cell; nothing in any other cell."""
    if not cell.dividing:
        return np.zeros(cell.mask.shape, np.float32)
    return draw_spindle(cell, textures, rng) + 0.15 * draw_cytosol(cell, textures)


def centrosome(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """One dot or a pair beside the nucleus, at both spindle poles of a dividing cell."""
    radius = rng.uniform(2.4, 4.0) * cell.scale
    if cell.poles:
        return _spots(np.array(cell.poles), np.full(2, 1.3), radius, cell)
    first = np.array(cell.centrosome)
    angle = rng.uniform(0, 2 * np.pi)
    second = first + rng.uniform(2.5, 4.5) * radius * np.array([np.sin(angle), np.cos(angle)])
    points = np.array([first, second])[: rng.integers(1, 3)]
    return _spots(points, np.full(len(points), 1.3), radius, cell) + 0.15 * _near(cell, first, 5 * radius) * cell.mask


def plasma_membrane(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """A line along the cell's edge, twice as strong where another cell touches."""
    line = np.exp(-((cell.to_edge / (rng.uniform(3.0, 4.5) * cell.scale)) ** 2))
    contact = 0 if cell.contact is None else cell.contact
    uneven = np.clip(0.75 + 0.3 * textures.at(cell, "coarse") + 0.2 * textures.at(cell, "mid"), 0.15, None)
    ground = rng.uniform(0.04, 0.14) * draw_cytosol(cell, textures)
    return ((line * uneven * (0.6 + 0.7 * contact) + ground) * cell.mask).astype(np.float32)


def mitochondria(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Many short worms around the nucleus."""
    count = int(rng.uniform(0.0014, 0.0028) * np.count_nonzero(cell.cytoplasm) / cell.scale**2) + 20
    start = somewhere(rng, np.exp(-rng.uniform(2, 3.5) * cell.outward) * cell.cytoplasm, count)
    growth = Growth(length=rng.uniform(16, 34), step=3, wiggle=0.3, shy=5)
    angle = np.arctan2(*(start - cell.centrosome).T) + rng.normal(0, 0.9, len(start))
    paths = grow(rng, cell, start, angle, growth)
    drawn = splat(paths, rng.gamma(4, 0.25, len(start)), cell.mask.shape, growth.step * cell.scale)
    drawn = soft(drawn, rng.uniform(1.8, 2.5) * cell.scale)
    return np.minimum(level(drawn, drawn > 0.02, 85), 1.7) * cell.cytoplasm


def aggresome(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """One bright, granular blob beside the nucleus."""
    size = rng.uniform(8, 18) * cell.scale
    y, x = np.ogrid[: cell.mask.shape[0], : cell.mask.shape[1]]
    away = np.sqrt((y - cell.centrosome[0]) ** 2 + (x - cell.centrosome[1]) ** 2, dtype=np.float32)
    away = away / size + 0.12 * textures.at(cell, "patch")
    blob = np.clip((1.1 - away) / 0.25, 0, 1) * np.maximum(0.9 + 0.25 * textures.at(cell, "fine"), 0.1)
    return 1.3 * blob * cell.cytoplasm


def cytosol(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Even in the cytoplasm, not in the nucleus."""
    return 0.8 * draw_cytosol(cell, textures)


def vesicles(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Scattered dots of differing size in the cytoplasm."""
    chance = np.exp(-rng.uniform(0, 4) * cell.outward) * cell.cytoplasm
    total = int(rng.lognormal(4.3, 0.6)) + 15
    drawn = np.zeros(cell.mask.shape, np.float32)
    for size, share in ((1.5, 0.5), (2.3, 0.35), (3.4, 0.15)):
        points = somewhere(rng, chance, max(1, int(share * total)))
        drawn += _spots(points, rng.gamma(4, 0.22, len(points)), size * cell.scale, cell)
    return np.minimum(drawn, 1.8) * cell.cytoplasm


def negative(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Nothing: what is left is the image's haze and noise."""
    return np.zeros(cell.mask.shape, np.float32)


def _near(cell: Cell, point: tuple[float, float], sigma: float) -> np.ndarray:
    """A Gaussian hill of height 1 about a point (y, x) of the box."""
    y, x = np.ogrid[: cell.mask.shape[0], : cell.mask.shape[1]]
    hill = np.exp(-((y - point[0]) ** 2) / (2 * sigma**2)) * np.exp(-((x - point[1]) ** 2) / (2 * sigma**2))
    return hill.astype(np.float32)


def _spots(points: np.ndarray, heights: np.ndarray, sigma: float, cell: Cell) -> np.ndarray:
    """Round spots of the given heights and standard deviation."""
    sigma = max(sigma, 0.6)
    return soft(dots(points, heights * 2 * np.pi * sigma**2, cell.mask.shape), sigma)


PATTERNS: dict[int, Pattern] = dict(
    enumerate(
        (
            nucleoplasm, nuclear_membrane, nucleoli, fibrillar_centre, speckles, nuclear_bodies, reticulum, golgi,
            intermediate_filaments, actin, microtubules, spindle, centrosome, plasma_membrane, mitochondria, aggresome,
            cytosol, vesicles, negative,
        )
    )
)  # fmt: skip

# What of each pattern's strength reaches the image: diffuse proteins are dimmer than condensed ones.
STRENGTH = {0: 0.75, 3: 1.2, 5: 1.5, 6: 0.8, 10: 0.75, 12: 2.2, 15: 1.3, 16: 0.7, 17: 1.2}
AT_NUCLEUS = frozenset({0, 1, 2, 3, 4, 5, 7, 11, 12, 15})  # what cannot be seen where the nucleus is not
IN_DIVISION = frozenset({6, 10, 11, 12, 13, 16, 17})  # what a dividing cell can show
