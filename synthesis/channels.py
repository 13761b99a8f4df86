"""The three reference stains of a cell: microtubules (red), nucleus (blue) and endoplasmic reticulum (yellow).

Each function gives a float32 array of the cell's box, about 1 where the stain is typical, 0 outside the cell.
"""

import cv2
import numpy as np

from synthesis.cells import Cell, soft
from synthesis.filaments import Growth, dots, grow, somewhere, splat

# Standard deviations of the blur at scale 1.
GRAINS = {"fine": 1.3, "mid": 3.2, "patch": 6.0, "coarse": 15.0, "wide": 60.0}
MARGIN = 24  # pixels at scale 1 around the image that boxes may reach into


class Textures:
    """Smooth noise with mean 0 and standard deviation 1, one array an image for each of GRAINS, shared by its cells."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, scale: float):
        self.margin = int(MARGIN * scale) + 1
        shape = (height + 2 * self.margin, width + 2 * self.margin)
        self.fields = {name: smooth_noise(rng, *shape, sigma * scale) for name, sigma in GRAINS.items()}

    def at(self, cell: Cell, name: str) -> np.ndarray:
        """The part of a noise under a cell's box, which must lie within the image and its margin."""
        rows, columns = (slice(part.start + self.margin, part.stop + self.margin) for part in cell.slices)
        return self.fields[name][rows, columns]


def smooth_noise(rng: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1 with blobs of about `sigma` pixels, float32 (height, width)."""
    shrink = max(1, int(sigma / 1.4))  # smooth noise is made small and enlarged
    small = rng.standard_normal((height // shrink + 4, width // shrink + 4), np.float32)
    small = soft(small, sigma / shrink)
    small = (small - small.mean()) / (small.std() + 1e-6)
    return small[:height, :width] if shrink == 1 else cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def level(image: np.ndarray, where: np.ndarray, percentile: float = 97) -> np.ndarray:
    """Scale an image so that its percentile over the pixels `where` is 1."""
    values = image[::4, ::4][where[::4, ::4]]  # enough to find a level
    top = float(np.percentile(values, percentile)) if len(values) else 0.0
    return image / top if top > 1e-6 else image


def draw_nucleus(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """DNA: mottled chromatin with holes, dark nucleoli with a bright rim; a dividing cell's condensed plate."""
    scale = cell.scale
    if cell.dividing:
        return soft(cell.nuclear * (2.0 + 0.2 * textures.at(cell, "mid")), scale)
    contrast = rng.uniform(0.5, 1.6)
    patch = textures.at(cell, "patch")
    shade = np.clip(-1.0 - patch, 0, 1)
    shade *= -0.25 * contrast
    for name, amount in (("patch", 0.10 * contrast), ("mid", 0.11 * contrast), ("coarse", 0.12), ("fine", 0.15)):
        shade += amount * textures.at(cell, name)
    shade += 1
    for place, body, rim in nucleolus_shapes(cell, textures):
        shade[place] = shade[place] * (1 - rng.uniform(0.45, 0.8) * body) + 0.15 * rim
    return soft(cell.nuclear * np.maximum(shade, 0.1), 1.3 * scale)


def nucleolus_shapes(cell: Cell, textures: Textures) -> list[tuple[tuple[slice, slice], np.ndarray, np.ndarray]]:
    """For each nucleolus: where in the box its window lies, and in the window its body and a rim around it, 0..1."""
    shapes = []
    patch = textures.at(cell, "patch")
    for centre_y, centre_x, radius in cell.nucleoli:
        reach = int(2.2 * radius) + 2
        low_y, low_x = max(0, int(centre_y) - reach), max(0, int(centre_x) - reach)
        window = np.s_[low_y : int(centre_y) + reach, low_x : int(centre_x) + reach]
        rough = patch[window]
        y, x = np.ogrid[: rough.shape[0], : rough.shape[1]]
        away = np.hypot(y + low_y - centre_y, x + low_x - centre_x).astype(np.float32) / radius + 0.1 * rough
        shapes.append((window, np.clip((1.15 - away) / 0.3, 0, 1), np.exp(-(((away - 1.35) / 0.25) ** 2))))
    return shapes


def nucleolus_map(cell: Cell, textures: Textures) -> np.ndarray:
    """All nucleoli of a cell as one array of the box, 0..1."""
    drawn = np.zeros(cell.mask.shape, np.float32)
    for window, body, _ in nucleolus_shapes(cell, textures):
        drawn[window] = np.maximum(drawn[window], body)
    return drawn


def draw_microtubules(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """Threads that start about the nucleus and centrosome, run to the edge and bundle along it."""
    if cell.dividing:
        return draw_spindle(cell, textures, rng) + 0.25 * draw_cytosol(cell, textures)
    scale = cell.scale
    count = int(rng.uniform(0.7, 1.3) * 0.0028 * np.count_nonzero(cell.cytoplasm) / scale**2) + 40
    inner = np.exp(-3 * cell.outward) * cell.cytoplasm
    start = somewhere(rng, inner + 0.25 * cell.cytoplasm, count)
    angle = _away_from(cell.centrosome, start) + rng.normal(0, 0.8, len(start))
    growth = Growth(length=rng.uniform(90, 180), wiggle=rng.uniform(0.08, 0.24), outward=0.04, along=0.05)
    paths = grow(rng, cell, start, angle, growth)
    sharp = splat(paths, rng.gamma(2, 0.5, len(start)), cell.mask.shape, growth.step * scale)
    threads = soft(sharp, 1.1 * scale) + soft(0.8 * sharp + 0.3 * soft(sharp, 15 * scale), 5 * scale)
    height = 0.8 * np.exp(-1.5 * cell.outward)
    height += 0.2 * textures.at(cell, "wide") + 0.4
    threads *= np.maximum(height, 0.15)
    threads *= np.maximum(1 + 0.25 * textures.at(cell, "fine") + 0.1 * textures.at(cell, "coarse"), 0)
    threads *= cell.mask
    return level(threads, cell.cytoplasm, 90)


def _away_from(point: tuple[float, float], start: np.ndarray) -> np.ndarray:
    return np.arctan2(start[:, 0] - point[0], start[:, 1] - point[1])


def draw_spindle(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """The bipolar spindle: threads from each pole that arch to the chromosome plate, and short asters."""
    poles = np.array(cell.poles)
    span = poles[1] - poles[0]
    length = np.hypot(*span)
    side = np.array([-span[1], span[0]]) / (length + 1e-6)
    along = np.linspace(0, 0.53, 24)
    fibres = []
    for pole, sign in ((poles[0], 1), (poles[1], -1)):
        reach = rng.normal(0, 0.3, 70)[:, None, None] * length * np.sin(np.pi * along)[:, None]
        fibres.append(pole + sign * along[:, None] * span + reach * side)
        angle = rng.uniform(0, 2 * np.pi, 25)
        ray = np.column_stack([np.sin(angle), np.cos(angle)])[:, None]
        fibres.append(pole + along[:, None] * 0.6 * length * ray)
    paths = np.concatenate(fibres).astype(np.float32)
    drawn = splat(paths, rng.gamma(3, 0.3, len(paths)), cell.mask.shape, 0.53 * length / 23)
    drawn += dots(poles, np.full(2, 12.0), cell.mask.shape)
    plate = 1 - 0.6 * soft(cell.nuclear, cell.scale)
    grain = np.maximum(1 + 0.2 * textures.at(cell, "fine"), 0)
    return level(soft(drawn, 1.6 * cell.scale) * plate * grain * cell.mask, cell.mask, 98)


def draw_cytosol(cell: Cell, textures: Textures) -> np.ndarray:
    """Protein dissolved in the cytoplasm: even, thinner towards the edge, with small holes."""
    thick = np.sqrt(np.clip(cell.to_edge / (28 * cell.scale), 0, 1)) * (1 - 0.35 * cell.outward)
    grain = 1 + 0.10 * textures.at(cell, "fine") + 0.08 * textures.at(cell, "mid") + 0.08 * textures.at(cell, "coarse")
    body = cell.cytoplasm.astype(np.float32) + (0.12 if not cell.dividing else 0) * cell.nuclear
    return soft(body, 1.5 * cell.scale) * thick * np.maximum(grain, 0) * cell.mask


def draw_reticulum(cell: Cell, textures: Textures, rng: np.random.Generator) -> np.ndarray:
    """ER: a net with granules, densest about the nucleus, a rim around it, little over it."""
    scale = cell.scale
    fall = rng.uniform(1.2, 3.2)
    thin = np.clip(cell.to_edge / (rng.uniform(10, 40) * scale), 0, 1)
    body = np.exp(-fall * cell.outward)
    body *= np.maximum(1 + 0.3 * textures.at(cell, "wide"), 0.2)
    body += 0.25
    body *= thin
    body *= cell.cytoplasm
    body *= 1.35 - 0.5 * np.minimum(np.abs(textures.at(cell, "mid")), 1.2)  # a net where the noise crosses zero
    body *= 0.35 + 0.65 * np.clip(1.5 + textures.at(cell, "patch"), 0, 1)  # holes
    body += 0.25 * (np.exp(-((cell.to_nucleus / (3 * scale)) ** 2)) - cell.nuclear)
    body = soft(body, 0.8 * scale)
    if not cell.dividing:
        body += rng.uniform(0.08, 0.25) * cell.nuclear
    body *= np.maximum(1 + 0.4 * textures.at(cell, "fine") + 0.15 * textures.at(cell, "coarse"), 0)
    body *= cell.mask
    return level(body, cell.cytoplasm, 90)
