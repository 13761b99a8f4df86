"""PanNuke's files: the arrays of the official folds, read memory-mapped, or one file an image.

Arrays: `images.npy` (N, H, W, 3), `masks.npy` (N, H, W, C + 1) and `types.npy` (N) of each fold, below a folder that is
called fold1, fold2, ... (also `Fold 1/images/fold1`, as they are published). The masks' channels are the types, holding
instance ids, and last the background, 1 where there is no nucleus. The ImageID is `fold1_00012`: the fold and the place
in its arrays, from 0.

Files: `images/<ImageID>.png`, `masks/<ImageID>.npz` with an array `masks` (H, W, C + 1), and, for the tissues,
`types.csv` with `ID,type`.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from cells.images import ImageError, list_images, read_rgb, read_size
from cells.table import match_rows, read_table
from common.errors import UserError, first_line, some
from common.files import atomic, existing, safe_name

MOST_IDS = np.iinfo(np.int32).max  # of an image's instances


class Fold(NamedTuple):
    """The arrays of a fold, memory-mapped; `masks` is None where there are none (images to predict)."""

    images: np.ndarray
    masks: np.ndarray | None
    types: np.ndarray | None
    folder: Path  # of images.npy


@lru_cache(maxsize=8)
def open_folds(root: str | Path) -> dict[str, Fold]:
    """The folds below `root` by name (`fold1`, ...), checked but for their pixels; none where there are no arrays.

    UserError for a fold that is there twice, or arrays that do not fit each other, naming the file.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(path for depth in ("", "*/", "*/*/", "*/*/*/") for path in Path(root).glob(f"{depth}*.npy")):
        if path.stem not in ("images", "masks", "types"):
            continue
        own = found.setdefault(_fold_name(path), {})
        if path.stem in own:
            raise UserError(f"{_fold_name(path)} is there twice: {own[path.stem]} and {path}")
        own[path.stem] = path
    return {name: _open_fold(name, paths) for name, paths in sorted(found.items())}


def _fold_name(path: Path) -> str:
    for part in reversed(path.absolute().parts[:-1]):
        number = re.fullmatch(r"fold[ _-]?(\d+)", part, re.IGNORECASE)
        if number:
            return f"fold{int(number[1])}"
    raise UserError(f"{path} lies in no folder that says which fold it is: fold1, fold2, ...")


def _open_fold(name: str, paths: dict[str, Path]) -> Fold:
    if "images" not in paths:
        raise UserError(f"{name} has {some(paths.values())}, but no images.npy")
    arrays = {kind: open_array(path) for kind, path in paths.items()}
    images, masks, types = (arrays.get(kind) for kind in ("images", "masks", "types"))
    if images.ndim != 4 or images.shape[3] != 3 or not is_number(images):
        raise UserError(f"{paths['images']} holds {_form(images)}; numbers (N, H, W, 3) of 0 to 255 are right")
    if masks is not None and (masks.ndim != 4 or masks.shape[3] < 2 or not is_number(masks)):
        raise UserError(f"{paths['masks']} holds {_form(masks)}; instance ids (N, H, W, types + 1) are right")
    if masks is not None and masks.shape[:3] != images.shape[:3]:
        raise UserError(f"{paths['masks']} has {masks.shape[:3]} (N, H, W), but {paths['images']} {images.shape[:3]}")
    if types is not None and (types.shape != images.shape[:1] or types.dtype.kind != "U"):
        raise UserError(f"{paths['types']} holds {_form(types)}; {len(images)} texts, one an image, are right")
    return Fold(images, masks, types, paths["images"].parent)


def open_array(path: Path) -> np.ndarray:
    """An array file, memory-mapped; UserError when it is damaged or holds objects."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can fail in any way
        raise UserError(f"{path} cannot be read as an array of numbers or texts: {first_line(error)}") from error


def write_array(path: str | Path, dtype: type, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """Write a .npy file of this shape atomically, part after part along its first axis.

    Not memory-mapped: that ends the process when the disk is full.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).tobytes())


def is_number(array: np.ndarray) -> bool:
    return array.dtype.kind in "uif"


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def _place(root: str | Path, image_id: str) -> tuple[Fold, int] | None:
    """The fold of an image and its place there; None where `root` holds no arrays."""
    folds = open_folds(root)
    if not folds:
        return None
    name, _, number = image_id.rpartition("_")
    if name not in folds or not number.isdecimal() or int(number) >= len(folds[name].images):
        raise ImageError(f"{root} has no image {image_id}; it has {some(folds, 5)}, such as {next(iter(folds))}_00000")
    return folds[name], int(number)


def image_sizes(folder: str | Path, images: Sequence[str]) -> pd.DataFrame:
    """`ImageHeight,ImageWidth` of each image, without reading its pixels."""
    sizes = []
    for image_id in images:
        place = _place(folder, image_id)
        sizes.append(place[0].images.shape[1:3] if place else read_size(image_files(folder, image_id)[0])[::-1])
    return pd.DataFrame(sizes, columns=["ImageHeight", "ImageWidth"])


def digest(root: str | Path, blocks: int = 256, size: int = 4096) -> str:
    """A digest of the masks below a folder: of each file's name and length and of `blocks` parts spread over it, as the
    official arrays have gigabytes.
    """
    known = hashlib.sha256()
    folds = [fold.folder / "masks.npy" for fold in open_folds(root).values() if fold.masks is not None]
    for path in folds or sorted((Path(root) / "masks").glob("*.npz")):
        length = path.stat().st_size
        known.update(f"{path.relative_to(root)} {length} ".encode())
        with path.open("rb") as file:
            for start in sorted({length * block // blocks for block in range(blocks)}):
                file.seek(start)
                known.update(file.read(size))
    return known.hexdigest()


def image_files(folder: str | Path, image_id: str) -> list[Path]:
    """The file that holds an image, whether it exists or not."""
    place = _place(folder, image_id)
    return [place[0].folder / "images.npy"] if place else [_file(folder, "images", image_id, ".png")]


def _file(folder: str | Path, kind: str, image_id: str, suffix: str) -> Path:
    return Path(folder) / kind / f"{safe_name(image_id, 'ImageID')}{suffix}"


def read_image(folder: str | Path, image_id: str) -> np.ndarray:
    """An image (height, width, 3), RGB, uint8."""
    place = _place(folder, image_id)
    if place:
        fold, number = place
        return whole(fold.images[number], 255, fold.folder / "images.npy", image_id).astype(np.uint8)
    return read_rgb(_file(folder, "images", image_id, ".png"))


def read_masks(folder: str | Path, image_id: str, classes: Sequence[str]) -> np.ndarray:
    """The instance ids of an image's nuclei by type, (height, width, classes) int32, without the background."""
    place = _place(folder, image_id)
    if place:
        fold, number = place
        path = fold.folder / "masks.npy"
        if fold.masks is None:
            raise ImageError(f"{fold.folder} has no masks.npy")
        masks = fold.masks[number]
    else:
        path, image = _file(folder, "masks", image_id, ".npz"), _file(folder, "images", image_id, ".png")
        masks = _npz(path)
        if image.exists() and masks.shape[:2] != (size := read_size(image)[::-1]):
            raise ImageError(f"{path} has masks of {masks.shape[:2]} (height, width), but {image} has {size}")
    if masks.ndim != 3 or masks.shape[2] != len(classes) + 1 or not is_number(masks):
        raise ImageError(
            f"{path} holds {_form(masks)} for {image_id}; the {len(classes)} classes {some(classes, 5)} "
            f"and the background need {len(classes) + 1} channels (--classes names others)"
        )
    whole(masks[..., -1], 1, path, f"{image_id}, the last channel, the background")
    return whole(masks[..., :-1], MOST_IDS, path, image_id).astype(np.int32)


def _npz(path: Path) -> np.ndarray:
    try:
        with np.load(existing(path, "masks"), allow_pickle=False) as file:
            return file["masks"]
    except Exception as error:  # a damaged zip file can fail in any way
        raise ImageError(f"{path} cannot be read as a file with an array `masks`: {first_line(error)}") from error


def whole(values: np.ndarray, highest: int, path: Path, image_id: str) -> np.ndarray:
    """`values` if they are whole numbers of 0 to `highest`; PanNuke's own files keep them as float64."""
    values = np.asarray(values)
    wrong = (values.min() < 0) or (values.max() > highest)
    if wrong or (values.dtype.kind == "f" and not np.array_equal(values, np.floor(values))):
        raise ImageError(f"{path}, {image_id}: the values must be whole numbers of 0 to {highest}")
    return values


def read_metadata(path: str | Path) -> pd.DataFrame:
    """The images of a folder: columns `ID`, `fold` (text; empty for single files), `type` (the tissue), `ImageHeight`
    and `ImageWidth`.

    `path` may also be a table with a column `ID`, whose other columns are kept.
    """
    path = existing(path, "--metadata")
    if path.is_file():
        return read_table(path, {"ID": str}, key=["ID"])
    folds = open_folds(path)
    if folds:
        parts = [
            pd.DataFrame({"ID": [f"{name}_{number:05d}" for number in range(len(fold.images))], "fold": name,
                          "type": "" if fold.types is None else np.asarray(fold.types).astype(object),
                          "ImageHeight": fold.images.shape[1], "ImageWidth": fold.images.shape[2]})
            for name, fold in folds.items()
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True)
    if not (path / "images").is_dir():
        raise UserError(f"{path} has neither arrays fold<k>/images.npy nor pictures images/<ID>.png")
    names = list_images(path / "images", "--metadata")
    if others := [name for name in names if not name.endswith(".png")]:
        raise UserError(f"{path / 'images'} has {some(others)}; <ImageID>.png is right")
    ids = [Path(name).stem for name in names]
    table = pd.DataFrame({"ID": ids, "fold": "", "type": ""}).join(image_sizes(path, ids))
    if (path / "types.csv").exists():
        types = read_table(path / "types.csv", {"ID": str, "type": str}, key=["ID"])
        rows = match_rows(table, types, ["ID"], str(path / "types.csv"), exact=False)
        table["type"] = types["type"].to_numpy()[rows]
    return table
