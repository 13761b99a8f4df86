"""Where pictures go."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def slug(name: str) -> str:
    """A class's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def save(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture (height, width, 3) as PNG, atomically."""
    data = cv2.imencode(".png", picture[..., ::-1])[1]
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())  # imwrite does not take every path


def save_figure(path: Path, figure: "Figure") -> None:
    """Write a figure as PNG, atomically."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
