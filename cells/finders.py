"""Finders: what turns an image into cells, in two steps.

`predict` runs a network over a batch of images in the main process, where the device is; `label` turns an image and its
prediction into cells in any worker process. A finder without a network has no `predict`, its prediction is None.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cells.watershed import find_cells
from common.errors import UserError


class Finder(NamedTuple):
    """label(image, prediction) -> cells, nuclei: two label images, int32 (H, W), 0 = background, a nucleus with its
    cell's id; picklable. predict(images) -> one prediction an image. Images are (H, W, 4) RGBY, uint8 or uint16.
    """

    label: Callable[[np.ndarray, Any], tuple[np.ndarray, np.ndarray]]
    predict: Callable[[list[np.ndarray]], list] | None = None


def make_watershed(args: argparse.Namespace) -> Finder:
    """The finder `watershed`; UserError when weights are given, which it would ignore."""
    for flag in ("nuc_model", "cell_model"):
        if getattr(args, flag):
            raise UserError(f"--finder watershed uses no weights: leave out --{flag} or choose another finder")
    return Finder(label_watershed)


def label_watershed(image: np.ndarray, prediction: None) -> tuple[np.ndarray, np.ndarray]:
    """Cells and nuclei of an image, from the image alone."""
    return find_cells(image)


# Name -> what makes the finder from segment.py's flags.
FINDERS: dict[str, Callable[[argparse.Namespace], Finder]] = {"watershed": make_watershed}
