"""Thread-like structures: paths that wander through a cell, slide along its borders, and are drawn additively."""

from dataclasses import dataclass

import cv2
import numpy as np

from synthesis.cells import Cell


@dataclass(frozen=True)
class Growth:
    """How threads grow; lengths in pixels at scale 1."""

    length: float  # mean length
    step: float = 5.0  # between two turns
    wiggle: float = 0.15  # standard deviation of a turn, radians
    outward: float = 0.0  # pull away from the nucleus at every step
    along: float = 0.0  # pull along the cell's axis
    shy: float = 10.0  # distance from nucleus and edge at which threads turn aside


def grow(rng: np.random.Generator, cell: Cell, start: np.ndarray, angle: np.ndarray, growth: Growth) -> np.ndarray:
    """Paths (threads, steps, 2) as y, x in the cell's box, NaN once a thread has ended or left the cytoplasm.

    start (threads, 2); angle (threads,): the first direction, radians.
    """
    count, step = len(start), growth.step * cell.scale
    steps = max(2, round(1.7 * growth.length / growth.step))
    lengths = rng.gamma(4, growth.length / growth.step / 4, count)
    turns = rng.normal(0, growth.wiggle, (steps, count)).astype(np.float32)
    field = _Field(cell, growth)
    y, x = np.ascontiguousarray(start.T, np.float32)
    dy, dx = np.sin(angle, dtype=np.float32), np.cos(angle, dtype=np.float32)
    paths = np.full((steps, 2, count), np.nan, np.float32)
    alive = np.ones(count, bool)
    for number in range(steps):
        pixel, inside = field.look(y, x)
        alive &= inside & (number < lengths)
        if not alive.any():
            break
        np.copyto(paths[number], (y, x), where=alive)
        turn = turns[number]
        dy, dx = field.steer(pixel, dy + turn * dx, dx - turn * dy)
        y, x = y + step * dy, x + step * dx
    return paths[: number + 1].transpose(2, 0, 1)


class _Field:
    """Where a thread may be, and which way the cell's borders turn it."""

    def __init__(self, cell: Cell, growth: Growth):
        self.height, self.width = cell.mask.shape
        self.free = cell.cytoplasm.ravel()
        self.stride = max(1, round(3 * cell.scale))  # the distances are smooth: every third pixel is enough
        shy, far, slope = growth.shy * cell.scale, 60 * cell.scale, 1 / (8 * self.stride)
        self.walls, self.pull = [], None
        for away in (cell.to_edge, cell.to_nucleus):
            away = np.minimum(away[:: self.stride, :: self.stride], far)
            slopes = cv2.Sobel(away, cv2.CV_32F, 0, 1, scale=slope), cv2.Sobel(away, cv2.CV_32F, 1, 0, scale=slope)
            near = np.sqrt(np.clip(1.05 - away / shy, 0, 1.05))  # of a wall: the direction away, longer when nearer
            self.walls.append([(part * near).ravel() for part in slopes])
        if growth.outward:
            self.pull = [growth.outward * part.ravel() for part in slopes]
        self.narrow = away.shape[1]
        self.axis = np.float32([np.sin(cell.axis), np.cos(cell.axis)]) * np.float32(growth.along)

    def look(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The positions in the flat maps of walls and pull, and whether threads may be there."""
        within = (y >= 0) & (x >= 0) & (y < self.height) & (x < self.width)
        row, column = (y * within).astype(np.intp), (x * within).astype(np.intp)
        free = within & self.free[row * self.width + column]
        return row // self.stride * self.narrow + column // self.stride, free

    def steer(self, pixel: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The direction (dy, dx) turned by what is near, of length 1."""
        for wall_y, wall_x in self.walls:
            away_y, away_x = wall_y[pixel], wall_x[pixel]
            into = np.minimum(dy * away_y + dx * away_x, 0)
            dy, dx = dy - into * away_y, dx - into * away_x
        if self.pull:
            dy, dx = dy + self.pull[0][pixel], dx + self.pull[1][pixel]
        if self.axis.any():
            side = np.sign(dy * self.axis[0] + dx * self.axis[1])
            dy, dx = dy + side * self.axis[0], dx + side * self.axis[1]
        length = np.sqrt(dy * dy + dx * dx) + np.float32(1e-6)
        return dy / length, dx / length


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
    """Add weights (N,) to the pixels under points (N, 2) given as y, x: float32 (height, width)."""
    height, width = shape
    y, x = points[:, 0], points[:, 1]
    with np.errstate(invalid="ignore"):  # NaN: a thread that has ended
        keep = (y >= 0) & (x >= 0) & (y < height) & (x < width)
    pixels = y[keep].astype(np.intp) * width + x[keep].astype(np.intp)
    return np.bincount(pixels, weights[keep], height * width).reshape(height, width).astype(np.float32)


def somewhere(rng: np.random.Generator, chance: np.ndarray, count: int) -> np.ndarray:
    """`count` points (N, 2) as y, x, drawn with a probability proportional to `chance` (height, width)."""
    total = np.cumsum(chance.ravel(), dtype=np.float64)
    if total[-1] <= 0:
        return np.zeros((0, 2), np.float32)
    pixels = np.searchsorted(total, rng.random(count) * total[-1], side="right").clip(max=len(total) - 1)
    return np.column_stack(np.divmod(pixels, chance.shape[1])).astype(np.float32) + rng.random((count, 2), np.float32)
