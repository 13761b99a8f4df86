"""Colour images as single files, `<folder>/<name>`: their pixels, and their sizes without decoding them."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.errors import UserError
from common.files import existing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class ImageError(UserError):
    """An image that cannot be used: missing, unreadable, or of an unknown depth. Names the file."""


def decode(data: bytes | np.ndarray, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray | None:
    """The pixels of an image file's bytes as OpenCV gives them; None where they are none, or more than it bears."""
    data = np.frombuffer(data, np.uint8)
    try:
        return cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        return None


def read_rgb(path: Path) -> np.ndarray:
    """An image (height, width, 3), RGB, uint8 or uint16 as the file is; a grey one has three equal channels.

    As its pixels are stored: boxes are drawn on those, whatever orientation the camera noted beside them.
    """
    if not path.exists():
        raise ImageError(f"{path} is missing")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    image = decode(path.read_bytes(), flags)
    if image is None:
        raise ImageError(f"{path} is not a readable image")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{path} has depth {image.dtype}; 8 or 16 bits are right")
    return np.ascontiguousarray(image[..., ::-1])


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, from the file's header."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise ImageError(f"{path} is missing") from None
    except Exception as error:  # a damaged header can fail in any way
        raise ImageError(f"{path} is not a readable image") from error


def list_images(folder: str | Path, what: str) -> list[str]:
    """The names of the images in a folder, sorted; `what`: the flag that named it. UserError when there are none."""
    names = sorted(path.name for path in existing(folder, what).iterdir() if path.suffix.lower() in SUFFIXES)
    if not names:
        raise UserError(f"{what} {folder} has no image ({', '.join(SUFFIXES)})")
    return names


def doubled(path: str | Path) -> Path:
    """`path`, or the same inside a folder that a download doubled: annotations/annotations/train.csv, train/train."""
    path = Path(path)
    within = path / path.name if path.is_dir() and (path / path.name).is_dir() else None
    beside = path.parent / path.parent.name / path.name
    return within or (beside if not path.exists() and beside.exists() else path)


def image_folder(path: str | Path, what: str) -> Path:
    """`path` as it is, in which a competition's image_files look; UserError when it is not there, `doubled` or not."""
    existing(doubled(path), what)
    return Path(path)


def unique_sizes(paths: Sequence[Path]) -> np.ndarray:
    """Width and height of each path, (N, 2) int; a path that comes several times is opened once."""
    known = {path: read_size(path) for path in dict.fromkeys(paths)}
    return np.array([known[path] for path in paths], np.int64).reshape(-1, 2)
