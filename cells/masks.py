"""Mask text: boolean mask -> COCO run lengths (column by column) -> zlib level 9 -> base64, as the submission has it.

The run lengths alternate background, mask, background, ...; from the fourth on, each is stored as its difference from
the one two before it, in characters of 5 bits, lowest first, with a sixth bit that says "more" and an offset of 48.
"""

import base64
import binascii
import zlib
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco

from common.errors import UserError

LONGEST_NUMBER = 7  # characters of 5 bits: enough for 2**34 pixels


def encode_mask(mask: np.ndarray) -> str:
    """A boolean mask (height, width) as mask text; an empty mask has a text, too."""
    return _pack(coco.encode(np.asfortranarray(mask, np.uint8))["counts"])


def encode_label_image(labels: np.ndarray) -> dict[int, str]:
    """The mask text of every cell of an integer label image (height, width; 0 = background), by label.

    Each is `encode_mask(labels == label)`, byte for byte, but the image is looked at once for all cells.
    """
    starts, owners = _runs(labels)
    ends = np.append(starts[1:], labels.size)
    inside = np.flatnonzero(owners > 0)
    inside = inside[np.argsort(owners[inside], kind="stable")]  # cell by cell, each in the order of its pixels
    counts, cells, sizes = _run_lengths(starts[inside], ends[inside], owners[inside], labels.size)
    text, lengths = _to_characters(_differences(counts, np.cumsum(sizes) - sizes))
    edges = np.append(0, np.cumsum(lengths))[np.append(0, np.cumsum(sizes))].tolist()
    return {
        cell: _pack(text[start:end]) for cell, start, end in zip(cells.tolist(), edges[:-1], edges[1:], strict=True)
    }


def decode_mask(text: str, height: int, width: int) -> np.ndarray:
    """Mask text as a boolean mask (height, width). UserError when the text is damaged or is of another size."""
    edges = np.cumsum(_read(text, height, width)[1]).tolist()
    column_wise = np.zeros(height * width, bool)
    for start, end in zip(edges[0::2], edges[1::2], strict=False):
        column_wise[start:end] = True
    return column_wise.reshape(width, height).T


def decode_rle(text: str, height: int, width: int) -> dict:
    """Mask text as pycocotools' `{"size": [height, width], "counts": bytes}`, checked, for its `iou`, `area`, `decode`.

    UserError when the text is damaged or its runs do not add up to height x width pixels.
    """
    return {"size": [height, width], "counts": _read(text, height, width)[0]}


def decode_rles(texts: Sequence[str], height: int, width: int) -> list[dict]:
    """`decode_rle` of many masks of one image, checked all at once: several times as fast as one by one."""
    counts = [_unpack(text, limit=2 * height * width + 16) for text in texts]
    if counts and not _all_fit(counts, height * width):
        return [decode_rle(text, height, width) for text in texts]  # says which one is wrong, and how
    return [{"size": [height, width], "counts": own} for own in counts]


def _all_fit(counts: Sequence[bytes], size: int) -> bool:
    """Whether the run lengths in each of the COCO texts add up to `size` and none is below zero."""
    ends = np.cumsum([len(own) for own in counts])
    digits = np.frombuffer(b"".join(counts), np.uint8)
    if not all(counts) or (digits[ends - 1] >= 80).any():  # a text must not end amid a number
        return False
    try:
        values = _numbers(b"".join(counts))
    except UserError:
        return False
    after = np.cumsum(digits < 80)[ends - 1]  # where the numbers of each text end
    first = np.append(0, after[:-1])
    place = np.arange(len(values)) - np.repeat(first, after - first)
    total = values[first]
    fits = (total >= 0).all()
    for start in (1, 2):  # from here on, each number counts from the one two before it
        chain = np.flatnonzero((place >= start) & ((place - start) & 1 == 0))
        sums = np.append(0, np.cumsum(values[chain]))
        edges = np.searchsorted(chain, np.append(first, len(values)))
        lengths = sums[1:] - np.repeat(sums[edges[:-1]], np.diff(edges))
        fits &= (lengths >= 0).all()
        partial = np.append(0, np.cumsum(lengths))
        total += partial[edges[1:]] - partial[edges[:-1]]
    return bool(fits and (total == size).all())


def _read(text: str, height: int, width: int) -> tuple[bytes, np.ndarray]:
    """A mask text's COCO characters and the run lengths that they stand for."""
    counts = _unpack(text, limit=2 * height * width + 16)  # more characters than any mask of this size needs
    lengths = _from_characters(counts)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise UserError(f"mask text {_short(text)} does not fit an image of {width} x {height} pixels")
    return counts, lengths


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a run of equal labels starts, as positions column by column, ascending, and the label of each run."""
    height, width = labels.shape
    rows, columns = np.divmod(np.flatnonzero(labels[1:] != labels[:-1]), width)  # far faster than nonzero
    tops = np.flatnonzero(np.append(True, labels[0, 1:] != labels[-1, :-1]))  # else the run goes on from the left
    starts = np.concatenate([tops * height, columns * height + rows + 1])
    owners = np.concatenate([labels[0, tops], labels[rows + 1, columns]])
    order = np.argsort(starts)
    return starts[order], owners[order]


def _run_lengths(starts: np.ndarray, ends: np.ndarray, owners: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """Run lengths of all cells one after the other, the cells' labels, and how many lengths each cell has."""
    cells, first, runs = np.unique(owners, return_index=True, return_counts=True)
    last = first + runs - 1
    before = np.append(0, ends[:-1])  # where the background run before each run begins
    before[first] = 0
    counts = np.column_stack([starts - before, ends - starts]).ravel()
    rest = size - ends[last]  # background after a cell's last run, unless the cell reaches the last pixel
    tail = rest > 0
    return np.insert(counts, 2 * (last[tail] + 1), rest[tail]), cells, 2 * runs + tail


def _differences(counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Each count less the one two before it, except each cell's first three (`first`: where a cell begins)."""
    values = counts.copy()
    values[2:] -= counts[:-2]
    plain = (first[:, None] + np.arange(3)).ravel()  # of a cell with two counts, the next one's first
    plain = plain[plain < len(counts)]
    values[plain] = counts[plain]
    return values


def _to_characters(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Signed numbers as COCO's characters, and how many characters each number takes."""
    magnitude = np.where(values < 0, ~values, values)
    lengths = 1 + sum((magnitude >= 1 << (5 * n - 1)).astype(np.int64) for n in range(1, LONGEST_NUMBER))
    place = np.arange(LONGEST_NUMBER)
    digits = (values[:, None] >> (5 * place)) & 31
    digits += 48 + 32 * (place < lengths[:, None] - 1)
    return digits.astype(np.uint8)[place < lengths[:, None]].tobytes(), lengths


def _from_characters(text: bytes) -> np.ndarray:
    """Run lengths from COCO's characters; UserError when they are not such characters."""
    values = _numbers(text)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _numbers(text: bytes) -> np.ndarray:
    """The signed numbers that COCO's characters spell; UserError when they are not such characters."""
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] > 31:
        raise UserError("mask text is damaged: what it unpacks to are not COCO run lengths")
    last = np.flatnonzero(digits < 32)
    first = np.append(0, last[:-1] + 1)
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    if place.max() >= LONGEST_NUMBER:
        raise UserError("mask text is damaged: a run length in it is too long")
    values = np.add.reduceat((digits & 31) << (5 * place), first)
    values -= (digits[last] >> 4 & 1) << (5 * (place[last] + 1))  # the highest bit is the sign
    return values


def _pack(counts: bytes) -> str:
    return base64.b64encode(zlib.compress(counts, 9)).decode("ascii")


def _unpack(text: str, limit: int) -> bytes:
    """The bytes in a mask text, at most `limit` of them: a small text can claim to hold gigabytes."""
    try:
        unzip = zlib.decompressobj()
        counts = unzip.decompress(base64.b64decode(text, validate=True), limit)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UserError(f"mask text {_short(text)} is damaged: {error}") from None
    if not unzip.eof or unzip.unused_data:
        raise UserError(f"mask text {_short(text)} is damaged: it is cut off, or longer than any mask of its image")
    return counts


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}..."
