"""Thread-like structures: paths that wander through a cell, slide along its borders, and are drawn additively."""

from dataclasses import dataclass

import cv2
import numpy as np

from synthesis.cells import Cell


@dataclass(frozen=True)
class Growth:
    """How threads grow; lengths in pixels at scale 1."""

    length: float  # mean length
    step: float = 4.0  # between two turns
    wiggle: float = 0.15  # standard deviation of a turn, radians
    outward: float = 0.0  # pull away from the nucleus at every step
    along: float = 0.0  # pull along the cell's axis
    shy: float = 10.0  # distance from nucleus and edge at which threads turn aside


def grow(rng: np.random.Generator, cell: Cell, start: np.ndarray, angle: np.ndarray, growth: Growth) -> np.ndarray:
    """Paths (threads, steps, 2) as y, x in the cell's box, NaN once a thread has ended or left the cell.

    start (threads, 2); angle (threads,): the first direction, radians.
    """
    step = growth.step * cell.scale
    steps = max(2, round(2 * growth.length / growth.step))
    lengths = rng.gamma(4, growth.length / growth.step / 4, len(start)).clip(2, steps)
    field = _Field(cell, growth)
    position = start.astype(np.float32)
    heading = np.column_stack([np.sin(angle), np.cos(angle)]).astype(np.float32)
    turns = rng.normal(0, growth.wiggle, (steps, len(start), 1)).astype(np.float32)
    paths = np.full((len(start), steps, 2), np.nan, np.float32)
    alive = field.inside(position)
    for number in range(steps):
        paths[alive, number] = position[alive]
        heading = heading + turns[number] * np.column_stack([-heading[:, 1], heading[:, 0]])
        heading = field.steer(position, heading)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True) + 1e-6
        position = position + step * heading
        alive &= field.inside(position) & (number + 1 < lengths)
        if not alive.any():
            break
    return paths[:, : number + 1]


class _Field:
    """Where a thread may be, and which way the cell's borders turn it."""

    def __init__(self, cell: Cell, growth: Growth):
        self.mask = cell.cytoplasm
        self.last = np.array(self.mask.shape) - 1
        shy = growth.shy * cell.scale
        self.outward, self.along = growth.outward, growth.along
        self.axis = np.array([np.sin(cell.axis), np.cos(cell.axis)], np.float32)
        edge, nucleus = cell.to_edge, cell.to_nucleus
        gradients = [cv2.Sobel(np.minimum(field, 60 * cell.scale), cv2.CV_32F, dx, dy, scale=1 / 8)
                     for field in (edge, nucleus) for dy, dx in ((1, 0), (0, 1))]  # fmt: skip
        near = [np.clip(1 - field / shy, 0, 1) for field in (edge, nucleus)]
        self.table = np.dstack([*gradients, *near]).reshape(-1, 6)

    def _index(self, position: np.ndarray) -> np.ndarray:
        pixel = np.clip(position, 0, self.last).astype(np.intp)
        return pixel[:, 0] * self.mask.shape[1] + pixel[:, 1]

    def inside(self, position: np.ndarray) -> np.ndarray:
        within = ((position >= 0) & (position <= self.last)).all(axis=1)
        return within & self.mask.ravel()[self._index(position)]

    def steer(self, position: np.ndarray, heading: np.ndarray) -> np.ndarray:
        values = self.table[self._index(position)]
        for column, near in ((0, 4), (2, 5)):  # away from the edge, away from the nucleus
            normal = values[:, column : column + 2]
            into = np.minimum((heading * normal).sum(axis=1), 0) * values[:, near]
            heading = heading - 1.05 * into[:, None] * normal
        if self.outward:
            heading = heading + self.outward * values[:, 2:4]
        if self.along:
            side = np.sign(heading @ self.axis)
            heading = heading + self.along * side[:, None] * self.axis
        return heading


def splat(paths: np.ndarray, weights: np.ndarray, shape: tuple[int, int], step: float) -> np.ndarray:
    """Draw paths (threads, steps, 2) additively, each with its weight (threads,): float32 (height, width).

    Points between two steps (`step` pixels apart) are filled in, so that a thread has no holes.
    """
    fill = max(1, round(step / 0.8))
    part = (np.arange(fill, dtype=np.float32) / fill)[:, None]
    points = paths[:, :-1, None] * (1 - part) + paths[:, 1:, None] * part
    values = np.broadcast_to((weights / fill)[:, None, None], points.shape[:3])
    return dots(points.reshape(-1, 2), values.ravel(), shape)


def dots(points: np.ndarray, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Add weights (N,) at points (N, 2) given as y, x, spread over the four nearest pixels: float32 (height, width)."""
    height, width = shape
    with np.errstate(invalid="ignore"):  # NaN: a thread that has ended
        keep = (points >= 0).all(axis=1) & (points[:, 0] < height - 1) & (points[:, 1] < width - 1)
    points, weights = points[keep], weights[keep]
    corner = points.astype(np.intp)
    low = points - corner
    index = corner[:, 0] * width + corner[:, 1]
    total = np.zeros(height * width)
    for dy, y_part in ((0, 1 - low[:, 0]), (1, low[:, 0])):
        for dx, x_part in ((0, 1 - low[:, 1]), (1, low[:, 1])):
            total += np.bincount(index + dy * width + dx, weights * y_part * x_part, height * width)
    return total.reshape(height, width).astype(np.float32)


def somewhere(rng: np.random.Generator, chance: np.ndarray, count: int) -> np.ndarray:
    """`count` points (N, 2) as y, x, drawn with a probability proportional to `chance` (height, width)."""
    total = np.cumsum(chance.ravel(), dtype=np.float64)
    if total[-1] <= 0:
        return np.zeros((0, 2), np.float32)
    pixels = np.searchsorted(total, rng.random(count) * total[-1], side="right").clip(max=len(total) - 1)
    return np.column_stack(np.divmod(pixels, chance.shape[1])).astype(np.float32) + rng.random((count, 2), np.float32)
