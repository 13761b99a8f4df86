"""The crop store and the resized images: lossless PNGs, read back as (height, width, channels) arrays.

Four channels (RGBY) are one grey PNG: one above the other, red on top (height = 4 x the image's). So each channel is
compressed by itself, which is a tenth smaller than a PNG with four channels a pixel, and any viewer shows it. Three
channels are an ordinary colour PNG.

The store is a folder of shards `<ImageID>.zip`, plain zips without further compression that hold `<CellID>.png`, 8 or
16 bits. A shard belongs to one image and is written whole by one process, so that many processes can write a store.
"""

import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np

from cells.crops import resize, to_uint8
from cells.images import decode
from common.errors import UserError
from common.files import DAMAGED, atomic, existing, safe_name

# Measured on real crops: run-length matching after the left-neighbour filter is smaller than any level of full zlib
# matching, because the channels are noise to it, and several times as fast (benchmarks/crop_store.py).
PNG_SETTINGS = [
    cv2.IMWRITE_PNG_COMPRESSION, 1,
    cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB,
]  # fmt: skip
LARGEST = 1 << 30  # bytes of a crop's file
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same crops give the same bytes


def encode_png(image: np.ndarray) -> bytes:
    """An image (height, width, 4 or 3), uint8 or uint16, as the bytes of a PNG, losslessly."""
    if image.dtype not in (np.uint8, np.uint16) or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"a PNG here holds 3 or 4 channels of 8 or 16 bits, not {image.dtype} {image.shape}")
    if image.shape[2] == 3:
        return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    planes = np.concatenate([image[..., channel] for channel in range(4)])
    return cv2.imencode(".png", planes, PNG_SETTINGS)[1].tobytes()


def decode_png(data: bytes, name: str) -> np.ndarray:
    """What `encode_png` was given; UserError with `name` when `data` is something else or damaged."""
    planes = decode(data)
    if planes is None:
        raise UserError(f"{name} is not a readable PNG; remove it and run segment.py again")
    if planes.ndim == 3 and planes.shape[2] == 3:
        return np.ascontiguousarray(planes[..., ::-1])
    if planes.ndim != 2 or len(planes) % 4:
        raise UserError(f"{name} holds neither three colours nor four grey channels one above the other")
    return cv2.merge(np.split(planes, 4))


def write_image_png(path: str | Path, image: np.ndarray) -> None:
    """Write an image (height, width, 4 or 3) atomically, losslessly."""
    data = encode_png(image)
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def read_image_png(path: str | Path) -> np.ndarray:
    """An image that `write_image_png` wrote, (height, width, channels), uint8 or uint16 as it was."""
    return decode_png(existing(path, "image").read_bytes(), str(path))


def write_shard(path: str | Path, crops: dict[int, np.ndarray]) -> None:
    """Write the cells of one image, CellID -> crop (side, side, channels), as a shard: whole, or not at all.

    Equal crops give equal bytes. An image without cells has an empty shard.
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as shard:
        for cell, crop in sorted(crops.items()):
            entry = zipfile.ZipInfo(f"{cell}.png", ZIP_TIME)
            entry.create_system = 3  # the same bytes on every system
            entry.external_attr = 0o644 << 16
            shard.writestr(entry, encode_png(crop))


class Store:
    """The crops below a folder that segment.py wrote, `CROPS/<dataset>`. Holds no open file: any process may use it.

    >>> store = Store("CROPS/train")                          # doctest: +SKIP
    >>> store.read("000a6c98", 3, size=768).shape             # doctest: +SKIP
    (768, 768, 4)
    """

    def __init__(self, folder: str | Path):
        self.folder = existing(folder, "crop store")

    def images(self) -> list[str]:
        """The ImageIDs, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.zip") if not path.name.startswith("."))

    def cells(self, image_id: str) -> list[int]:
        """The CellIDs of an image, ascending; UserError when the store has no such image or its shard is damaged."""
        with self._open(image_id) as shard:
            names = shard.namelist()
        if not all(name.removesuffix(".png").isdecimal() for name in names):
            raise UserError(f"{self._path(image_id)} holds other files than <CellID>.png")
        return sorted(int(name.removesuffix(".png")) for name in names)

    def read(self, image_id: str, cell_id: int, size: int | None = None, raw: bool = False) -> np.ndarray:
        """A cell, masked and square: uint8 (side, side, channels), at `size` x `size` or as cut when that is None.

        16-bit crops are scaled to 8 bits; `raw` gives the stored depth. UserError names a missing or damaged file.
        """
        name = f"{cell_id}.png"
        with self._open(image_id) as shard:
            if name not in shard.namelist():
                raise UserError(f"{self._path(image_id)} holds no cell {cell_id}")
            try:
                length = shard.getinfo(name).file_size
                if length > LARGEST:
                    raise zipfile.BadZipFile(f"{name} unpacks to {length} bytes")
                data = shard.read(name)
            except DAMAGED as error:
                raise self._damaged(image_id, error) from None
        crop = decode_png(data, f"{name} in {self._path(image_id)}")
        if size is not None:
            crop = resize(crop, size)
        return crop if raw else to_uint8(crop)

    def checksum(self, image_id: str) -> int:
        """A number that changes when one of the image's crops does; from the shard's list alone, which has theirs."""
        with self._open(image_id) as shard:
            return zlib.crc32(repr([(entry.filename, entry.CRC) for entry in shard.infolist()]).encode())

    def _path(self, image_id: str) -> Path:
        return self.folder / f"{safe_name(image_id, 'ImageID')}.zip"

    def _open(self, image_id: str) -> zipfile.ZipFile:
        path = existing(self._path(image_id), "the crops of an image")
        try:
            return zipfile.ZipFile(path)
        except DAMAGED as error:
            raise self._damaged(image_id, error) from None

    def _damaged(self, image_id: str, error: Exception) -> UserError:
        return UserError(f"{self._path(image_id)} is damaged ({error}); remove it and run segment.py again")
