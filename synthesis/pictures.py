"""What the microscope pictures of every made-up data set are drawn with: requests, outlines, stains and a camera.

Stained slides are drawn as *optical density*, float32 (height, width, 3): densities of translucent things add up where
they overlap, and light x 10^-density is what the camera sees (Beer-Lambert).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from cells.table import read_table
from common.errors import UserError
from common.files import atomic
from common.seeds import rng
from synthesis.cells import soft
from synthesis.channels import smooth_noise

SUBPIXEL = 4  # bits of cv2.fillPoly's fixed-point coordinates
JPEG_QUALITY = 92
PNG_EFFORT = 1  # zlib level: five times as fast as the default, files a tenth larger


@dataclass(frozen=True)
class Request:
    """What an image depends on besides its split and index."""

    seed: int
    width: int
    height: int
    cells: tuple[int, int] | None = None  # lowest and highest number; None: as many as real images of this area have
    balance: str = "natural"


class Patch(NamedTuple):
    """A shape in an image: the rows and columns of its box, and how much of each pixel it covers (0..1)."""

    place: tuple[slice, slice]
    alpha: np.ndarray


def image_id(request: Request, split: str, index: int) -> str:
    """The id of an image, 12 hexadecimal digits: the same for the same seed."""
    return rng(request.seed, split, index, "id").bytes(6).hex()


def frequencies(counts: Iterable[float], balance: str) -> np.ndarray:
    """How often each class is drawn: as `counts` has it ("natural"), or all alike ("flat"); sums to 1."""
    counts = np.array(list(counts), float)
    return counts / counts.sum() if balance == "natural" else np.full(len(counts), 1 / len(counts))


def how_many(draw: np.random.Generator, request: Request, usual: float, spread: float) -> int:
    """The number of cells of an image: from the request, else log-normal with the mean `usual`, at least 1."""
    if request.cells:
        return int(draw.integers(request.cells[0], request.cells[1] + 1))
    return max(1, round(usual * draw.lognormal(-(spread**2) / 2, spread)))


def outline(
    draw: np.random.Generator,
    radius: float,
    stretch: float = 1.0,
    angle: float | None = None,
    rough: float = 0.08,
    waves: int = 5,
    points: int = 48,
) -> np.ndarray:
    """A closed contour (points, 2) of x, y about 0: an ellipse of the area of a circle, whose radius waves by `rough`.

    Few points make it angular. angle: direction of its length, radians (None: any).
    """
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    order = np.arange(2, 2 + waves)[:, None]
    height = rough * draw.standard_normal((waves, 1)) / np.sqrt(order - 1)
    reach = radius * np.exp((height * np.cos(order * turn + draw.uniform(0, 2 * np.pi, (waves, 1)))).sum(axis=0))
    angle = draw.uniform(0, np.pi) if angle is None else angle
    x, y = reach * np.cos(turn) * np.sqrt(stretch), reach * np.sin(turn) / np.sqrt(stretch)
    return np.column_stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)])


def fill(contour: np.ndarray, shape: tuple[int, ...], soften: float = 1.0) -> Patch | None:
    """The inside of a contour (N, 2) of x, y in an image of `shape`, its edge blurred; None when it lies outside."""
    margin = int(3 * soften) + 1
    low = np.clip(np.floor(contour.min(axis=0)).astype(int) - margin, 0, (shape[1], shape[0]))
    high = np.clip(np.ceil(contour.max(axis=0)).astype(int) + margin, 0, (shape[1], shape[0]))
    if (high <= low).any():
        return None
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    corners = np.round((contour - low) * 2**SUBPIXEL).astype(np.int32)
    cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, SUBPIXEL)
    return Patch((slice(low[1], high[1]), slice(low[0], high[0])), soft(mask * np.float32(1 / 255), soften))


def rim(patch: Patch, width: float) -> np.ndarray:
    """1 at the edge of a patch, falling to 0 over about `width` pixels inside it; 0 outside."""
    depth = cv2.distanceTransform((patch.alpha > 0.5).view(np.uint8), cv2.DIST_L2, 3)
    return patch.alpha * np.exp(depth * np.float32(-1 / width))


def density(*rgb: float) -> np.ndarray:
    """The optical density (3,) that turns white light into a colour of 0..255."""
    return -np.log10(np.array(rgb, np.float32) / 255)


def stain(canvas: np.ndarray, place: tuple[slice, slice], amount: np.ndarray, colour: np.ndarray) -> None:
    """Add `amount` (height, width) of a dye of density `colour` (3,) to a canvas, in place."""
    canvas[place] += amount[..., None] * colour


def bleach(canvas: np.ndarray, patch: Patch, share: float) -> None:
    """Take a share of all dyes away under a patch, in place."""
    canvas[patch.place] *= (1 - share * patch.alpha)[..., None]


def dots(
    draw: np.random.Generator, shape: tuple[int, ...], points: np.ndarray, radius: tuple[float, float]
) -> np.ndarray:
    """Small discs at points (N, 2) of x, y, radii between two bounds, as float32 0..1 of `shape`."""
    mask = np.zeros(shape[:2], np.uint8)
    scale = 2**SUBPIXEL
    for (x, y), size in zip(points, draw.uniform(*radius, len(points)), strict=True):
        cv2.circle(mask, (round(x * scale), round(y * scale)), round(size * scale), 255, -1, cv2.LINE_AA, SUBPIXEL)
    return soft(mask * np.float32(1 / 255), 0.6)


def expose(
    draw: np.random.Generator, canvas: np.ndarray, light: Iterable[float], blur: float, grain: float
) -> np.ndarray:
    """What a camera sees of a slide: uneven `light` (red, green, blue), blur, noise of `grain` levels; uint8 RGB."""
    height, width = canvas.shape[:2]
    seen = cv2.exp(canvas * np.float32(-np.log(10)))
    shade = 1 + 0.025 * smooth_noise(draw, height, width, max(height, width) / 3)
    seen *= shade[..., None] * np.array(list(light), np.float32)
    if blur >= 0.35:
        seen = cv2.GaussianBlur(seen, (0, 0), blur)
    noise = soft(draw.standard_normal((height, width), np.float32), 0.5) * np.float32(1.4 * grain)
    colour = draw.standard_normal((-(-height // 2), -(-width // 2), 3), np.float32) * np.float32(0.6 * grain)
    seen += noise[..., None]
    seen += cv2.resize(colour, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.convertScaleAbs(np.maximum(seen, 0, out=seen))


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 or uint16 grey (height, width) or RGB (height, width, 3) as PNG or JPEG, as the path says."""
    jpeg = path.suffix == ".jpg"
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if jpeg else [cv2.IMWRITE_PNG_COMPRESSION, PNG_EFFORT]
    pixels = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    with atomic(path) as temporary:
        temporary.write_bytes(cv2.imencode(path.suffix, pixels, options)[1].tobytes())


def truths_of(
    image_files: Callable, out_dir: Path, request: Request, counts: dict[str, int], columns: dict[str, type]
) -> dict[str, pd.DataFrame]:
    """The truth rows of each split's images as one table; image_files: the competition's, (picture, truth rows)."""
    truths = {}
    for split, count in counts.items():
        files = [image_files(out_dir, request, split, index) for index in range(count)]
        check_ids([picture.name for picture, _ in files])
        truths[split] = join_parts((part for _, part in files), columns)
    return truths


def join_parts(parts: Iterable[Path], columns: dict[str, type]) -> pd.DataFrame:
    """The tables of single images, one below the other; empty ones give none of their types away."""
    tables = [read_table(part, columns) for part in parts]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(columns))


def check_ids(names: list[str]) -> None:
    """UserError when two images would have the same name (one in 10^8 sets of a thousand images)."""
    if len(set(names)) < len(names):
        raise UserError("two images of this set would have the same name; choose another --seed")
