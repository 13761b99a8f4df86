"""Where cells lie and what outlines they have: adherent cells with gaps between them, contacts and islands.

Every cell is planned as two contours (cell and nucleus) and rasterised in a box of its own, which may reach beyond the
image. Where two cells claim a pixel, the one in which it lies deeper has it: the seam between two touching cells then
runs through the middle of their overlap, as a contact of real cells does.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from synthesis.cells import Cell, disk, distance, soft
from synthesis.pictures import SUBPIXEL
from synthesis.settings import CellLine, Settings

BULGE = 16  # pixels at scale 1: least width of the cytoplasm around a nucleus, before neighbours take their part


@dataclass
class Plan:
    """A cell before it is rasterised: contours as (points, 2) arrays of x, y in the image's pixels."""

    outline: np.ndarray
    nuclei: list[np.ndarray]
    centre: np.ndarray
    axis: float
    dividing: bool


def place(rng: np.random.Generator, width: int, height: int, count: int, spacing: float, line: CellLine) -> np.ndarray:
    """Centres (N, 2) as x, y: `count` inside the image, and as dense around it so that cells are cut by its border."""
    margin = 2.2 * spacing
    size = np.array([width, height], float)
    around = (size + 2 * margin).prod() / size.prod() - 1
    points: list[np.ndarray] = []
    for _ in range(count):
        points.append(_spot(rng, points, np.zeros(2), size, spacing, line.clustering))
    outside = 0
    for _ in range(20 * count):
        if outside >= count * around:
            break
        spot = _spot(rng, points, np.full(2, -margin), size + margin, spacing, line.clustering)
        if (spot < 0).any() or (spot > size).any():
            points.append(spot)
            outside += 1
    return np.array(points)


def _spot(rng, points, low, high, spacing, clustering) -> np.ndarray:
    """A point at least `spacing` from the others; the demand falls when no room is found."""
    near = points and rng.random() < clustering
    for attempt in range(60):
        if near and attempt < 30:
            direction = rng.uniform(0, 2 * np.pi)
            step = spacing * rng.uniform(1.0, 1.25)
            spot = points[rng.integers(len(points))] + step * np.array([np.cos(direction), np.sin(direction)])
            if (spot < low).any() or (spot > high).any():
                continue
        else:
            spot = rng.uniform(low, high)
        wanted = spacing * 0.97 ** max(0, attempt - 30)
        if not points or (((np.array(points) - spot) ** 2).sum(axis=1) >= wanted**2).all():
            return spot
    return rng.uniform(low, high)


def plan_cell(
    rng: np.random.Generator, centre: np.ndarray, line: CellLine, scale: float, settings: Settings, dividing: bool
) -> Plan:
    """The outline and nucleus of one cell about `centre` (x, y)."""
    axis = rng.uniform(0, np.pi)
    area = line.area * scale**2 * rng.lognormal(0, 0.28)
    if dividing:
        return _plan_dividing(rng, centre, min(area, 95_000 * scale**2) * 0.55, axis)
    stretch = rng.uniform(*line.stretch)
    nucleus_area = line.nucleus * scale**2 * rng.lognormal(0, 0.2)
    tilt = axis + rng.normal(0, 0.25)
    if rng.random() < settings.binucleate:
        apart = np.sqrt(nucleus_area) * 0.48 * rng.uniform(0.95, 1.2)
        shift = apart * np.array([np.cos(tilt), np.sin(tilt)])
        nuclei = [_nucleus(rng, centre + sign * shift, 0.55 * nucleus_area, line, tilt + 1.5) for sign in (-1, 1)]
    else:
        nuclei = [_nucleus(rng, centre, nucleus_area, line, tilt)]
    middle = centre + rng.normal(0, 0.07, 2) * np.sqrt(area / stretch)
    return Plan(_outline(rng, middle, line, area, axis, stretch), nuclei, centre, axis, dividing=False)


def _plan_dividing(rng, centre, area, axis) -> Plan:
    radius = np.sqrt(area / np.pi)
    outline = centre + radius * _wobble(rng, 96, 0.03)[:, None] * _circle(96)
    plate = _circle(64) * [0.16, 0.52] * radius * _wobble(rng, 64, 0.08, modes=9)[:, None]
    return Plan(outline, [centre + _turn(plate, axis)], centre, axis, dividing=True)


def _outline(rng, centre, line: CellLine, area, axis, stretch) -> np.ndarray:
    corners = rng.integers(line.corners[0], line.corners[1] + 1)
    angles = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) / corners
    radii = rng.lognormal(0, 0.2, corners)
    radii *= np.where(rng.random(corners) < line.tails, rng.uniform(1.5, 2.4, corners), 1)
    points = radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    along = np.linspace(0, 1, 16, endpoint=False)[:, None]
    edges = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        bend = 1 + rng.uniform(*line.arc) * 4 * along * (1 - along)
        edges.append((start + along * (end - start)) * bend)
    contour = _smooth(np.concatenate(edges), 2.5)
    contour = contour - (contour.max(axis=0) + contour.min(axis=0)) / 2
    contour *= (_wobble(rng, len(contour), 0.035, modes=9) * _wobble(rng, len(contour), 0.012, modes=30))[:, None]
    contour = _turn(contour * [np.sqrt(stretch), 1 / np.sqrt(stretch)], axis)
    return centre + contour * np.sqrt(area / _area(contour))


def _nucleus(rng, centre, area, line: CellLine, axis) -> np.ndarray:
    stretch = rng.uniform(1.0, 1.7)
    contour = _circle(80) * _wobble(rng, 80, 0.045, modes=5)[:, None]
    if rng.random() < line.lobed:
        for _ in range(rng.integers(1, 3)):
            angle = np.linspace(-np.pi, np.pi, 80, endpoint=False)
            dent = np.exp(-((angle / rng.uniform(0.25, 0.45)) ** 2))
            contour *= (1 - rng.uniform(0.15, 0.45) * np.roll(dent, rng.integers(80)))[:, None]
    contour = _turn(contour * [np.sqrt(stretch), 1 / np.sqrt(stretch)], axis)
    return centre + contour * np.sqrt(area / _area(contour))


def _circle(points: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _wobble(rng, points: int, size: float, modes: int = 6) -> np.ndarray:
    """A smooth closed curve around 1: Fourier modes 2..`modes` with falling amplitude."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    mode = np.arange(2, modes + 1)
    phase = rng.uniform(0, 2 * np.pi, len(mode))
    amplitude = rng.normal(0, size, len(mode)) / np.sqrt(mode / 2)
    return 1 + (amplitude * np.cos(angle[:, None] * mode + phase)).sum(axis=1)


def _smooth(contour: np.ndarray, sigma: float) -> np.ndarray:
    weights = np.exp(-((np.arange(-8, 9) / sigma) ** 2) / 2)
    closed = np.pad(contour, ((8, 8), (0, 0)), mode="wrap")
    return np.column_stack([np.convolve(part, weights / weights.sum(), mode="valid") for part in closed.T])


def _turn(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _area(contour: np.ndarray) -> float:
    x, y = contour.T
    return abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2


def in_view(plans: list[Plan], width: int, height: int) -> list[Plan]:
    """The plans that can show in the image."""
    size = (width, height)
    return [plan for plan in plans if (plan.outline.min(axis=0) < size).all() and (plan.outline.max(axis=0) > 0).all()]


def rasterise(plans: list[Plan], scale: float) -> list[Cell]:
    """Cells from plans, without overlap. A cell whose nucleus was mostly taken by its neighbours is left out."""
    cells = [_raster(plan, scale) for plan in plans]
    depths = [_depth(cell, scale) for cell in cells]
    for first in range(len(cells)):
        for second in range(first + 1, len(cells)):
            _contest(cells[first], depths[first], cells[second], depths[second])
    kept = []
    for cell, plan in zip(cells, plans, strict=True):
        planned = np.count_nonzero(cell.nucleus)
        _settle(cell)
        if np.count_nonzero(cell.nucleus) > 0.6 * planned > 0:
            kept.append(cell)
            if plan.dividing:
                cell.poles = _poles(cell, plan)
    return kept


def _raster(plan: Plan, scale: float) -> Cell:
    every = np.concatenate([plan.outline, *plan.nuclei])
    border = int(np.ceil(2 * BULGE * scale)) + 2
    left, top = np.floor(every.min(axis=0)).astype(int) - border
    right, bottom = np.ceil(every.max(axis=0)).astype(int) + border
    shape = (bottom - top, right - left)
    offset = np.array([left, top])
    nucleus = _fill(shape, [contour - offset for contour in plan.nuclei])
    mask = _fill(shape, [plan.outline - offset])
    if not plan.dividing:
        _bulge(mask, nucleus, [contour - offset for contour in plan.nuclei], scale)
    return Cell(int(top), int(left), mask > 0, nucleus > 0, scale, plan.axis, plan.dividing)


def _bulge(mask: np.ndarray, nucleus: np.ndarray, contours: list[np.ndarray], scale: float) -> None:
    """Widen the cell around a nucleus that lies near its edge, in place: some cytoplasm surrounds every nucleus."""
    points = np.concatenate(contours)
    low = np.maximum(points.min(axis=0) - 4 * BULGE * scale, 0).astype(int)
    high = (points.max(axis=0) + 4 * BULGE * scale).astype(int)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    away = distance(nucleus[window] == 0)
    smooth = soft(np.maximum(mask[window], away < BULGE * scale).astype(np.float32), 9 * scale)
    mask[window] |= (smooth > 0.55) & (away < 3 * BULGE * scale)


def _fill(shape: tuple[int, int], contours: list[np.ndarray]) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    for contour in contours:
        cv2.fillPoly(canvas, [np.round(contour * 2**SUBPIXEL).astype(np.int32)], 1, shift=SUBPIXEL)
    return canvas


def _depth(cell: Cell, scale: float) -> np.ndarray:
    """How strongly a cell claims its pixels: its distance to the edge, and its nucleus with a rim above all."""
    return cell.to_edge + np.float32(1e4) * (cell.to_nucleus < 5 * scale)


def _contest(first: Cell, first_depth: np.ndarray, second: Cell, second_depth: np.ndarray) -> None:
    """Divide the pixels that two cells both claim, in place."""
    top, bottom = max(first.top, second.top), min(first.slices[0].stop, second.slices[0].stop)
    left, right = max(first.left, second.left), min(first.slices[1].stop, second.slices[1].stop)
    if top >= bottom or left >= right:
        return
    one = np.s_[top - first.top : bottom - first.top, left - first.left : right - first.left]
    two = np.s_[top - second.top : bottom - second.top, left - second.left : right - second.left]
    both = first.mask[one] & second.mask[two]
    if both.any():
        for cell in (first, second):
            cell.__dict__.pop("to_edge", None)  # measured before
        wins = first_depth[one] > second_depth[two]
        first.mask[one] &= ~both | wins
        second.mask[two] &= ~both | ~wins


def _settle(cell: Cell) -> None:
    """Keep the part of a cell that holds most of its nucleus, and the nucleus inside the cell, in place."""
    count, parts = cv2.connectedComponents(cell.mask.view(np.uint8), connectivity=4, ltype=cv2.CV_16U)
    if count > 2:
        main = np.bincount(parts[cell.nucleus & cell.mask], minlength=count).argmax()
        cell.mask &= parts == main
    inner = cv2.erode(cell.mask.view(np.uint8), disk(max(1, round(2 * cell.scale)))).view(bool)
    if (cell.nucleus & ~inner).any():
        cell.nucleus &= inner
        del cell.to_nucleus  # measured before the neighbours took their part


def _poles(cell: Cell, plan: Plan) -> tuple[tuple[float, float], tuple[float, float]]:
    along = 0.5 * np.sqrt(np.count_nonzero(cell.mask) / np.pi) * np.array([np.sin(cell.axis), np.cos(cell.axis)])
    middle = plan.centre[::-1] - [cell.top, cell.left]
    return tuple(middle - along), tuple(middle + along)
