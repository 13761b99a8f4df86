"""Charts as SVG that takes its colours from the page's style."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reporting.html import Html, tag

WIDTH, HEIGHT = 340, 190  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 12, 26  # of the frame, for the scales


class Line(NamedTuple):
    """A curve: x and y (N,) each, NaN where unknown, its name, its class in the style, and where to put a dot or -1."""

    x: np.ndarray
    y: np.ndarray
    name: str
    style: str
    dot: int = -1


def chart(lines: Sequence[Line], title: str, low: float | None = None) -> Html:
    """Curves over the epochs, with scales; low: what the upright scale must reach at least."""
    xs, ys = (np.concatenate([np.asarray(line[part], float) for line in lines]) for part in (0, 1))
    ys = np.append(ys[np.isfinite(ys)], [] if low is None else low)
    across = ticks(xs.min(), max(xs.max(), xs.min() + 1), whole=True)
    up = ticks(ys.min(initial=np.inf), ys.max(initial=-np.inf))
    first, last = min(across[0], xs.min()), max(across[-1], xs.max())

    def place(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Points of the chart, (N, 2)."""
        right = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return np.column_stack([right, TOP + (up[-1] - y) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)])

    grid = [_level(place(np.array([first, last]), np.full(2, value)), label(value, up)) for value in up]
    feet = [_foot(place(np.array([value]), up[:1])[0, 0], f"{value:.0f}") for value in across]
    drawn = [part for line in lines for part in _draw(line, place)]
    view = f"0 0 {WIDTH} {HEIGHT}"
    return tag("svg", *grid, *feet, *drawn, viewBox=view, role="img", aria_label=title, class_="chart")


def _level(ends: np.ndarray, text: str) -> Html:
    (x1, y), (x2, _) = ends.round(1).tolist()
    return tag("g", tag("line", x1=x1, x2=x2, y1=y, y2=y),
               tag("text", text, x=x1 - 6, y=y + 3.5, text_anchor="end"), class_="level")  # fmt: skip


def _foot(x: float, text: str) -> Html:
    return tag("text", text, x=round(x, 1), y=HEIGHT - 8, text_anchor="middle", class_="foot")


def _draw(line: Line, place) -> list[Html]:
    """A curve, in pieces where a value is unknown, and its dot."""
    known = np.isfinite(line.y)
    points = place(np.asarray(line.x, float), np.asarray(line.y, float)).round(1)
    pieces = np.split(np.arange(len(points)), np.flatnonzero(np.diff(known)) + 1)
    parts = []
    for piece in pieces:
        if len(piece) and known[piece[0]]:
            path = " ".join(f"{x:g},{y:g}" for x, y in points[piece].tolist())
            parts.append(tag("polyline", points=path, class_=line.style))
    if line.dot >= 0 or known.sum() == 1:
        x, y = points[line.dot if line.dot >= 0 else int(known.argmax())].tolist()
        parts.append(tag("circle", tag("title", line.name), cx=x, cy=y, r=3.2, class_=line.style))
    return parts


def ticks(low: float, high: float, whole: bool = False) -> np.ndarray:
    """Three to six round numbers; for upright scales they enclose low and high, for `whole` ones they lie between.

    >>> ticks(0.07, 0.93).tolist()
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 25, whole=True).tolist()
    [5.0, 10.0, 15.0, 20.0, 25.0]
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        low, high = 0.0, 1.0
    if high - low <= max(1e-6 * max(abs(low), abs(high)), 1e-8):  # one value, but for what a float forgets
        low, high = low - abs(low) / 2 - 0.1, high + abs(high) / 2 + 0.1
    rough = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(round(step), 1)
        first, last = np.ceil(low / step), np.floor(high / step)
    else:
        first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return np.round(np.arange(first, last + 1) * step, 12)


def label(value: float, scale: np.ndarray) -> str:
    """A number of a scale with as many digits as its steps need."""
    step = scale[1] - scale[0] if len(scale) > 1 else 1.0
    digits = int(max(0, np.ceil(-np.log10(step) - 1e-9)))
    if round(step * 10**digits, 9) % 1:
        digits += 1
    return f"{value:.{digits}f}"
