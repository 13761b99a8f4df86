"""Where pictures go."""

import re
from pathlib import Path

import cv2
import numpy as np

from common.files import atomic


def slug(name: str) -> str:
    """A class's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def save(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture (height, width, 3) as PNG, atomically."""
    data = cv2.imencode(".png", picture[..., ::-1])[1]
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())  # imwrite does not take every path
