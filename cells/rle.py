"""Run lengths as the neurons competition writes masks: `start length start length ...`, row by row, counted from 1.

Pixel 1 is the top left one, pixel 2 the one to its right; a run may go on from the end of a row to the start of the
next. An empty text is an empty mask.
"""

from collections.abc import Sequence

import numpy as np

from common.errors import UserError


def encode(mask: np.ndarray) -> str:
    """A mask (height, width) as run lengths, the longest possible; an empty mask is an empty text.

    >>> encode(np.array([[0, 1, 1], [1, 0, 1]]))
    '2 3 6 1'
    """
    return encode_labels(np.asarray(mask, bool).view(np.uint8)).get(1, "")


def encode_labels(labels: np.ndarray) -> dict[int, str]:
    """The run lengths of every cell of an integer label image (height, width; 0 = background), by label.

    Each is `encode(labels == label)`, but the image is looked at once for all cells.
    """
    flat = np.ravel(labels)
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    lengths = np.diff(starts, append=flat.size)
    inside = np.flatnonzero(flat[starts] > 0) if flat.size else starts[:0]
    inside = inside[np.argsort(flat[starts[inside]], kind="stable")]  # cell by cell, each in the order of its pixels
    cells, first = np.unique(flat[starts[inside]], return_index=True)
    words = list(map(str, np.column_stack([starts[inside] + 1, lengths[inside]]).ravel().tolist()))
    edges = np.append(2 * first, len(words)).tolist()
    return {
        cell: " ".join(words[start:end]) for cell, start, end in zip(cells.tolist(), edges[:-1], edges[1:], strict=True)
    }


def read_runs(text: str, size: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel of each run, counted from 0 and ascending, and each run's length, of an image of `size` pixels.

    UserError, beginning with `where`, when the text is no such runs, or they overlap or leave the image.
    """
    words = text.split()
    if not all(word.isascii() and word.isdecimal() and len(word) < 16 for word in words):
        wrong = next(word for word in words if not (word.isascii() and word.isdecimal() and len(word) < 16))
        raise UserError(f"{where}: {wrong[:20]!r} in the run lengths is not a pixel's number or a length, from 1 on")
    if len(words) % 2:
        raise UserError(f"{where}: {len(words)} numbers are no run lengths; pairs of start and length are right")
    starts, lengths = np.array(words, np.int64).reshape(-1, 2).T
    if (starts == 0).any() or (lengths == 0).any():
        raise UserError(f"{where}: a start or a length is 0; pixels and lengths count from 1")
    if (starts + lengths - 1 > size).any():
        raise UserError(f"{where}: a run ends at pixel {(starts + lengths - 1).max()}, but the image has {size} pixels")
    order = np.argsort(starts, kind="stable")
    starts, lengths = starts[order], lengths[order]
    crossing = np.flatnonzero(starts[1:] < starts[:-1] + lengths[:-1])
    if len(crossing):
        raise UserError(f"{where}: its runs overlap at pixel {starts[crossing[0] + 1]}")
    return starts - 1, lengths


def pixels(text: str, size: int, where: str) -> np.ndarray:
    """The pixels of a mask as positions in the flattened image, ascending. UserError as in `read_runs`."""
    starts, lengths = read_runs(text, size, where)
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def decode(text: str, height: int, width: int, where: str = "mask") -> np.ndarray:
    """Run lengths as a boolean mask (height, width). UserError as in `read_runs`.

    >>> decode("2 3 6 1", 2, 3).astype(int)
    array([[0, 1, 1],
           [1, 0, 1]])
    """
    mask = np.zeros(height * width, bool)
    mask[pixels(text, height * width, where)] = True
    return mask.reshape(height, width)


def decode_layers(texts: Sequence[str], height: int, width: int, where: Sequence[str]) -> list[np.ndarray]:
    """The masks of an image as label images, int32 (height, width), the first mask with label 1.

    Each mask is whole in the first image where it covers no other: masks that do not overlap make one image. `where`
    names each mask for errors, which are those of `read_runs`.
    """
    layers: list[np.ndarray] = [np.zeros(height * width, np.int32)]
    for label, (text, own) in enumerate(zip(texts, where, strict=True), start=1):
        inside = pixels(text, height * width, own)
        free = next((layer for layer in layers if not layer[inside].any()), None)
        if free is None:
            free = np.zeros(height * width, np.int32)
            layers.append(free)
        free[inside] = label
    return [layer.reshape(height, width) for layer in layers]
